// Package conformance is the one test of all managers of services. Like that of
// the trackers it may be compiled into any test binary and run where the manager
// works: that of systemd, for example, in a container.
//
// The started programs are real: lull-run, on a root with an installed package, tracked
// by a real tracker. It needs a shell, and all processes that it starts end with the test.
package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
)

// Options describe what is tested.
type Options struct {
	New      func(services.Launcher) services.Manager
	Tracker  runs.Options
	User     string // as whom a service may run; empty if the manager supports one user only
	Restarts bool   // a service that crashes is restarted
}

// Conformance runs all tests.
func Conformance(t *testing.T, o Options) {
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"StartAndStop", startAndStop},
		{"StopSignal", stopSignal},
		{"BoundedStop", boundedStop},
		{"Forks", forks},
		{"TwoInstances", twoInstances},
		{"AgentRestart", agentRestart},
		{"Crash", crash},
		{"CrashAtOnce", crashAtOnce},
		{"Settles", settles},
		{"Ready", ready},
		{"CrashWithoutInstance", crashWithoutInstance},
		{"CannotStart", cannotStart},
		{"Waits", waits},
		{"User", asUser},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, o: o, world: newWorld(t, o)}
			s.m = o.New(s.launcher)
			t.Cleanup(func() { s.no(s.m.Close()) })
			t.Cleanup(func() {
				for _, instance := range []string{app, other} {
					for _, name := range names {
						s.no(s.m.Stop(s.limit(), s.unit(instance, name)))
					}
				}
			})
			c.run(s)
		})
	}
}

type suite struct {
	*testing.T
	*world
	o Options
	m services.Manager
}

func (s *suite) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// patience is how long anything may take on a slow machine.
const patience = 60 * time.Second

func (s *suite) limit() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

func (s *suite) start(u services.Unit) int {
	s.Helper()
	s.no(s.m.Start(s.limit(), u))
	s.state(u, services.Active)
	pids := s.procs(u)
	if len(pids) == 0 {
		s.Fatalf("service %s of %s has no process", u.Service.Name, u.Instance)
	}
	return pids[0]
}

func (s *suite) stop(u services.Unit) {
	s.Helper()
	s.no(s.m.Stop(s.limit(), u))
	s.state(u, services.Inactive)
	if pids := s.procs(u); len(pids) > 0 {
		s.Fatalf("processes %v of service %s are left", pids, u.Service.Name)
	}
}

func (s *suite) state(u services.Unit, want string) {
	s.Helper()
	if got, err := s.m.State(s.limit(), u); err != nil || got != want {
		s.Fatalf("service %s of %s is %q, %v, want %s", u.Service.Name, u.Instance, got, err, want)
	}
}

// procs are the processes of a service, that of its lowest number first.
func (s *suite) procs(u services.Unit) []int {
	s.Helper()
	ps, err := s.launcher.Tracks.ServiceProcs(u.Instance, u.Service.Name)
	s.no(err)
	var pids []int
	for _, p := range ps {
		pids = append(pids, p.PID)
	}
	slices.Sort(pids)
	return pids
}

// await waits until ok, and checks on each hint of the tracker, and now and
// then: systemd's own states make no event for us.
func (s *suite) await(what string, ok func() bool) {
	s.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-s.launcher.Tracks.Changes():
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			s.Fatalf("waited in vain until %s", what)
		}
	}
}

// log is what the services of an instance have written.
func (s *suite) log(instance string) string {
	b, err := os.ReadFile(filepath.Join(s.root, "data", instance, "common", "log"))
	if err != nil && !os.IsNotExist(err) {
		s.Error(err)
	}
	return string(b)
}

func (s *suite) says(instance, text string) {
	s.Helper()
	s.await("the log has "+text, func() bool { return strings.Contains(s.log(instance), text+"\n") })
}

func startAndStop(s *suite) {
	u := s.unit(app, "polite")
	s.state(u, services.Inactive)
	s.no(s.m.Stop(s.limit(), u)) // nothing to stop
	pid := s.start(u)
	s.says(app, "polite runs")
	s.no(s.m.Start(s.limit(), u)) // it runs already
	if pids := s.procs(u); !slices.Contains(pids, pid) || strings.Count(s.log(app), "polite runs\n") != 1 {
		s.Errorf("it was restarted: %v, %s", pids, s.log(app))
	}
	env, err := os.ReadFile("/proc/" + itoa(pid) + "/environ")
	s.no(err)
	for _, want := range []string{"LULL_INSTANCE=" + app, "LULL_REVISION=1", "LULL_COMMON=" + filepath.Join(s.root, "data", app, "common")} {
		if !strings.Contains("\x00"+string(env), "\x00"+want+"\x00") {
			s.Errorf("it does not have %s", want)
		}
	}
	for _, private := range []string{"NOTIFY_SOCKET=", "LULL_EXEC_FD="} {
		if strings.Contains("\x00"+string(env), "\x00"+private) {
			s.Errorf("it has %s", private)
		}
	}
	if ps, err := s.launcher.Tracks.Busy(app); err != nil || len(ps) > 0 {
		s.Errorf("a service counts as the application: %v, %v", ps, err)
	}
	s.stop(u)
	s.says(app, "polite got TERM")
	s.start(u)
	s.stop(u)
}

func stopSignal(s *suite) {
	u := s.unit(app, "polite")
	u.StopSignal = "SIGUSR1"
	s.start(u)
	s.says(app, "polite runs")
	s.stop(u)
	s.says(app, "polite got USR1")
	if strings.Contains(s.log(app), "TERM") {
		s.Errorf("it got more than one signal:\n%s", s.log(app))
	}
}

// boundedStop: a service that does not heed its signal is killed in its time, and
// not before.
func boundedStop(s *suite) {
	u := s.unit(app, "stubborn")
	u.StopTimeout = manifest.Duration(time.Second)
	s.start(u)
	s.says(app, "stubborn runs")
	began := time.Now()
	s.stop(u)
	if took := time.Since(began); took < time.Second {
		s.Errorf("it was killed after %v", took)
	}
	s.start(u) // having been killed is not held against it
	s.stop(u)
}

// forks: what a service leaves behind goes with it.
func forks(s *suite) {
	u := s.unit(app, "forks")
	u.StopTimeout = manifest.Duration(time.Second)
	s.start(u)
	s.says(app, "forks runs")
	if pids := s.procs(u); len(pids) < 3 {
		s.Errorf("it has only the processes %v", pids)
	}
	s.stop(u)
}

func twoInstances(s *suite) {
	a, b := s.unit(app, "polite"), s.unit(other, "polite")
	c := s.unit(app, "stubborn")
	c.StopTimeout = manifest.Duration(time.Second)
	s.start(a)
	pid := s.start(b)
	s.start(c)
	s.stop(a)
	s.state(b, services.Active)
	s.state(c, services.Active)
	s.stop(c)
	if pids := s.procs(b); !slices.Contains(pids, pid) {
		s.Errorf("the other instance's service is another one: %v", pids)
	}
	s.stop(b)
}

// agentRestart: the next manager finds what runs.
func agentRestart(s *suite) {
	u := s.unit(app, "polite")
	pid := s.start(u)
	s.says(app, "polite runs")
	s.no(s.m.Close())
	s.m = s.o.New(s.launcher)
	s.state(u, services.Active)
	if s.m.Name() == "direct" { // a launcher may ask the second what the first has not replied to
		for _, c := range []struct {
			pid      int
			instance string
			want     bool
		}{{pid, app, true}, {pid, other, false}, {os.Getpid(), app, false}} {
			if got := s.m.Expects(c.pid, c.instance, "polite"); got != c.want {
				s.Errorf("process %d is expected as the service of %s: %v, want %v", c.pid, c.instance, got, c.want)
			}
		}
	}
	if again := s.start(u); again != pid {
		s.Errorf("process %d instead of %d", again, pid)
	}
	s.stop(u)
	s.says(app, "polite got TERM")
}

func crash(s *suite) {
	u := s.unit(app, "polite")
	pid := s.start(u)
	s.says(app, "polite runs")
	for _, p := range s.procs(u) {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			s.Fatal(err)
		}
	}
	if s.o.Restarts {
		s.await("it runs again", func() bool {
			state, err := s.m.State(s.limit(), u)
			pids := s.procs(u)
			return err == nil && state == services.Active && len(pids) > 0 && !slices.Contains(pids, pid)
		})
	} else {
		s.await("it has failed", func() bool {
			state, err := s.m.State(s.limit(), u)
			return err == nil && state == services.Failed
		})
		if again := s.start(u); again == pid {
			s.Errorf("process %d is back", pid)
		}
	}
	s.stop(u)
}

// crashAtOnce: a service that does not run is not restarted for ever.
func crashAtOnce(s *suite) {
	u := s.unit(app, "crashes")
	err := s.m.Start(s.limit(), u) // it may be noticed here, or later
	s.await("it is given up", func() bool {
		state, err := s.m.State(s.limit(), u)
		return err == nil && state == services.Failed
	})
	if pids := s.procs(u); len(pids) > 0 {
		s.Errorf("processes %v are left, %v", pids, err)
	}
	s.Logf("started %d times", strings.Count(s.log(app), "crashes runs\n"))
	s.stop(u)
}

// settles: one that stays up does, one that ends does not, whether it is restarted or not.
func settles(s *suite) {
	polite := s.unit(app, "polite")
	pid := s.start(polite)
	if err := s.m.Settle(s.limit(), polite, 100*time.Millisecond); err != nil {
		s.Errorf("one that stays up: %v", err)
	}
	result := make(chan error, 1)
	go func() { result <- s.m.Settle(s.limit(), polite, time.Hour) }()
	for _, p := range append(s.procs(polite), pid) {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.Fatal(err)
		}
	}
	if err := <-result; err == nil || !strings.Contains(err.Error(), "cannot keep service polite of "+app+" running: it has ended") {
		s.Errorf("one that is killed: %v", err)
	}
	s.stop(polite)
	crashes := s.unit(app, "crashes")
	if err := s.m.Start(s.limit(), crashes); err == nil {
		if err = s.m.Settle(s.limit(), crashes, time.Hour); err == nil {
			s.Error("one that ends has settled")
		}
	}
	s.stop(crashes)
}

// ready: the start of a service that reports when it is ready lasts until it has, and
// fails if it ends before, or not in time; nothing of it runs then.
func ready(s *suite) {
	u := s.unit(app, "reports")
	started := make(chan error, 1)
	go func() { started <- s.m.Start(s.limit(), u) }()
	s.says(app, "reports runs")
	select {
	case err := <-started:
		s.Fatalf("it has started before it was ready: %v", err)
	default:
	}
	s.no(os.WriteFile(s.goFile(), nil, 0o644))
	s.no(<-started)
	s.state(u, services.Active)
	s.no(s.m.Settle(s.limit(), u, 0))
	s.stop(u)

	ends := s.unit(app, "unready")
	if err := s.m.Start(s.limit(), ends); err == nil || !strings.Contains(err.Error(), "unready of "+app+": it ended before it was ready: exit status 7") {
		s.Errorf("one that ends before: %v", err)
	}
	s.stop(ends)

	s.no(os.Remove(s.goFile()))
	ctx, cancel := context.WithCancel(s.limit())
	go func() { started <- s.m.Start(ctx, u) }()
	s.await("it runs again", func() bool { return strings.Count(s.log(app), "reports runs\n") == 2 })
	cancel()
	if err := <-started; err == nil {
		s.Error("one that never reports has started")
	}
	s.stop(u)
}

// crashWithoutInstance: the revision that is current when a service crashes is
// gone, as after an incomplete removal.
func crashWithoutInstance(s *suite) {
	u := s.unit(app, "polite")
	s.start(u)
	s.says(app, "polite runs")
	s.remove(app)
	for _, p := range s.procs(u) {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			s.Fatal(err)
		}
	}
	s.await("it is given up", func() bool {
		state, err := s.m.State(s.limit(), u)
		return err == nil && state == services.Failed
	})
	s.stop(u)
}

// cannotStart: what the launcher finds wrong is an error of Start.
func cannotStart(s *suite) {
	missing := s.unit(app, "missing")
	unknown := s.unit(app, "polite")
	unknown.Service.Name = "unknown"
	gone := s.unit("org.lull-test.gone", "polite")
	for _, u := range []services.Unit{missing, unknown, gone} {
		if err := s.m.Start(s.limit(), u); err == nil || !strings.HasPrefix(err.Error(), "cannot start ") {
			s.Errorf("%s of %s: %v", u.Service.Name, u.Instance, err)
		}
		s.stop(u)
	}
}

// waits: a service waits for a critical section, and gives up on request;
// while an application has to wait, it starts.
func waits(s *suite) {
	u := s.unit(app, "polite")
	s.no(s.ctl.SetInhibited(app, runctl.RefreshInProgress))
	ctx, cancel := context.WithTimeout(s.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.m.Start(ctx, u); err == nil {
		s.Error("it has started in a critical section")
	}
	s.state(u, services.Inactive)
	s.stop(u)
	s.no(s.ctl.SetInhibited(app, runctl.RefreshStarting))
	if strings.Contains(s.log(app), "runs") {
		s.Errorf("it has run:\n%s", s.log(app))
	}
	s.start(u)
	s.says(app, "polite runs")
	s.no(s.ctl.ClearInhibited(app))
	s.stop(u)
}

func asUser(s *suite) {
	if s.o.User == "" {
		s.Skip("this manager has one user only")
	}
	u := s.unit(app, "polite")
	u.User = s.o.User
	want := s.give(app, s.o.User)
	s.start(u)
	s.says(app, "polite runs")
	ps, err := s.launcher.Tracks.ServiceProcs(app, "polite")
	s.no(err)
	for _, p := range ps {
		if got := statusIDs(s.T, p.PID); got != want {
			s.Errorf("process %d has %s, want %s", p.PID, got, want)
		}
	}
	s.says(app, "polite is "+s.o.User)
	s.stop(u)
	s.says(app, "polite got TERM")
	u.User = "no-such-user-here"
	if err := s.m.Start(s.limit(), u); err == nil {
		s.Error("a user that does not exist")
	}
}
