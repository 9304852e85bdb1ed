package manager

import (
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/repositories"
)

// followRepositories reads the repositories by schedule, and local ones as soon as
// they change, unless schedule.check is 0. After a failure, as when there is no network,
// it retries early.
func (m *Manager) followRepositories() {
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	changed, moved := make(chan struct{}, 1), make(chan struct{}, 1)
	network, leave := m.watchNetwork()
	defer leave()
	alarm := wallclock.New()
	defer alarm.Close()
	var due schedule
	failures := 0
	set := func(s schedule) { due = s; alarm.Set(due.at) }
	every := func() time.Duration { return m.Policy().Schedule.Check }
	watch := func() {
		var w func()
		if every() > 0 {
			w = m.repos.WatchLocal(changed, moved) // before the old watches are closed, so that no event is lost
		}
		if stop != nil {
			stop()
		}
		stop = w
	}
	shown := "" // the last error in the journal, which is not repeated by each check
	check := func() {
		_, err := m.Check(m.ctx, nil, Looking{})
		if m.ctx.Err() != nil {
			return
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != shown && text != "" {
			m.Log.Warn("cannot check all repositories", "error", err)
		}
		shown = text
		if failed, wait := m.repos.Unread(); failed {
			failures++
			set(afterFailure(wallclock.Now(), failures, every(), wait))
			return
		}
		failures = 0
		set(after(wallclock.Now(), every()))
	}
	watch()
	set(next(wallclock.Now(), m.repos.State().LastCheck, every()))
	for {
		select {
		case <-m.rewatch:
			watch()
			set(next(wallclock.Now(), m.repos.State().LastCheck, every()))
		case <-m.ctx.Done():
			return
		case <-moved:
			watch()
			if every() > 0 {
				check()
			}
		case <-changed:
			if every() > 0 { // else the event came before the reload that set it to 0
				check()
			}
		case <-m.later.due:
			if every() > 0 {
				check()
			}
		case <-network:
			if names := m.takeWanted(); len(names) > 0 {
				m.Log.Info("network is up: retrying requested refreshes", "instances", strings.Join(names, ", "))
				if _, err := m.Check(m.ctx, names, Looking{Asked: true}); err != nil && m.ctx.Err() == nil {
					m.Log.Warn("cannot check all repositories", "error", err)
				}
			}
			unreachable, _ := m.repos.Unreachable()
			set(onNetwork(wallclock.Now(), m.repos.State().LastCheck, every(), unreachable, due))
		case <-alarm.C():
			if now := wallclock.Now(); !due.over(now) {
				alarm.Set(due.at)
				continue
			}
			check()
		}
	}
}

// wantedFor limits how long the agent remembers a refresh that a user requested without
// a network. The agent retries the request when the network comes up.
const wantedFor = 24 * time.Hour

// takeWanted returns the wanted instances that are still installed, and clears the list.
func (m *Manager) takeWanted() (names []string) {
	for n, since := range m.repos.TakeWanted() {
		if _, _, err := m.links.Read(n); err == nil && time.Since(since) < wantedFor {
			names = append(names, n)
		}
	}
	return names
}

// Repositories returns which repositories there are and how they were read last.
func (m *Manager) Repositories() repositories.State { return m.repos.State() }
