package notices_test

import (
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
	"github.com/lull/lull/e2e/need"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name  = "org.lull.asks"
	limit = 30 * time.Second
)

// scene is a world in which version 1 runs.
type scene struct {
	*rig.World
	t    *testing.T
	api  *rig.API
	desk *rig.Desktop
	app  *rig.Proc
	gate string
}

func set(t *testing.T) *scene {
	t.Helper()
	need.Root(t)
	need.Program(t, "dbus-daemon", "dunst", "Xvfb", "setpriv", "busctl")
	need.File(t, "/usr/lib/polkit-1/polkitd")
	need.Freezer(t)
	need.Lock(t, "freezer")
	w := rig.New(t, rig.Options{Tracker: "freezer"})
	s := &scene{World: w, t: t, gate: w.Path("gate")}
	w.Configure("policy.yaml", "schedule: {check: 0}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n")
	if err := syscall.Mkfifo(s.gate, 0o600); err != nil {
		t.Fatal(err)
	}
	program := w.Path("app")
	rig.GoBuild(t, "./e2e/notices/app", program, nil)
	for v := 1; v <= 3; v++ {
		dir := w.Path(fmt.Sprint("v", v))
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(program, filepath.Join(dir, "bin/app")); err != nil {
			t.Fatal(err)
		}
		hooks := "refresh-pending: [bin/app, hook]"
		if v == 2 {
			hooks += ", pre-refresh: [bin/app, gate, " + s.gate + "]"
		}
		text := fmt.Sprintf("name: %s\nversion: \"%d\"\ntitle: Asking\nsummary: asks about itself\napps: [{name: app, command: [bin/app, \"%d\"]}]\nhooks: {%s}\n", name, v, v, hooks)
		if err := os.WriteFile(filepath.Join(dir, "lull.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.MustLull("repo", "init", w.Repo)
	s.publish(1)
	s.api = w.Bus.Watch()
	w.StartPolkit("")
	s.login()
	w.StartAgent()
	w.MustLull("repo", "add", "local", w.Repo)
	w.MustLull("install", name)
	s.desk = w.StartDesktop()
	w.StartHelper()
	s.app = w.User.StartLull(func(c *exec.Cmd) { c.Dir = w.User.Home }, "run", name)
	s.untilLog("started 1, app, in " + w.User.Home)
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

// do has the application do something, and returns what it says to that.
func (s *scene) do(line string) string {
	s.Helper()
	before, err := os.ReadFile(s.common("log"))
	if err == nil {
		err = os.WriteFile(s.common("do"), []byte(line+"\n"), 0)
	}
	if err != nil {
		s.t.Fatal(err)
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

// TestApplicationAsks: who an application is the agent sees, not the application's
// environment; it is told of its updates, alone; it may hold them.
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
	if got := s.do("lull pending --self"); !strings.Contains(got, "nothing waits\n") {
		t.Errorf("%s", got)
	}
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("%v", r)
	}
	s.untilLog("update to 2, running is local: true, remote: true")
	s.untilShown(1, "Asking 2 is ready")
	for range len(signals) {
		if got := (<-signals).Name; strings.HasPrefix(got, bus.UpdateMonitorInterface) {
			heard = append(heard, got)
		}
	}
	if len(heard) > 0 {
		t.Errorf("others hear %v", heard)
	}
	if got := s.do("lull pending --self"); !strings.Contains(got, name+"  1 → 2\n") {
		t.Errorf("%s", got)
	}
	if got := s.do("LULL_INSTANCE=org.x.Other lull pending --self"); !strings.Contains(got, "LULL_INSTANCE is org.x.Other, but this process is in a run of "+name) {
		t.Errorf("%s", got)
	}
	outside := func(want string, args ...string) {
		t.Helper()
		cmd := s.User.Run("env", append([]string{"LULL_INSTANCE=" + name, "lull"}, args...)...)
		if cmd.Code == 0 || !strings.Contains(cmd.Stderr, want) {
			t.Errorf("%v", cmd)
		}
	}
	outside("lull: cannot tell which application asks: process", "pending", "--self")
	outside("lull: cannot tell which application asks: process", "hold", "--self", "2h")
	outside("is in no run of one", "hold", "--self")
	if err := s.api.Call("Manager.CreateUpdateMonitor", map[string]dbus.Variant{}).Err; err == nil || !strings.Contains(err.Error(), "is in no run of one") {
		t.Errorf("%v", err)
	}
	err := conn.Object(bus.AgentName, dbus.ObjectPath(path)).Call(bus.UpdateMonitorInterface+".Close", 0).Err
	if err == nil || !strings.Contains(err.Error(), "belongs to another connection") {
		t.Errorf("%v", err)
	}

	shown := s.Admin.Must("busctl", "--address="+s.Bus.Address, "--no-pager", "introspect", bus.AgentName, path, bus.UpdateMonitorInterface).Stdout
	if f := strings.Fields(shown); !strings.Contains(strings.Join(f, " "), ".Close method - - - .UpdateAvailable signal a{sv} - -") {
		t.Errorf("%s", shown)
	}

	s.do("lull hold --self 2h")
	s.untilShown(0, "")
	var p struct{ HeldBy string }
	o, _ := s.api.Package(name)
	if p.HeldBy = o.Str("HeldBy"); p.HeldBy != s.User.Name {
		t.Errorf("held by %q", p.HeldBy)
	}
	if left := time.Until(time.UnixMicro(int64(o.Num("HeldUntil")))); left < 110*time.Minute || left > 2*time.Hour {
		t.Errorf("held for %v", left)
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

// TestRestartAndWait: the hook asks the application to quit, or tells that it has
// something to save; after that it runs again where it was. A launch that has to
// wait is shown until it starts, and a shutdown in between is warned of.
func TestRestartAndWait(t *testing.T) {
	s := set(t)
	if err := os.WriteFile(s.common("unsaved"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("%v", r)
	}
	s.untilShown(1, "Asking 2 is ready")
	s.picture("ready")
	s.desk.Press("Restart now")
	s.untilLog("hook: unsaved")
	n := s.untilShown(1, "Asking is still open")
	if labels := strings.Join(n.Labels(), ", "); !strings.HasPrefix(labels, "Try again, Do not start it again") {
		t.Errorf("%s", labels)
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
		o, _ := s.api.Refresh(name, "3")
		return o.Str("State") == "critical" && o.Str("Step") == "stop-services", o.Str("State") + " " + o.Str("Step") + " " + o.Str("ErrorText")
	})
	late := s.User.StartLull(nil, "run", name)
	s.untilShown(1, "Asking is about to start")
	s.picture("waits")
	s.shutdown(true)
	n = s.untilShown(2, "Do not switch off yet")
	if !strings.Contains(n.Body, "Asking is being updated.") {
		t.Errorf("%+v", n)
	}
	s.picture("shutdown")
	s.shutdown(false)
	s.untilShown(1, "Asking is about to start")
	s.shutdown(true)
	s.untilShown(2, "Do not switch off yet")
	if late.Ended() {
		t.Fatalf("%s", late.Log())
	}
	if err := os.WriteFile(s.gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
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

// login starts a logind of python-dbusmock on the world's bus: the real one would
// have to be told to switch a machine off.
func (s *scene) login() {
	s.Helper()
	python := "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import dbusmock").Run(); err != nil {
		need.Missing(s.t, "needs python3-dbusmock")
	}
	p := s.Admin.StartWith(func(c *exec.Cmd) { c.Env = append(c.Env, "DBUS_SYSTEM_BUS_ADDRESS="+s.Bus.Address) }, python, "-m", "dbusmock", "--template", "logind")
	s.Until("logind is there", limit, func() (bool, string) { return s.Bus.HasOwner(s.Admin, "org.freedesktop.login1"), p.Log() })
}

func (s *scene) shutdown(down bool) {
	s.Helper()
	err := s.Bus.Connect().Object("org.freedesktop.login1", "/org/freedesktop/login1").Call("org.freedesktop.DBus.Mock.EmitSignal", 0,
		"org.freedesktop.login1.Manager", "PrepareForShutdown", "b", []dbus.Variant{dbus.MakeVariant(down)}).Err
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestTwoUsers: each is told of what he runs himself, on his own screen, for as long
// as he runs it.
func TestTwoUsers(t *testing.T) {
	s := set(t)
	bob := &scene{World: rig.New(t, rig.Options{Tracker: "freezer"}), t: t} // of which only the second session is used
	bob.Bus, bob.Store, bob.RunDir, bob.Config = s.Bus, s.Store, s.RunDir, s.Config
	bob.User = bob.Ordinary("daemon")
	bob.desk = bob.StartDesktop()
	bob.StartHelper()
	s.publish(2)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("%v", r)
	}
	s.untilShown(1, "Asking 2 is ready")
	if live := bob.desk.Live(); len(live) > 0 {
		t.Errorf("the other one is told: %v", live)
	}
	bob.User.StartLull(nil, "run", name)
	bob.untilLog("started 1, app, in " + bob.Dir)
	bob.untilShown(1, "Asking 2 is ready")
	if pids := strings.Count(bob.User.Lull("pending").Stdout, "PID "); pids != 1 {
		t.Errorf("%v", bob.User.Lull("pending"))
	}
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.untilShown(0, "") // true no longer, for him
	if live := bob.desk.Live(); len(live) != 1 {
		t.Errorf("%v", bob.desk)
	}
	bob.desk.Press("When I close it")
	bob.untilShown(0, "")
	if err := os.WriteFile(bob.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	bob.untilShown(1, "Asking was updated")
	s.untilShown(1, "Asking was updated")
}
