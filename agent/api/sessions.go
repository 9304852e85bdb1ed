package api

import (
	"errors"
	"slices"
	"sync"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/refresh"
	bus "github.com/lull/lull/dbus"
)

// sessions gives the work of refreshes to users' helpers. Of several helpers of
// one user the oldest has it; when that one leaves, the next gets the
// unanswered work. The bus identifies the user of a helper.
type sessions struct {
	mu    sync.Mutex // guards what follows; sending under it keeps the order
	s     *Service   // nil until there is one
	users map[uint32]*person
}

// person is a user with at least one helper.
type person struct {
	helpers []string // names on the bus, the oldest first
	jobs    []job    // that have not been answered, the oldest first
}

type job struct {
	refresh.Work
	answers chan<- refresh.Answer // with room; nil if there is no waiter
}

func (j job) answer(a refresh.Answer) {
	if j.answers != nil {
		j.answers <- a
	}
}

// Tell implements refresh.Sessions.
func (x *sessions) Tell(w refresh.Work) (asked []uint32, answers <-chan refresh.Answer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := make(chan refresh.Answer, len(x.users))
	for uid, u := range x.users {
		u.jobs = slices.DeleteFunc(u.jobs, func(j job) bool { return j.Instance == w.Instance && outdated(j.Work, w) })
		x.giveLocked(u, job{w, c})
		asked = append(asked, uid)
	}
	return asked, c
}

// outdated reports whether work is obsolete when more arrives for the same
// instance.
func outdated(old, now refresh.Work) bool {
	return old.ID != now.ID || old.Phase == now.Phase || old.Phase == refresh.SessionPrecopy || old.Phase == refresh.SessionEnter ||
		now.Phase == refresh.SessionEnter
}

func (x *sessions) giveLocked(u *person, j job) {
	u.jobs = append(u.jobs, j)
	x.sendLocked(u, j)
}

func (x *sessions) sendLocked(u *person, j job) {
	sig := bus.HelperWork{ID: j.ID, Phase: string(j.Phase), Services: []bus.SessionService{}, Work: bus.SessionWork{
		Instance: j.Instance, Root: x.s.m.Root, RunDir: x.s.m.RunDir, FromRevision: j.From, ToRevision: j.To, Data: j.Data}}
	for _, s := range j.Services {
		sig.Services = append(sig.Services, bus.SessionService{Name: s.Name, StopSignal: s.StopSignal,
			StopTimeout: uint64(max(0, s.StopTimeout) / 1000)})
		if s.Ready == manifest.ReadyNotify {
			sig.Work.Notifying = append(sig.Work.Notifying, s.Name)
		}
	}
	if err := x.s.server.SendTo(u.helpers[0], bus.AgentPath, sig); err != nil {
		x.s.log.Warn("cannot give a helper its work", "name", u.helpers[0], "instance", j.Instance, "phase", j.Phase, "error", err)
	}
}

// join adds a helper and reports whether it is the one that gets its user's
// work; then begin must follow.
func (x *sessions) join(name string, uid uint32) (first bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.users[uid]
	if u == nil {
		u = &person{}
		x.users[uid] = u
	}
	if !slices.Contains(u.helpers, name) {
		u.helpers = append(u.helpers, name)
	}
	return u.helpers[0] == name
}

// begin gives a helper what a session begins with.
func (x *sessions) begin(name string, uid uint32) {
	// Work that begins meanwhile is sent to this helper as well.
	list, err := x.s.m.Engine().InitialSessionWork()
	if err != nil {
		x.s.log.Error("cannot determine the work of a session", messages.Key, messages.SessionFailed, "uid", uid, "error", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.users[uid]
	if u == nil || u.helpers[0] != name {
		return
	}
	for _, w := range list {
		x.giveLocked(u, job{Work: w})
	}
}

// leave removes a helper; its successor gets its work.
func (x *sessions) leave(name string, uid uint32) {
	x.mu.Lock()
	u := x.users[uid]
	if u == nil {
		x.mu.Unlock()
		return
	}
	first := u.helpers[0] == name
	u.helpers = slices.DeleteFunc(u.helpers, func(n string) bool { return n == name })
	successor := ""
	switch {
	case len(u.helpers) == 0:
		delete(x.users, uid)
		for _, j := range u.jobs {
			x.s.log.Info("a user's helper has left before it had done its part", "refresh", j.ID, "instance", j.Instance, "phase", j.Phase, "uid", uid)
			j.answer(refresh.Answer{UID: uid, Err: refresh.ErrNoHelper})
		}
	case first:
		successor = u.helpers[0]
		for _, j := range u.jobs {
			x.sendLocked(u, j)
		}
	}
	x.mu.Unlock()
	if successor != "" {
		x.begin(successor, uid)
	}
}

// maxErrorText bounds what a helper may have written into the journal, in bytes.
const maxErrorText = 1 << 10

// done takes an answer.
func (x *sessions) done(name string, uid uint32, id, instance, phase, text string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.users[uid]
	if u == nil || u.helpers[0] != name {
		return errkind.New(errkind.NotPermitted, "cannot take the answer: this is not the helper that was given work for user %s", accounts.Name(uid))
	}
	i := slices.IndexFunc(u.jobs, func(j job) bool { return j.ID == id && j.Instance == instance && string(j.Phase) == phase })
	if i < 0 {
		return errkind.New(errkind.NotFound, "cannot take the answer: user %s has no such work", accounts.Name(uid))
	}
	a := refresh.Answer{UID: uid}
	if text != "" {
		a.Err = errors.New(text[:min(len(text), maxErrorText)])
		x.s.log.Warn("a user's session has not done its part of a refresh", messages.Key, messages.SessionFailed, "refresh", id, "instance", instance, "phase", phase, "uid", uid, "error", a.Err)
	}
	u.jobs[i].answer(a)
	u.jobs = slices.Delete(u.jobs, i, i+1)
	return nil
}
