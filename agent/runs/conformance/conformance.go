// Package conformance is the one test of all trackers. It may be compiled into
// any test binary (`go test -c`) and run wherever the tracker works: scope, for
// example, in a container that systemd has booted.
//
// It needs root, cat and nothing else. All processes that it starts end with the test.
package conformance

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
)

// Options describe what is tested.
type Options struct {
	Ctl   *runctl.Dir // of all trackers that New makes
	Mount string      // of the hierarchy, below which Run.Cgroup lies
	Short bool        // fewer runs in the tests of many
	Polls bool        // the tracker looks once a second
	UID   uint32      // as whom launch starts applications

	Session         uint32 // applications run below this user's manager; 0 if below none
	SessionServices bool   // services too
}

// Conformance runs all tests. New makes a tracker on the run directory of
// o.Ctl; it is called repeatedly, each time after the former one was closed. Launch starts a
// process in a run.
func Conformance(t *testing.T, New func(*testing.T) runs.Tracker, launch LaunchFunc, o Options) {
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"FirstAndLast", firstAndLast},
		{"Nested", nested},
		{"Events", events},
		{"TwoInstances", twoInstances},
		{"TwoUsers", twoUsers},
		{"ManyShort", manyShort},
		{"ForkStorm", forkStorm},
		{"VanishingDuringRead", vanishing},
		{"Stopped", stopped},
		{"Frozen", frozen},
		{"LeaderGone", leaderGone},
		{"ZombieLeader", zombieLeader},
		{"Unreadable", unreadable},
		{"Services", services},
		{"KillService", killService},
		{"KillFrozenService", killFrozenService},
		{"AgentDown", agentDown},
		{"AgentDownAndBack", agentDownAndBack},
		{"LaunchersLock", launchersLock},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, New: New, launch: launch, o: o}
			for _, i := range []string{app, other, near} {
				s.no(o.Ctl.CreateInstance(i))
			}
			s.open()
			t.Cleanup(func() {
				s.no(s.tr.Close())
				for _, i := range []string{app, other, near} {
					s.no(o.Ctl.RemoveInstance(i))
				}
			})
			c.run(s)
		})
	}
}

// The instances: one, another key of it, and one whose name begins alike.
const (
	app   = "org.lull-test.app"
	other = "org.lull-test.app_2"
	near  = "org.lull-test.app.plus"
)

var (
	pkg  = digest.Of([]byte("a package"))
	pkg2 = digest.Of([]byte("another package"))
)

type suite struct {
	*testing.T
	New    func(*testing.T) runs.Tracker
	launch LaunchFunc
	o      Options
	tr     runs.Tracker
}

func (s *suite) open() { s.Helper(); s.tr = s.New(s.T) }

func (s *suite) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) start(instance, service string, extra ...string) *Proc {
	s.Helper()
	return s.begin(Launch{Instance: instance, Package: pkg, Service: service, Command: extra})
}

func (s *suite) begin(l Launch) *Proc {
	s.Helper()
	p := s.launch(s.T, s.tr, l)
	s.Cleanup(p.stop)
	return p
}

// busy is the tracker's answer now.
func (s *suite) busy(instance string) []int {
	s.Helper()
	ps, err := s.tr.Busy(instance)
	s.no(err)
	return pids(ps)
}

func pids(ps []runs.Process) []int {
	list := []int{}
	for _, p := range ps {
		list = append(list, p.PID)
	}
	slices.Sort(list)
	return list
}

func (s *suite) want(instance string, ps ...*Proc) {
	s.Helper()
	want := []int{}
	for _, p := range ps {
		want = append(want, p.PID)
	}
	slices.Sort(want)
	if got := s.busy(instance); !slices.Equal(got, want) {
		s.Fatalf("%s: processes %v run, want %v", instance, got, want)
	}
}

// patience is for events on a slow machine; polling trackers need two seconds.
const patience = 30 * time.Second

// await waits for a condition, and looks only when the tracker gives a hint: a
// lost event makes it fail.
func (s *suite) await(what string, ok func() bool) {
	s.Helper()
	deadline := time.After(patience)
	for {
		select {
		case <-s.tr.Changes():
			if ok() {
				return
			}
		case <-deadline:
			s.Fatalf("no event has reported that %s", what)
		}
	}
}

// quiet takes the hints that there are, so that the next one is about what
// comes next. They come to an end.
func (s *suite) quiet() {
	s.Helper()
	end := time.After(patience)
	calm := 100 * time.Millisecond
	if s.o.Polls {
		calm = 1500 * time.Millisecond
	}
	for {
		select {
		case <-s.tr.Changes():
		case <-time.After(calm):
			return
		case <-end:
			s.Fatal("hints keep coming, although nothing happens")
		}
	}
}

func (s *suite) awaitVacant(instance string) {
	s.Helper()
	s.await(instance+" is vacant", func() bool { return len(s.busy(instance)) == 0 && !s.running(instance) })
}

func (s *suite) running(instance string) bool {
	s.Helper()
	there, err := s.o.Ctl.Running(instance)
	s.no(err)
	return there
}

// run returns the run that a process is in.
func (s *suite) run(p *Proc) (runs.Run, bool) {
	s.Helper()
	all, err := s.tr.Runs()
	s.no(err)
	for _, r := range all {
		if slices.Contains(pids(r.Processes), p.PID) {
			return r, true
		}
	}
	return runs.Run{}, false
}

func (s *suite) dir(p *Proc) string {
	s.Helper()
	r, ok := s.run(p)
	if !ok {
		s.Fatalf("process %d is in no run", p.PID)
	}
	return filepath.Join(s.o.Mount, r.Cgroup)
}

func firstAndLast(s *suite) {
	s.want(app)
	if s.running(app) {
		s.Fatal(".running is there before anything runs")
	}
	first := s.start(app, "")
	s.want(app, first)
	s.await(".running is there", func() bool { return s.running(app) })
	r, _ := s.run(first)
	if r.Instance != app || r.PackagePrefix != pkg.Short() || r.Service != "" || len(r.Processes) != 1 {
		s.Fatalf("the run is %+v", r)
	}
	if p := r.Processes[0]; p.Command != "cat" || p.UID != s.o.UID {
		s.Fatalf("the process is %+v", p)
	}
	second := s.begin(Launch{Instance: app, Package: pkg2})
	s.want(app, first, second)
	if r2, _ := s.run(second); r2.PackagePrefix != pkg2.Short() || r2.Cgroup == r.Cgroup {
		s.Fatalf("the second run is %+v, the first %+v", r2, r)
	}
	first.End()
	s.await("the first run has ended", func() bool { _, there := s.run(first); return !there })
	s.want(app, second)
	if !s.running(app) {
		s.Fatal(".running is gone while the second runs")
	}
	second.End()
	s.awaitVacant(app)
	third := s.start(app, "")
	s.want(app, third)
	third.End()
	s.awaitVacant(app)
}

// events checks that the end of each run, of an application and of a service,
// is reported by a hint after it, without a query.
func events(s *suite) {
	a, b, d := s.start(app, ""), s.start(app, ""), s.start(app, "daemon")
	for _, p := range []*Proc{a, d, b} {
		s.quiet()
		p.End()
		s.await("a run has ended", func() bool {
			_, there := s.run(p)
			return !there && s.running(app) == (p != b)
		})
	}
}

func nested(s *suite) {
	p := s.start(app, "")
	dir := s.dir(p)
	deep := filepath.Join(dir, "a", "b")
	s.no(os.MkdirAll(deep, 0o755))
	s.no(os.Mkdir(filepath.Join(dir, "c"), 0o755))
	s.no(cgroup.Join(deep, p.PID))
	s.want(app, p)
	s.await(".running is there", func() bool { return s.running(app) })
	p.End()
	s.awaitVacant(app)
}

func twoInstances(s *suite) {
	a, b, c := s.start(app, ""), s.start(other, ""), s.start(near, "")
	s.want(app, a)
	s.want(other, b)
	s.want(near, c)
	a.End()
	s.awaitVacant(app)
	s.want(other, b)
	s.want(near, c)
	c.End()
	s.awaitVacant(near)
	s.want(other, b)
	b.End()
	s.awaitVacant(other)
}

func services(s *suite) {
	d := s.start(app, "daemon")
	s.want(app)
	if s.running(app) {
		s.Fatal("a service makes .running")
	}
	s.wantService(app, "daemon", d)
	s.wantService(app, "", d)
	s.wantService(app, "other")
	a := s.start(app, "")
	s.want(app, a)
	a.End()
	s.awaitVacant(app) // the daemon must not hide it
	s.wantService(app, "daemon", d)
	if r, ok := s.run(d); !ok || r.Service != "daemon" || r.Instance != app {
		s.Fatalf("the service's run is %+v, %v", r, ok)
	}
	e := s.start(app, "o-ther")
	s.wantService(app, "", d, e)
	s.wantService(other, "")
	d.End()
	s.await("the daemon has ended", func() bool { return len(s.service(app, "daemon")) == 0 })
	s.wantService(app, "", e)
	e.End()
	s.await("the other daemon has ended", func() bool { return len(s.service(app, "")) == 0 })
}

func (s *suite) kill(instance, service string) error {
	if s.o.SessionServices {
		return s.tr.KillSession(instance, service)
	}
	return s.tr.KillService(instance, service)
}

func (s *suite) service(instance, service string) []int {
	s.Helper()
	read, never := s.tr.ServiceProcs, s.tr.SessionProcs
	if s.o.SessionServices {
		read, never = never, read
	}
	if ps, err := never(instance, service); err != nil || len(ps) > 0 {
		s.Errorf("service %q of %s runs where it does not: %v, %v", service, instance, ps, err)
	}
	ps, err := read(instance, service)
	s.no(err)
	return pids(ps)
}

func (s *suite) wantService(instance, service string, ps ...*Proc) {
	s.Helper()
	want := []int{}
	for _, p := range ps {
		want = append(want, p.PID)
	}
	slices.Sort(want)
	if got := s.service(instance, service); !slices.Equal(got, want) {
		s.Fatalf("service %q of %s: processes %v run, want %v", service, instance, got, want)
	}
}

func killService(s *suite) {
	a := s.start(app, "")
	d := s.start(app, "daemon", helper(s.T, "forks")...)
	_, err := io.WriteString(d.stdin, "go\n") // not before: what it forks must be in its run
	s.no(err)
	d.await(s.T, "forks\n")
	k := s.start(app, "kept")
	s.no(d.Signal(syscall.SIGSTOP))
	if n := len(s.service(app, "daemon")); n < 2 {
		s.Fatalf("the daemon has %d processes", n)
	}
	s.no(s.kill(app, "daemon"))
	s.wantService(app, "daemon")
	s.wantService(app, "kept", k)
	s.want(app, a)
	s.no(s.kill(app, ""))
	s.wantService(app, "")
	s.want(app, a)
	s.no(s.kill(app, "")) // no process is left
	d.End()
	k.End()
	a.End()
	s.awaitVacant(app)
}

// agentDown lets the application end while no tracker is there.
func agentDown(s *suite) {
	p := s.start(app, "")
	s.await(".running is there", func() bool { return s.running(app) })
	s.no(s.tr.Close())
	p.End()
	s.open()
	s.want(app)
	s.awaitVacant(app)
}

func agentDownAndBack(s *suite) {
	p := s.start(app, "")
	d := s.start(app, "daemon")
	s.no(s.tr.Close())
	s.open()
	s.want(app, p)
	s.wantService(app, "daemon", d)
	s.await(".running is there", func() bool { return s.running(app) })
	p.End()
	s.awaitVacant(app)
	d.End()
	s.await("the daemon has ended", func() bool { return len(s.service(app, "")) == 0 })
}

// launchersLock has a run end while a launcher holds the read lock, and while
// the agent holds the write lock: the event must come all the same.
func launchersLock(s *suite) {
	for _, write := range []bool{false, true} {
		p := s.start(app, "")
		s.await(".running is there", func() bool { return s.running(app) })
		var lock *runctl.Lock
		var err error
		if write {
			lock, _, err = s.o.Ctl.TryWriteLock(app)
		} else {
			lock, err = s.o.Ctl.ReadLock(s.Context(), app)
		}
		s.no(err)
		s.Cleanup(func() { lock.Unlock() })
		s.want(app, p)
		p.End()
		s.await("the run has ended", func() bool { return len(s.busy(app)) == 0 })
		s.no(lock.Unlock())
		s.want(app)
	}
}
