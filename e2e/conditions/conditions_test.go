package conditions_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/rig"
)

// TestStory: a new version comes while the laptop is on a metered network, then on
// battery, then in use. Nothing is asked for: it goes on by itself each time.
func TestStory(t *testing.T) {
	s := set(t, "defaults: {refresh-requires: [mains, idle]}\n")
	s.network.Metered(3)
	s.power.OnBattery(true)
	s.untilKnown("Network", "metered")
	s.untilKnown("Power", "battery")
	s.untilKnown("Use", "in-use")

	s.publish(s.Repo, app, "2")
	s.untilWaits(app, "2", "fetch", "unmetered")
	s.says("waits for: an unmetered network (the connection is metered) happens: when that is so, or downloaded all the same", "pending")
	s.says(app+" 1 → 2 for an unmetered network downloaded all the same", "status")
	s.says("Machine: on battery, network metered, in use", "status")
	s.says("Refresh: to 2: waiting to be downloaded Waits for: an unmetered network", "status", app)
	s.says("not 2 yet: it waits for an unmetered network (the connection is metered)", "why", app)
	s.says(`"conditions": { "unmetered": "the connection is metered" }`, "--json", "pending")
	s.says("power: battery, network: metered, sessions: in-use", "doctor")

	s.network.Metered(4)
	s.untilWaits(app, "2", "wait", "mains", "idle")
	s.says("waits for: mains power (it runs on battery) and an idle computer (ann is at work)", "pending")
	s.says("refreshed all the same", "status")
	if r := s.User.Lull("pending"); !strings.Contains(r.Stdout, "mains power") {
		t.Errorf("an ordinary user does not see it: %v", r)
	}

	s.logind.SetSession(s.ann, map[string]any{"IdleHint": true})
	s.untilWaits(app, "2", "wait", "mains")
	s.power.OnBattery(false)
	s.UntilVersion(app, "2")

	// A user who is away while the agent is stopped is away after its restart;
	// and it has the battery state.
	s.power.OnBattery(true)
	s.publish(s.Repo, app, "3")
	s.untilWaits(app, "3", "wait", "mains")
	s.Agent().Crash()
	s.StartAgent()
	s.untilWaits(app, "3", "wait", "mains")
	// Without UPower the state is unknown, and nothing waits for it.
	s.power.Stop()
	s.untilKnown("Power", "unknown")
	s.UntilVersion(app, "3")
	s.says("power: unknown, network: unmetered, sessions: idle; what is unknown keeps no refresh waiting", "doctor")
	s.power = bustest.StartMock(t, s.Bus.Address, "upower", bustest.UPower)
	s.power.OnBattery(true)
	s.untilKnown("Power", "battery")
	s.publish(s.Repo, app, "4")
	s.untilWaits(app, "4", "wait", "mains")

	// A requested refresh waits for none of it.
	s.says("is refreshed from 3 to 4", "refresh", app)
	s.UntilVersion(app, "4")
}

// TestBounds: security updates where policy lets them pass, the deadline, a maintenance
// window, and an answer to a notice.
func TestBounds(t *testing.T) {
	s := set(t, "defaults: {refresh-requires: [mains], fetch-requires: [mains, unmetered], security-requires: false}\n")
	s.power.OnBattery(true)
	s.publish(s.Repo, app, "2")
	s.untilWaits(app, "2", "fetch", "mains")
	// Another version takes its place, and not its time.
	o, _ := s.API.Refresh(app, "2")
	s.publish(s.Repo, app, "2.1")
	s.untilWaits(app, "2.1", "fetch", "mains")
	if next, _ := s.API.Refresh(app, "2.1"); next.Num("Deadline") != o.Num("Deadline") || o.Num("Deadline") == 0 {
		t.Errorf("the deadline of the next version is %d, want that of this one, %d, and not 0", next.Num("Deadline"), o.Num("Deadline"))
	}
	s.MustLull("publish", "--repo", s.Repo, "--urgency", "security", s.republish("3"))
	s.UntilVersion(app, "3")

	s.Policy("defaults: {refresh-requires: [mains], fetch-requires: [mains], max-postponement: 1s}\n")
	began := time.Now()
	s.publish(s.Repo, app, "4")
	s.UntilVersion(app, "4")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it has waited for %s, not for a second to be fetched and another to be refreshed", took)
	}

	day := strings.ToLower(time.Now().AddDate(0, 0, 3).Format("Mon"))
	s.Policy("defaults: {refresh-requires: [window]}\nschedule: {windows: [" + day + " 02:00-03:00]}\n")
	s.publish(s.Repo, app, "5")
	s.untilWaits(app, "5", "wait", "window")
	s.says("a maintenance window (the next one opens "+time.Now().AddDate(0, 0, 3).Format("2006-01-02")+" 02:00)", "pending")
	s.Configure(rig.PolicyFile, "defaults: {refresh-requires: [window]}\n")
	if r := s.Lull("policy", "check", "--config", s.Config); r.Code == 0 {
		t.Errorf("a window that never opens is accepted: got %v, want a failure", r)
	}
	if err := s.API.Call("Manager.Reload").Err; err == nil || !strings.Contains(err.Error(), "10-scene.yaml:1: cannot require window in defaults.refresh-requires: schedule.windows has none") {
		t.Errorf("the policy is accepted: got %v, want an error and %q in the error", err, "10-scene.yaml:1: cannot require window in defaults.refresh-requires: schedule.windows has none")
	}
	s.Policy("defaults: {refresh-requires: [window]}\nschedule: {windows: [00:00-24:00]}\n")
	s.UntilVersion(app, "5")

	// A user runs it, is notified, and requests it now: it no longer waits for power.
	s.Policy("defaults: {refresh-requires: [mains]}\n")
	run := s.User.StartLull(nil, "run", app)
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(app)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.publish(s.Repo, app, "6")
	id := s.untilWaits(app, "6", "wait", "mains")
	s.says("waits for: mains power (it runs on battery), and PID", "pending")
	for _, answer := range []string{"later", "when-closed"} {
		if err := s.API.Call("Manager.Answer", id, answer).Err; err != nil {
			t.Error(err)
		}
	}
	s.untilWaits(app, "6", "wait", "mains")
	if err := s.API.Call("Manager.Answer", id, "restart-now").Err; err != nil {
		t.Error(err)
	}
	s.untilWaits(app, "6", "wait")
	run.Stop()
	s.UntilVersion(app, "6")
}

// republish writes a version and returns its directory, for other flags.
func (s *scene) republish(version string) string {
	s.Helper()
	other := s.Path("elsewhere")
	s.MustLull("repo", "init", other)
	s.publish(other, app, version)
	return s.Path(app + "-" + version)
}

// TestLostOnTheWay: a download is broken off when the network becomes metered, and goes
// on when it is not any more.
func TestLostOnTheWay(t *testing.T) {
	s := set(t, "")
	const name = "org.lull.web"
	web := s.Path("web")
	s.MustLull("repo", "init", web)
	s.publish(web, name, "1")
	var mu sync.Mutex // guards slow
	slow := false
	asked, broken := make(chan struct{}, 8), make(chan struct{}, 8)
	files := http.FileServer(http.Dir(web))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hang := slow && strings.Contains(r.URL.Path, "/blobs/")
		mu.Unlock()
		if hang {
			asked <- struct{}{}
			<-r.Context().Done()
			broken <- struct{}{}
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.MustLull("repo", "add", "web", server.URL, "--trust", s.Path("web", "root.json"))
	s.MustLull("install", name)
	s.publish(web, name, "2")
	mu.Lock()
	slow = true
	mu.Unlock()
	if err := s.API.Call("Manager.Check").Err; err != nil {
		t.Fatal(err)
	}
	<-asked
	s.network.Metered(1)
	s.untilWaits(name, "2", "fetch", "unmetered")
	select {
	case <-broken:
	case <-time.After(limit):
		t.Error("the download goes on")
	}
	mu.Lock()
	slow = false
	mu.Unlock()
	s.network.Stop()
	s.UntilVersion(name, "2")
}

// TestSessionsOnTheBus: the reports of helpers, and which of them count.
func TestSessionsOnTheBus(t *testing.T) {
	s := set(t, "")
	type row struct {
		ID    string
		UID   uint32
		State []string
	}
	rows := func() string {
		var list []row
		if err := dbus.Store([]any{s.API.Property("", "Manager.Sessions")}, &list); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	until := func(want string) {
		t.Helper()
		s.Until("the sessions are "+want, limit, func() (bool, string) { now := rows(); return now == want, now })
	}
	s.logind.AddSession("2", 0, "root", map[string]any{"Type": "wayland"}) // ours: the tests'
	uid := s.User.UID
	until(fmt.Sprintf("[{2 0 [active]} {1 %d [active]}]", uid))
	type said struct {
		ID                                string
		Active, Locked, Idle, Quiet, Ends bool
	}
	report := []said{{ID: "2", Idle: true, Quiet: true}, {ID: "1", Locked: true}, {ID: "99", Active: true}}
	if err := s.API.Call("Manager.SetSessions", report).Err; err == nil || !strings.Contains(err.Error(), "no helper that has registered") {
		t.Errorf("anybody can speak: got %v, want an error and %q in the error", err, "no helper that has registered")
	}
	if err := s.API.Call("Manager.RegisterHelper", map[string]dbus.Variant{"sessions": dbus.MakeVariant("nonsense")}).Err; err == nil || !strings.Contains(err.Error(), "want a(sbbbbb)") {
		t.Errorf("nonsense is accepted: got %v, want an error and %q in the error", err, "want a(sbbbbb)")
	}
	if err := s.API.Call("Manager.RegisterHelper", map[string]dbus.Variant{"sessions": dbus.MakeVariant(report)}).Err; err != nil {
		t.Fatal(err)
	}
	until(fmt.Sprintf("[{2 0 [active idle do-not-disturb]} {1 %d [active]}]", uid))
	if err := s.API.Call("Manager.SetSessions", []said{{ID: "2", Ends: true}}).Err; err != nil {
		t.Fatal(err)
	}
	until(fmt.Sprintf("[{2 0 [active logging-out]} {1 %d [active]}]", uid))
	s.untilKnown("Use", "in-use") // ann
	s.logind.RemoveSession("1")
	s.untilKnown("Use", "idle")
}
