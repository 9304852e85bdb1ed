package session_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
)

const three = `{name: one, scope: user, command: [bin/svc, one, USR1], stop-signal: SIGUSR1},
  {name: two, scope: user, command: [bin/svc, two, stubborn], stop-timeout: 1s},
  {name: three, scope: user, command: [bin/svc, three, TERM]},
  {name: four, scope: user, command: [bin/svc, four, TERM], refresh-mode: endure}`

func words(text string) string {
	return strings.Join(strings.Split(strings.TrimSpace(text), "\n"), ", ")
}

// started checks that systemd has started the services in their order.
func started(t *testing.T, a *rig.Actor, names ...string) {
	t.Helper()
	var last uint64
	for _, name := range names {
		at, err := strconv.ParseUint(show(a, name, "ExecMainStartTimestampMonotonic"), 10, 64)
		if err != nil || at <= last {
			t.Errorf("service %s of %s was started at %d µs (error %v), want it after the one before it, %d µs", name, a.Name, at, err, last)
		}
		last = at
	}
}

// testServices: services start at login in their order, are stopped for a refresh
// in the reverse one by their signals, those that endure go on as they are, and
// all are restarted; a removal stops everything.
func testServices(t *testing.T) {
	s := newStage(t, three)
	ann, bob := s.NewUser("ann", true), s.NewUser("bob", true)
	for _, a := range []*rig.Actor{ann, bob} {
		a.StartHelper()
	}
	pids := map[string]string{}
	for _, a := range []*rig.Actor{ann, bob} {
		for _, name := range []string{"one", "two", "three", "four"} {
			s.untilLog(a, fmt.Sprintf("1 %s 1 up", name)) // before the log is removed
		}
		started(t, a, "one", "two", "three", "four")
		if slice := show(a, "one", "ControlGroup"); !strings.Contains(slice, fmt.Sprintf("user@%d.service", a.UID)) {
			t.Errorf("the service of %s runs in %s; want %q in the slice", a.Name, slice, fmt.Sprintf("user@%d.service", a.UID))
		}
		pids[a.Name] = show(a, "four", "MainPID")
		s.save(a, "of "+a.Name)
		os.Remove(data(a, "common/log"))
	}
	s.publish(2, three)
	s.MustLull("refresh", "--wait", app)
	for _, a := range []*rig.Actor{ann, bob} {
		s.untilLog(a, "2 three 2 up")
		started(t, a, "one", "two", "three")
		log := s.untilLog(a, "2 two 2 up")
		if down, _, _ := strings.Cut(log, "2 "); words(down) != "1 three TERM, 1 one USR1" {
			t.Errorf("the services of %s were stopped with %q, want %q", a.Name, words(down), "1 three TERM, 1 one USR1")
		}
		if strings.Contains(log, "four") || show(a, "four", "MainPID") != pids[a.Name] {
			t.Errorf("the service of %s has not endured: %s", a.Name, words(log))
		}
		s.loads(a, "of "+a.Name)
	}
	o, _ := s.API.Package(app)
	if states := fmt.Sprint(o.Props["Services"].Value()); strings.Count(states, " active") != 4 {
		t.Errorf("the states of the services are %s, want 4 active", states)
	}
	s.MustLull("remove", app)
	for _, a := range []*rig.Actor{ann, bob} {
		if units := a.Systemctl("list-units", "--all", "--no-legend", "lull-*"); units != "" {
			t.Errorf("units of %s are left:\n%s", a.Name, units)
		}
	}
}

// testReady: a service that reports when it is ready, by a child, is active when it has,
// at login and after a refresh, and has the time for it that one of the system has.
func testReady(t *testing.T) {
	const reports = "{name: one, scope: user, command: [bin/svc, one, TERM, ready], ready: notify}"
	s := newStage(t, reports)
	ann := s.NewUser("ann", true)
	ann.StartHelper()
	active := func(version int) {
		t.Helper()
		s.untilLog(ann, fmt.Sprintf("%d one %d up", version, version))
		s.Until("the service is active", limit, func() (bool, string) {
			state := show(ann, "one", "ActiveState") + " " + show(ann, "one", "SubState")
			return state == "active running", state
		})
		if got := show(ann, "one", "TimeoutStartUSec"); got != "1min 30s" {
			t.Errorf("systemd waits %s for the service of version %d; want %q", got, version, "1min 30s")
		}
	}
	active(1)
	s.publish(2, reports)
	s.MustLull("refresh", "--wait", app)
	active(2)
}

// testUndo: a revision that is not healthy never starts in a session, and the old
// services go on.
func testUndo(t *testing.T) {
	s := newStage(t, three)
	ann := s.NewUser("ann", true)
	s.save(ann, "before")
	helper := ann.StartHelper()
	s.untilLog(ann, "1 four 1 up")
	s.untilLog(ann, "1 three 1 up")
	pid := show(ann, "four", "MainPID")
	s.publish(3, three)
	s.Until("it was undone", limit, func() (bool, string) {
		o, ok := s.API.Refresh(app, "3")
		return ok && o.Str("State") == "undone", o.Str("State") + " " + o.Str("ErrorText")
	})
	s.untilOrdered(helper, "undo")
	s.untilOrdered(helper, "abandon")
	s.UntilFile("the old services are there again", limit, data(ann, "common/log"), func(log string) (bool, string) {
		return strings.Count(log, "1 one 1 up") == 2 && strings.Count(log, "1 two 1 up") == 2 && strings.Count(log, "1 three 1 up") == 2, log
	})
	started(t, ann, "one", "two", "three")
	if b, _ := os.ReadFile(data(ann, "common/log")); strings.Contains(string(b), "3 ") || show(ann, "four", "MainPID") != pid {
		t.Errorf("after the undo: got process %s of service four and the log below, want process %s and no line of revision 3:\n%s", show(ann, "four", "MainPID"), pid, b)
	}
	s.UntilFile("nothing is left of it", limit, data(ann, ".2.partial"), func(string) (bool, string) {
		out, _ := exec.Command("ls", "-A", data(ann)).Output()
		left := slices.Sorted(slices.Values(strings.Fields(string(out))))
		return slices.Equal(left, []string{".lock", ".lull", "1", "common"}), string(out)
	})
	s.loads(ann, "before")
}

// testFrozenSlice: a user's slice that is frozen, as systemd does before the machine is
// suspended, delays a refresh until the bound of the user's services. When it thaws, the
// services run in the new version, and the data is whole.
func testFrozenSlice(t *testing.T) {
	const one = "{name: one, scope: user, command: [bin/svc, one, TERM], stop-timeout: 1s}"
	s := newStage(t, one)
	ann, bob := s.NewUser("ann", true), s.NewUser("bob", true)
	for _, a := range []*rig.Actor{ann, bob} {
		a.StartHelper()
		s.untilLog(a, "1 one 1 up")
	}
	s.save(bob, "before")
	slice := fmt.Sprintf("user-%d.slice", bob.UID)
	s.Admin.Must("systemctl", "freeze", slice)
	thaw := func() { s.Admin.Must("systemctl", "thaw", slice) }
	thawed := false
	defer func() {
		if !thawed {
			thaw()
		}
	}()
	s.publish(2, one)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "2 one 2 up")
	if log, err := os.ReadFile(data(bob, "common/log")); err != nil || strings.Contains(string(log), "2 one 2 up") {
		t.Errorf("the log of the frozen service: got %q, %v, want no start of revision 2 and no error", log, err)
	}
	thaw()
	thawed = true
	log := s.untilLog(bob, "2 one 2 up")
	if strings.Count(log, "2 one 2 up") != 1 || strings.Count(log, "1 one 1 up") != 1 {
		t.Errorf("the log of the services of bob is %s, want one start of each revision", words(log))
	}
	s.loads(bob, "before")
}

// testHungHelper: a helper that answers nothing delays a refresh until the bound
// of its services; then these are killed, and no others.
func testHungHelper(t *testing.T) {
	const one = "{name: one, scope: user, command: [bin/svc, one, TERM], stop-timeout: 1s}"
	s := newStage(t, one)
	ann, bob := s.NewUser("ann", true), s.NewUser("bob", true)
	bystander := bob.Start("systemd-run", "--user", "--wait", "--unit=bystander", "sleep", "infinity")
	hung, good := bob.StartHelper(), ann.StartHelper()
	s.untilLog(ann, "1 one 1 up")
	s.untilLog(bob, "1 one 1 up")
	hung.Signal(syscall.SIGSTOP)
	s.publish(2, one)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "2 one 2 up")
	if log := s.untilLog(ann, "2 one 2 up"); words(log) != "1 one 1 up, 1 one TERM, 2 one 2 up" {
		t.Errorf("the services of ann say: %s, want 1 one 1 up, 1 one TERM, 2 one 2 up", words(log))
	}
	agent := s.Agent().Log()
	if want := fmt.Sprintf("service=one uid=%d", bob.UID); !strings.Contains(agent, "does not stop and is killed") || !strings.Contains(agent, want) {
		t.Errorf("the agent does not say %q:\n%s", want, agent)
	}
	if strings.Contains(agent, fmt.Sprintf("service=one uid=%d", ann.UID)) {
		t.Error("the service of ann was killed")
	}
	// Killed, it was restarted by the user's systemd, waited until launches
	// were allowed, and is the new one.
	if log := s.untilLog(bob, "2 one 2 up"); strings.Contains(log, "TERM") {
		t.Errorf("the log of the services of bob is %s, want no TERM, as the service was killed", words(log))
	}
	if bystander.Ended() {
		t.Error("another unit of bob was ended")
	}
	hung.Signal(syscall.SIGCONT)
	s.untilOrdered(hung, "finish")
	s.Until("bob's service runs", limit, func() (bool, string) { return show(bob, "one", "ActiveState") == "active", hung.Log() })
	_ = good
	bob.Systemctl("stop", "bystander.service")
}

// testNoHelper: services of a user without a helper are asked to end by the
// agent, and restart with the next helper.
func testNoHelper(t *testing.T) {
	const two = "{name: one, scope: user, command: [bin/svc, one, USR1], stop-signal: SIGUSR1}, {name: two, scope: user, command: [bin/svc, two, stubborn], stop-timeout: 1s}"
	s := newStage(t, two)
	ann := s.NewUser("ann", true)
	helper := ann.StartHelper()
	s.untilLog(ann, "1 two 1 up")
	helper.Stop()
	if show(ann, "one", "ActiveState") != "active" {
		t.Fatal("a service has ended with the helper")
	}
	s.publish(2, two)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "1 one USR1")
	ann.StartHelper()
	log := s.untilLog(ann, "2 one 2 up")
	if strings.Count(log, "1 two 1 up") != 1 {
		t.Errorf("the log of the services is %s, want one start of service two", words(log))
	}
	s.untilLog(ann, "2 two 2 up")
}

// testTwoHelpers: of two sessions of a user one has the work, and when that ends,
// the other.
func testTwoHelpers(t *testing.T) {
	const one = "{name: one, scope: user, command: [bin/svc, one, TERM]}"
	s := newStage(t, one)
	ann := s.NewUser("ann", true)
	first, second := ann.StartHelper(), ann.StartHelper("dbus-run-session", "--")
	s.save(ann, "before")
	s.untilLog(ann, "1 one 1 up")
	s.publish(2, one)
	s.MustLull("refresh", "--wait", app)
	s.untilOrdered(first, "finish")
	s.untilLog(ann, "2 one 2 up")
	if strings.Contains(second.Log(), "the agent orders") {
		t.Errorf("both helpers were asked, want the first alone; the log of the second:\n%s", second.Log())
	}
	first.Crash()
	s.untilOrdered(second, "session")
	s.publish(4, one)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "4 one 3 up")
	s.loads(ann, "before")
}

// hostile names the variable that makes this binary a helper of no good will.
const hostile = "LULL_HOSTILE_HELPER"

// hostileHelper registers, answers for others and with nonsense, and never to
// its requests. It logs its requests.
func hostileHelper() int {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	agent := conn.Object(rig.AgentName, rig.AgentPath)
	call := func(method string, args ...any) {
		fmt.Println(method, fmt.Sprintf("%.80v", args), agent.Call(rig.AgentName+".Manager."+method, 0, args...).Err)
	}
	call("WorkDone", "1", app, "enter", "")          // before it is a user's helper
	for _, length := range []int{1 << 20, 1 << 15} { // the first is longer than a call may be
		call("RegisterHelper", map[string]dbus.Variant{"version": dbus.MakeVariant(strings.Repeat("x", length))})
	}
	fmt.Println("registered")
	for sig := range signals {
		if sig.Name != rig.AgentName+".Helper.Work" {
			continue
		}
		fmt.Println("told", sig.Body[1])
		for _, id := range []string{"", "0", "99", "../..", strings.Repeat("9", 1<<16)} {
			for _, phase := range []string{"enter", "finish", "\x01\n", ""} {
				call("WorkDone", id, "org.other", phase, strings.Repeat("nonsense\n", 1<<10))
			}
		}
		call("WorkDone", 7, true)
	}
	return 0
}

// testHostile: false answers of one user's helper do not affect others, and
// its silence does not either.
func testHostile(t *testing.T) {
	const one = "{name: one, scope: user, command: [bin/svc, one, TERM], stop-timeout: 1s}"
	s := newStage(t, one)
	ann, bob := s.NewUser("ann", true), s.NewUser("bob", true)
	s.save(ann, "of ann")
	good := bob.StartHelper() // so that the service runs
	s.untilLog(bob, "1 one 1 up")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bad := bob.StartWith(func(c *exec.Cmd) { c.Env = append(c.Env, hostile+"=1") }, self)
	s.Until("the hostile helper is registered", limit, func() (bool, string) { return strings.Contains(bad.Log(), "\nregistered\n"), bad.Log() })
	if !strings.Contains(bad.Log(), "NotPermitted") && !strings.Contains(bad.Log(), "this is not the helper") {
		t.Errorf("an answer of the wrong helper: want NotPermitted or \"this is not the helper\" in its log, got\n%s", bad.Log())
	}
	if !strings.Contains(bad.Log(), "cannot take the call: it is longer than") {
		t.Errorf("the agent took a call of 1 MiB: want that it is refused as longer, got\n%.3000s", bad.Log())
	}
	good.Crash() // now the other one is asked
	ann.StartHelper()
	s.untilLog(ann, "1 one 1 up")
	s.publish(2, one)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "2 one 2 up")
	s.untilFolder(ann, 2)
	if log := bad.Log(); !strings.Contains(log, "told enter") || !strings.Contains(log, "told session") {
		t.Errorf("the hostile helper was not asked:\n%.3000s", log)
	}
	if !strings.Contains(s.Agent().Log(), fmt.Sprintf("service=one uid=%d", bob.UID)) {
		t.Errorf("the agent does not say whose service it killed:\n%s", s.Agent().Log())
	}
	if log := s.untilLog(ann, "2 one 2 up"); words(log) != "1 one 1 up, 1 one TERM, 2 one 2 up" {
		t.Errorf("the service of ann says: %s, want 1 one 1 up, 1 one TERM, 2 one 2 up", words(log))
	}
	bad.Kill()
}
