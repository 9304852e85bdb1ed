package notices_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name  = "org.lull.asks"
	limit = 30 * time.Second
)

// scene is a world with version 1 running.
type scene struct {
	*rig.Scene
	desk *rig.Desktop
	app  *rig.Proc
	gate string

	helper *rig.Proc
}

func set(t *testing.T) *scene { t.Helper(); return setWith(t, rig.SceneOptions{}) }

func setWith(t *testing.T, o rig.SceneOptions) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "dunst", "Xvfb", "setpriv", "busctl")
	require.File(t, "/usr/lib/polkit-1/polkitd")
	require.File(t, "/usr/lib/python3/dist-packages/dbusmock")
	require.Unified(t)
	o.Tracker, o.Auto = "subtree", true
	s := &scene{Scene: rig.NewScene(t, o)}
	s.gate = s.Path("gate")
	if err := syscall.Mkfifo(s.gate, 0o600); err != nil {
		t.Fatal(err)
	}
	program := s.Path("app")
	rig.GoBuild(t, "./e2e/notices/app", program, nil)
	for v := 1; v <= 3; v++ {
		dir := s.Path(fmt.Sprint("v", v))
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(program, filepath.Join(dir, "bin/app")); err != nil {
			t.Fatal(err)
		}
		hooks := "quit: [bin/app, hook]"
		if v == 2 {
			hooks += ", pre-refresh: [bin/app, gate, " + s.gate + "]"
		}
		text := fmt.Sprintf("name: %s\nversion: \"%d\"\ntitle: Asking\nsummary: asks about itself\napps: [{name: app, command: [bin/app, \"%d\"]}]\nhooks: {%s}\n", name, v, v, hooks)
		if err := os.WriteFile(filepath.Join(dir, "lull.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.publish(1)
	s.StartPolkit("")
	s.login()
	s.Begin()
	s.MustLull("install", name)
	s.desk = s.StartDesktop()
	s.helper = s.StartHelper()
	s.app = s.User.StartLull(func(c *exec.Cmd) { c.Dir = s.User.Home }, "run", name)
	s.untilLog("started 1, app, in " + s.User.Home)
	return s
}

func (s *scene) publish(v int) {
	s.Helper()
	s.MustLull("publish", "--repo", s.Repo, s.Path(fmt.Sprint("v", v)))
}

func (s *scene) common(file string) string {
	return filepath.Join(s.User.Home, ".local/share/lull", name, "common", file)
}

// untilLog waits for a line of the application.
func (s *scene) untilLog(want string) {
	s.Helper()
	s.UntilFile(want, limit, s.common("log"), func(text string) (bool, string) { return strings.Contains(text, want+"\n"), text })
}

// do sends the application a command, and returns its answer.
func (s *scene) do(line string) string {
	s.Helper()
	before, err := os.ReadFile(s.common("log"))
	if err == nil {
		err = os.WriteFile(s.common("do"), []byte(line+"\n"), 0)
	}
	if err != nil {
		s.Fatalf("%v", err)
	}
	said := ""
	s.UntilFile("it has done "+line, limit, s.common("log"), func(text string) (bool, string) {
		said = strings.TrimPrefix(text, string(before))
		return strings.Contains(said, line+": "), text
	})
	return said
}

func (s *scene) untilShown(n int, want string) (found rig.Notice) {
	s.Helper()
	s.Until(fmt.Sprintf("%d notices are shown, with %q", n, want), limit, func() (bool, string) {
		live := s.desk.Live()
		for _, l := range live {
			if strings.Contains(l.Summary+" "+l.Body, want) {
				found = l
				return len(live) == n, s.desk.String()
			}
		}
		return n == 0 && len(live) == 0, s.desk.String()
	})
	return found
}

// TestApplicationAsks: the agent identifies an application itself, not by the
// application's environment; it is notified of its own updates alone; it may
// hold them.
func TestApplicationAsks(t *testing.T) {
	s := set(t)
	path := "/org/lull/update_monitor/"
	s.UntilFile("it has a monitor", limit, s.common("log"), func(text string) (bool, string) {
		_, rest, ok := strings.Cut(text, "monitor "+path)
		if ok {
			rest, _, ok = strings.Cut(rest, "\n")
			path += rest
		}
		return ok, text
	})
	var heard []string
	conn := s.Bus.Connect()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface(bus.UpdateMonitorInterface)); err != nil {
		t.Fatal(err)
	}
	if got := s.do("lull pending --self"); !strings.Contains(got, "no pending refreshes\n") {
		t.Errorf("got %s, want %q", got, "no pending refreshes\n")
	}
	s.Agent().Crash() // its monitor goes on with the next agent
	s.StartAgent()
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	s.untilLog("update to 2, running is local: true, remote: true")
	s.untilShown(1, "Asking 2 is ready")
	for range len(signals) {
		if got := (<-signals).Name; strings.HasPrefix(got, bus.UpdateMonitorInterface) {
			heard = append(heard, got)
		}
	}
	if len(heard) > 0 {
		t.Errorf("others receive the signals %v, want none of %s", heard, bus.UpdateMonitorInterface)
	}
	if got := s.do("lull pending --self"); !strings.Contains(got, name+"  1 → 2\n") {
		t.Errorf("got %s, want %q", got, name+"  1 → 2\n")
	}
	if got := s.do("LULL_INSTANCE=org.x.Other lull pending --self"); !strings.Contains(got, "LULL_INSTANCE is org.x.Other, but this process is in a run of "+name) {
		t.Errorf("got %s, want %q", got, "LULL_INSTANCE is org.x.Other, but this process is in a run of "+name)
	}
	outside := func(want string, args ...string) {
		t.Helper()
		cmd := s.User.Run("env", append([]string{"LULL_INSTANCE=" + name, "lull"}, args...)...)
		if cmd.Code == 0 || !strings.Contains(cmd.Stderr, want) {
			t.Errorf("got %v, want a failure and %q in the error output", cmd, want)
		}
	}
	outside("lull: cannot determine which application asks: process", "pending", "--self")
	outside("lull: cannot determine which application asks: process", "hold", "--self", "2h")
	outside("is in no run of one", "hold", "--self")
	if err := s.API.Call("Manager.CreateUpdateMonitor", map[string]dbus.Variant{}).Err; err == nil || !strings.Contains(err.Error(), "is in no run of one") {
		t.Errorf("got %v, want an error and %q in the error", err, "is in no run of one")
	}
	err := conn.Object(bus.AgentName, dbus.ObjectPath(path)).Call(bus.UpdateMonitorInterface+".Close", 0).Err
	if err == nil || !strings.Contains(err.Error(), "belongs to another connection") {
		t.Errorf("got %v, want an error and %q in the error", err, "belongs to another connection")
	}

	shown := s.Admin.Must("busctl", "--address="+s.Bus.Address, "--no-pager", "introspect", bus.AgentName, path, bus.UpdateMonitorInterface).Stdout
	if f := strings.Fields(shown); !strings.Contains(strings.Join(f, " "), ".Close method - - - .UpdateAvailable signal a{sv} - -") {
		t.Errorf("got %s, want %q", shown, ".Close method - - - .UpdateAvailable signal a{sv} - -")
	}

	s.do("lull hold --self 2h")
	s.untilShown(0, "")
	var p struct{ HeldBy string }
	o, _ := s.API.Package(name)
	if p.HeldBy = o.Str("HeldBy"); p.HeldBy != s.User.Name {
		t.Errorf("held by %q, want %q", p.HeldBy, s.User.Name)
	}
	if left := time.Until(time.UnixMicro(int64(o.Num("HeldUntil")))); left < 110*time.Minute || left > 2*time.Hour {
		t.Errorf("held for %v more, want 2 hours, or 10 minutes less at most", left)
	}
	s.do("lull unhold " + name)

	// The monitor goes with its maker.
	s.do("touch $LULL_USER_COMMON/quits")
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.Until("the monitor is gone", limit, func() (bool, string) {
		err := conn.Object(bus.AgentName, dbus.ObjectPath(path)).Call("org.freedesktop.DBus.Peer.Ping", 0).Err
		err2 := conn.Object(bus.AgentName, dbus.ObjectPath(path)).Call(bus.UpdateMonitorInterface+".Close", 0).Err
		return err2 != nil && strings.Contains(err2.Error(), "there is no object"), fmt.Sprint(err, err2)
	})
}

// TestRestartAndWait: the hook asks the application to quit, or reports
// unsaved work; after that it runs where it was. A launch that has to
// wait is shown until it starts, and a shutdown in between is announced.
func TestRestartAndWait(t *testing.T) {
	s := set(t)
	if err := os.WriteFile(s.common("unsaved"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	s.untilShown(1, "Asking 2 is ready")
	s.picture("ready")
	s.desk.Press("Restart now")
	s.untilLog("hook: unsaved")
	n := s.untilShown(1, "Asking is still open")
	if labels := strings.Join(n.Labels(), ", "); !strings.HasPrefix(labels, "Try again, Do not start it again") {
		t.Errorf("got %s, want labels that begins with %q", labels, "Try again, Do not start it again")
	}
	s.picture("still-open")
	if s.app.Ended() {
		t.Fatal("it was ended")
	}
	if err := os.Remove(s.common("unsaved")); err != nil {
		t.Fatal(err)
	}
	s.desk.Press("Try again")
	s.untilLog("hook: version 2")
	s.untilLog("started 2, app, in " + s.User.Home)
	s.untilShown(1, "Asking was updated")
	s.desk.CloseAll()

	// The next refresh stays in its critical section.
	s.publish(3)
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.Admin.StartLull(nil, "refresh", name) // which waits for the end
	s.Until("the door is shut", limit, func() (bool, string) {
		o, _ := s.API.Refresh(name, "3")
		return o.Str("State") == "critical" && o.Str("Step") == "stop-services", o.Str("State") + " " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	late := s.User.StartLull(nil, "run", name)
	s.untilShown(1, "Asking is about to start")
	s.picture("waits")
	s.shutdown(true)
	n = s.untilShown(2, "Do not switch off yet")
	if labels := strings.Join(n.Labels(), ", "); labels != "At the next start, Finish now" {
		t.Errorf("%s, want At the next start, Finish now", labels)
	}
	if !strings.Contains(n.Body, "Asking is being updated.") {
		t.Errorf("got %+v, want %q in the body", n, "Asking is being updated.")
	}
	s.picture("shutdown")
	s.shutdown(false)
	s.untilShown(1, "Asking is about to start")
	s.shutdown(true)
	s.untilShown(2, "Do not switch off yet")
	// Left to the next start, it holds up the shutdown no longer. When that is given up, it
	// begins again.
	s.desk.Press("At the next start")
	s.untilShown(1, "Asking is about to start")
	s.Until("it is left to the next start", limit, func() (bool, string) {
		log := s.Agent().Log()
		return strings.Contains(log, "leaving the rest of a refresh to the next boot"), log
	})
	if o, _ := s.API.Refresh(name, "3"); o.Str("State") != "critical" {
		t.Errorf("it is %q, want critical", o.Str("State"))
	}
	if late.Ended() {
		t.Fatalf("the launch has ended, want it to wait: %s", late.Log())
	}
	late.Stop() // it could start in the old version while the section begins again
	s.untilShown(0, "")
	s.shutdown(false)
	if err := os.WriteFile(s.gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.User.StartLull(nil, "run", name)
	s.untilLog("started 3, app, in " + s.Dir)
	s.Until("nothing says any more that it waits", limit, func() (bool, string) {
		for _, n := range s.desk.Live() {
			if n.Summary != "Asking was updated" { // if it was still closing when this was prepared
				return false, s.desk.String()
			}
		}
		return true, ""
	})
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) picture(what string) {
	s.Helper()
	if dir := os.Getenv("LULL_PICTURES"); dir != "" {
		s.desk.Screenshot(filepath.Join(dir, "e2e-"+what+".png"))
	}
}

// login starts a logind of python-dbusmock on the world's bus: the real one
// would have to switch a machine off.
func (s *scene) login() {
	s.Helper()
	p := s.Admin.StartWith(func(c *exec.Cmd) { c.Env = append(c.Env, "DBUS_SYSTEM_BUS_ADDRESS="+s.Bus.Address) }, "/usr/bin/python3", "-m", "dbusmock", "--template", "logind")
	s.Until("logind is there", limit, func() (bool, string) { return s.Bus.HasOwner(s.Admin, "org.freedesktop.login1"), p.Log() })
}

func (s *scene) shutdown(down bool) {
	s.Helper()
	err := s.Bus.Connect().Object("org.freedesktop.login1", "/org/freedesktop/login1").Call("org.freedesktop.DBus.Mock.EmitSignal", 0,
		"org.freedesktop.login1.Manager", "PrepareForShutdown", "b", []dbus.Variant{dbus.MakeVariant(down)}).Err
	if err != nil {
		s.Fatalf("%v", err)
	}
}

// TestTwoUsers: each is notified of the user's own running applications, on the
// user's own screen, for as long as they run.
func TestTwoUsers(t *testing.T) {
	s := set(t)
	bob := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "subtree"}})} // only its second session is used
	bob.Bus, bob.Store, bob.RunDir, bob.Config = s.Bus, s.Store, s.RunDir, s.Config
	bob.User = bob.Ordinary("daemon")
	bob.desk = bob.StartDesktop()
	bob.helper = bob.StartHelper()
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	s.untilShown(1, "Asking 2 is ready")
	if live := bob.desk.Live(); len(live) > 0 {
		t.Errorf("the user who does not run it has the notices %v, want none", live)
	}
	bob.User.StartLull(nil, "run", name)
	bob.untilLog("started 1, app, in " + bob.Dir)
	bob.untilShown(1, "Asking 2 is ready")
	if pids := strings.Count(bob.User.Lull("pending").Stdout, "PID "); pids != 1 {
		t.Errorf("got %v, want pids 1", bob.User.Lull("pending"))
	}
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.untilShown(0, "") // no longer true, for this user
	if live := bob.desk.Live(); len(live) != 1 {
		t.Errorf("got %v, want 1 live", bob.desk)
	}
	bob.desk.Press("When I close it")
	bob.untilShown(0, "")
	if err := os.WriteFile(bob.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	bob.untilShown(1, "Asking was updated")
	s.untilShown(1, "Asking was updated")
	s.failing(t, bob)
	s.large(t, bob)
}

// TestDataIncomplete: data that could not be migrated is shown on the desktop
// when the new version is started for the first time, and not again.
func TestDataIncomplete(t *testing.T) {
	const keeps = "org.lull.keeps"
	s := set(t)
	for v := 1; v <= 2; v++ {
		dir := s.Path(fmt.Sprint("keeps", v))
		text := fmt.Sprintf("name: %s\nversion: \"%d\"\ntitle: Keeper\nsummary: keeps data\napps: [{name: app, command: app}]\ndata: {versioned: true}\n", keeps, v)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/lull.yaml", []byte(text), 0o644), os.WriteFile(dir+"/app", []byte("#!/bin/sh\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	s.MustLull("publish", "--repo", s.Repo, s.Path("keeps1"))
	s.MustLull("install", keeps)
	s.User.Must("lull", "run", keeps)
	data := filepath.Join(s.User.Home, ".local/share/lull", keeps, "1")
	s.User.Must("mkdir", data+"/elsewhere")
	if err := syscall.Mount("lull-test", data+"/elsewhere", "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data+"/elsewhere", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.MustLull("publish", "--repo", s.Repo, s.Path("keeps2"))
	s.MustLull("refresh", keeps)
	if r := s.User.Lull("run", keeps); r.Code != 0 || !strings.Contains(r.Stderr, "1 of the files of "+keeps+" could not be copied") {
		t.Errorf("got %v, want exit status 0 and %q in the error output", r, "1 of the files of "+keeps+" could not be copied")
	}
	s.untilShown(1, "A file of Keeper could not be brought over The new version works without elsewhere, which is still in "+data+".")
	s.picture("data-incomplete")
	s.desk.CloseAll()
	if r := s.User.Lull("run", keeps); r.Code != 0 || r.Stderr != "" {
		t.Errorf("got %v, want exit status 0 and no error output", r)
	}
	s.untilShown(0, "")
}

// TestRestartByAnotherProgram: a program of the user's asks for the restart on the bus,
// with no notice answered. The application is asked by its hook, and the new version is
// started in its place. Another user can ask for nothing of it.
func TestRestartByAnotherProgram(t *testing.T) {
	s := set(t)
	s.publish(3)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	s.untilShown(1, "Asking 3 is ready")
	ask := func(a *rig.Actor) rig.Result {
		return a.Run("busctl", "--address="+s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName+".Manager", "RestartNow", "s", name)
	}
	if r := ask(s.Ordinary("daemon")); r.Code == 0 || !strings.Contains(r.Text(), "no refresh waits for an application of that name and user daemon") {
		t.Errorf("another user: got %v, want a failure and %q", r, "no refresh waits for an application of that name and user daemon")
	}
	if s.app.Ended() {
		t.Fatal("another user has ended it")
	}
	if r := ask(s.User); r.Code != 0 {
		t.Fatal(r)
	}
	s.untilLog("hook: version 3")
	s.untilLog("started 3, app, in " + s.User.Home)
	s.untilShown(1, "Asking was updated")
	if !s.app.Ended() {
		t.Error("the old version still runs")
	}
}
