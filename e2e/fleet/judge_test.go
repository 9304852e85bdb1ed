package fleet

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/repo"
)

// The least times between checks that the schedule promises.
const (
	afterSuccess = every / 2
	afterFailure = time.Minute
	afterStart   = 5 * time.Minute
)

// judge compares the week with what was promised.
func (w *week) judge() {
	w.Helper()
	twenty := repo.Offer{} // as the halted version was offered
	twenty.Package, twenty.Rollout.Percent = w.bad, 20
	for _, m := range w.machines {
		for _, l := range m.wants {
			want, has := w.current[l.Name], m.has[l.Name]
			switch {
			case has.pkg == want:
			case has.pkg == w.bad && l.Name == name(8) && twenty.Reaches(m.id, w.began):
			default:
				w.Errorf("%s has version %q of %s, and not the newest; its last check ended %v", m.id, has.version, l.Name, m.checks[len(m.checks)-1])
			}
		}
		m.judge(w)
	}
	if most := w.herd(time.Minute); most > 10+len(w.machines)/15 { // half an hour for all would be a thirtieth
		w.Errorf("%d of %d machines check within a minute, want at most %d", most, len(w.machines), 10+len(w.machines)/15)
	}
}

// judge checks the times of a machine's checks, and the number of its requests: one if nothing
// is new, and another one each day for the next root.
func (m *machine) judge(w *week) {
	roots := 0
	for i, c := range m.checks[min(1, len(m.checks)):] {
		before := m.checks[i]
		least := afterSuccess
		switch {
		case c.first:
			continue // switched on: settling is counted from then
		case before.err != nil:
			least = max(afterFailure, before.again)
		}
		changed := slices.ContainsFunc(w.changes, func(at time.Time) bool { return !at.Before(before.begun) && !at.After(c.ended) })
		if before.err == nil && c.err == nil && !changed && c.faults == 0 && c.news == 0 { // a rollout goes on without a change
			if c.requests > 1 {
				roots++
			}
			paths := m.paths(w, c)
			newRoot := c.requests <= 4 && slices.Contains(paths, "/metadata/2.root.json ") // the one of the day of the new keys
			if c.requests > 2 && !newRoot {
				w.Errorf("%s sends %d requests %v after the start, when nothing is new, want at most 2: %v", m.id, c.requests, c.begun.Sub(w.began), paths)
			}
		}
		came := slices.ContainsFunc(w.outages, func(o span) bool { return c.begun.After(o.to) && c.begun.Before(o.to.Add(30*time.Minute)) })
		if pause := c.begun.Sub(before.ended); pause < least && (!came || before.again > 0) {
			w.Errorf("%s checks at %v, %v after the check that ended at %v (error %v), want a pause of at least %v", m.id, c.begun.Sub(w.began), pause, before.ended.Sub(w.began), before.err, least)
		}
	}
	if roots > 9 {
		w.Errorf("%s asks for the next root in %d checks, want at most 9, one a day", m.id, roots)
	}
}

// paths are the requests of a check.
func (m *machine) paths(w *week, c check) (paths []string) {
	for _, r := range w.network.requests {
		if r.machine == m.id && !r.at.Before(c.begun) && !r.at.After(c.ended) {
			paths = append(paths, r.path+" "+r.fault)
		}
	}
	return paths
}

// herd is the largest number of checks that begin within a time.
func (w *week) herd(within time.Duration) (most int) {
	begun := map[time.Duration]int{}
	for _, m := range w.machines {
		for _, c := range m.checks {
			k := c.begun.Sub(w.began) / within
			begun[k]++
			most = max(most, begun[k])
		}
	}
	return most
}
