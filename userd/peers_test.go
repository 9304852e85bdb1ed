package userd

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a session with a display and the real dunst, and a bus with an
// agent that has only the parts that the helper sees.
type world struct {
	t       *testing.T
	session string
	system  string
	display string
	conn    *dbus.Conn // of the session bus
	agent   *agent
	stop    func() error
}

// dunstrc shows everything. The menu of a notice is a
// script that chooses the line with the text in the file "choice".
const dunstrc = `[global]
    width = (0, 420)
    height = 400
    offset = 20x20
    font = DejaVu Sans 11
    markup = full
    format = "<b>%s</b>\n%b"
    show_age_threshold = -1
    frame_width = 1
    show_indicators = yes
    dmenu = MENU
[urgency_low]
    background = "#303030"
    foreground = "#f0f0f0"
    timeout = 0
[urgency_normal]
    background = "#204060"
    foreground = "#ffffff"
    timeout = 0
`

func newWorld(t *testing.T) *world {
	t.Helper()
	require.Program(t, "dunst", "dunstctl", "Xvfb", "import")
	w := &world{t: t, session: bustest.Start(t), system: bustest.Start(t)}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())

	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "640x400x24", "-nolisten", "tcp")
	x.ExtraFiles = []*os.File{wr}
	start(t, x)
	wr.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	r.Close()
	if err != nil {
		t.Fatalf("Xvfb is not ready: %v", err)
	}
	w.display = ":" + strings.TrimSpace(number)

	conn, err := dbus.Connect(w.session, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.conn = conn
	return w
}

func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
}

func end(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	timer.Stop()
}

// serve starts a program and waits for it to have its name on the session bus.
func (w *world) serve(name string, cmd *exec.Cmd) *exec.Cmd {
	w.t.Helper()
	signals := make(chan *dbus.Signal, 16)
	w.conn.Signal(signals)
	defer w.conn.RemoveSignal(signals)
	if err := w.conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		w.t.Fatal(err)
	}
	start(w.t, cmd)
	timeout := time.After(20 * time.Second)
	for {
		select {
		case s := <-signals:
			if len(s.Body) == 3 && s.Body[0] == name && s.Body[2] != "" {
				return cmd
			}
		case <-timeout:
			w.t.Fatalf("%s is not ready", cmd.Path)
		}
	}
}

const notifications = "org.freedesktop.Notifications"

// xfce starts Xfce's notification server, and the settings that it obeys.
func (w *world) xfce() {
	w.t.Helper()
	dir := "/usr/lib/x86_64-linux-gnu/xfce4/"
	require.File(w.t, dir+"notifyd/xfce4-notifyd")
	require.Program(w.t, "xfconf-query")
	w.t.Setenv("HOME", w.t.TempDir())
	w.t.Setenv("GSETTINGS_BACKEND", "memory")
	w.serve("org.xfce.Xfconf", w.command(dir+"xfconf/xfconfd"))
	w.serve(notifications, w.command(dir+"notifyd/xfce4-notifyd"))
}

// dunst starts the notification server and waits for it to have its name.
func (w *world) dunst() *exec.Cmd {
	w.t.Helper()
	dir := w.t.TempDir()
	menu := filepath.Join(dir, "menu")
	script := "#!/bin/sh\nexec grep -m1 -F -f " + w.choice() + "\n"
	rc := filepath.Join(dir, "dunstrc")
	if os.WriteFile(menu, []byte(script), 0o755) != nil || os.WriteFile(rc, []byte(strings.ReplaceAll(dunstrc, "MENU", menu)), 0o644) != nil {
		w.t.Fatal("cannot write dunst's configuration")
	}
	return w.serve(notifications, w.command("dunst", "-conf", rc))
}

func (w *world) choice() string { return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "choice") }

func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DISPLAY="+w.display, "DBUS_SESSION_BUS_ADDRESS="+w.session)
	return cmd
}

func (w *world) ctl(args ...string) string {
	w.t.Helper()
	out, err := w.command("dunstctl", args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("dunstctl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// press chooses a button of the notice on the screen by its label.
func (w *world) press(label string) {
	w.t.Helper()
	if err := os.WriteFile(w.choice(), []byte(label+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.ctl("context")
}

// picture saves a screenshot in the directory LULL_PICTURES.
func (w *world) picture(name string) {
	w.t.Helper()
	dir := os.Getenv("LULL_PICTURES")
	if dir == "" {
		return
	}
	time.Sleep(200 * time.Millisecond) // dunst draws when it likes
	if out, err := w.command("import", "-window", "root", filepath.Join(dir, name+".png")).CombinedOutput(); err != nil {
		w.t.Fatalf("import: %v\n%s", err, out)
	}
}

// untilNoHelper waits until the bus has seen that the helper's connection is closed; before
// that the next helper does not get the name.
func (w *world) untilNoHelper() {
	w.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		owned := true
		if err := w.conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, bus.SessionName).Store(&owned); err != nil || !owned {
			return // without a bus there is no name
		}
	}
	w.t.Errorf("%s is still owned", bus.SessionName)
}

// helper runs the helper until the test, or stop, ends it.
func (w *world) helper() {
	w.t.Helper()
	r, wr, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := Run(ctx, Options{Bus: w.system, OwnBus: w.session, SessionBus: w.session, LogindBus: w.system, Ready: wr, Version: "test",
			Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		wr.Close() // it is closed if the helper was ready
		done <- err
	}()
	w.stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		w.untilNoHelper()
		return err
	})
	w.t.Cleanup(func() { w.stop() })
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "READY\n" {
		w.t.Fatalf("got %q, %v, want READY: %v", line, err, w.stop())
	}
}

// until waits for the helper's own account of what is shown.
func (w *world) until(what string, cond func(bus.SessionProperties) bool) bus.SessionProperties {
	w.t.Helper()
	proxy := bus.NewSessionProxy(w.conn, bus.SessionPath)
	var p bus.SessionProperties
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var err error
		p, err = proxy.Properties(ctx)
		cancel()
		if err == nil && cond(p) {
			return p
		}
	}
	w.t.Fatalf("waited in vain until %s: %+v", what, p)
	return p
}

func (w *world) displayed(n string) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); w.ctl("count", "displayed") != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("dunst shows %s notices, not %s", w.ctl("count", "displayed"), n)
		}
	}
}

// agent is the part of an agent that the helper talks to.
type agent struct {
	bus.Manager
	t      *testing.T
	server *bus.Server

	mu      sync.Mutex
	pending []bus.PendingRefresh
	helpers []string
	answers chan string
}

func (w *world) startAgent(pending ...bus.PendingRefresh) *agent {
	w.t.Helper()
	w.agent = w.startAgentOn(w.system, "/its", pending...)
	return w.agent
}

// startAgentOn starts an agent on a bus, with its directories below dir.
func (w *world) startAgentOn(address, dir string, pending ...bus.PendingRefresh) *agent {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := bus.Serve(ctx, address, true)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	a := &agent{t: w.t, server: s, pending: pending, answers: make(chan string, 16)}
	if err := s.Export(bus.AgentPath, bus.ExportManager(a, bus.ManagerProperties{Root: dir + "/root", RunDir: dir + "/run"}), bus.ExportHelper()); err != nil {
		w.t.Fatal(err)
	}
	if err := s.RequestName(bus.AgentName); err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (a *agent) Pending(bus.Caller) ([]bus.PendingRefresh, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending, nil
}

func (a *agent) RegisterHelper(c bus.Caller, _ map[string]dbus.Variant) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.helpers = append(a.helpers, c.Sender)
	return nil
}

func (a *agent) Answer(_ bus.Caller, id, action string) error {
	a.answers <- id + " " + action
	return nil
}

func (a *agent) set(pending ...bus.PendingRefresh) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = pending
}

func (a *agent) say(s bus.Signal) {
	a.t.Helper()
	a.mu.Lock()
	helpers := slices.Clone(a.helpers)
	a.mu.Unlock()
	for _, h := range helpers {
		if err := a.server.SendTo(h, bus.AgentPath, s); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *agent) answered(want string) {
	a.t.Helper()
	select {
	case got := <-a.answers:
		if got != want {
			a.t.Errorf("the agent heard %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		a.t.Fatalf("the agent never heard %q", want)
	}
}

func refresh(id, instance, name, version string) bus.PendingRefresh {
	now := uint64(time.Now().UnixMicro())
	return bus.PendingRefresh{ID: id, Instance: instance, Name: name, FromVersion: "152", ToVersion: version, FromRevision: 1, ToRevision: 2,
		Processes: []bus.Process{{PID: uint32(os.Getpid()), UID: uint32(os.Getuid()), Command: "it"}},
		Urgency:   "medium", Since: now, Deadline: now + uint64((14 * 24 * time.Hour).Microseconds()), AtDeadline: "keep-waiting"}
}
