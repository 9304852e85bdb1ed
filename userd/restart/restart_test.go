package restart

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/userd/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInRun(t *testing.T) {
	const h = "0123456789abcdef"
	cases := []struct {
		cgroups, instance string
		want              bool
	}{
		{"7:freezer:/lull.firefox/" + h + ".01234567\n0::/user.slice\n", "firefox", true},
		{"7:freezer:/lull.firefox/" + h + ".01234567/nested\n", "firefox", true},
		{"7:freezer:/lull-svc.firefox/" + h + ".01234567.daemon\n", "firefox", false},
		{"7:freezer:/lull.firefox2/" + h + ".01234567\n", "firefox", false},
		{"0::/lull/app/firefox/" + h + ".01234567\n", "firefox", true},
		{"0::/machine/lull/app/firefox/" + h + ".01234567\n", "firefox", true},
		{"0::/lull/svc/firefox/" + h + ".01234567\n", "firefox", false},
		{"0::/app/firefox\n", "firefox", false},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-lull-firefox-" + h + "01234567.scope\n", "firefox", true},
		{"0::/app-lull-firefox-" + h + "01234567.scope/nested\n", "firefox", true},
		{"0::/app-lull-org.x.a\\x2db_key-" + h + "01234567.scope\n", "org.x.a-b_key", true},
		{"0::/app-lull-firefox-esr-" + h + "01234567.scope\n", "firefox", false},
		{"0::/app-lull-firefox-nonsense.scope\n", "firefox", false},
		{"0::/app-lull-firefox-" + h + "01234567.service\n", "firefox", false},
		{"0::/\n", "firefox", false},
		{"", "firefox", false},
		{"nonsense", "firefox", false},
	}
	for _, c := range cases {
		got := inRuns(c.cgroups, c.instance)
		if c.want && !slices.Equal(got, []string{h}) || !c.want && len(got) > 0 {
			t.Errorf("inRuns(%q, %s) = %q, want %q alone: %v (else nothing)", c.cgroups, c.instance, got, h, c.want)
		}
	}
}

func TestBusNames(t *testing.T) {
	for name, want := range map[string]bool{
		"org.gnome.Maps": true, "org.x-y.a_b": true, "firefox": false, "": false, "a..b": false, ".a": false, "a.": false,
		"a.9b": false, "a.b/c": false, "a.ü": false, strings.Repeat("a.b", 200): false,
	} {
		if got := isBusName(name); got != want {
			t.Errorf("isBusName(%.20q) = %v, want %v", name, got, want)
		}
	}
	if got := objectPath("org.gnome-x.Maps"); got != "/org/gnome_x/Maps" {
		t.Error(got)
	}
}

// program is a script of a package that reports when it runs, in a run of the instance.
type program struct {
	cmd  *exec.Cmd
	done chan error
	tree string // of the package
}

// packageHash begins as the runs of these tests do.
const packageHash = "0123456789abcdef" + "0123456789abcdef0123456789abcdef0123456789abcdef"

// newTree makes the tree of a package with one executable file.
func newTree(t *testing.T, name string, content []byte) (tree, file string) {
	t.Helper()
	tree = filepath.Join(t.TempDir(), "packages", packageHash)
	file = filepath.Join(tree, "bin", name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree, file
}

func startProgram(t *testing.T, instance, script string) *program {
	t.Helper()
	freezer := require.Freezer(t)
	require.Lock(t, "freezer")
	group := filepath.Join(freezer, "lull."+instance)
	run := filepath.Join(group, "0123456789abcdef.01234567")
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(run)
		os.Remove(group)
	})
	// It joins by itself, so that its children are in it, too.
	tree, file := newTree(t, "app", []byte("#!/bin/sh\necho $$ > "+run+"/cgroup.procs\n"+script+"\n"))
	cmd := exec.Command(file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: cmd, done: make(chan error, 1), tree: tree}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("got %q %v, want no error and line %q", line, err, "ready\n")
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.done <- cmd.Wait()
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-over
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if os.Remove(run) == nil || errors.Is(os.Remove(run), os.ErrNotExist) {
				return
			}
		}
	})
	return p
}

func pending(instance string, pids ...int) notify.Pending {
	p := notify.Pending{ID: "r1", Instance: instance, DesktopEntry: "org.lull.Test.desktop"}
	for _, pid := range pids {
		p.Processes = append(p.Processes, notify.Process{PID: uint32(pid), UID: uint32(os.Getuid())})
	}
	return p
}

func newAgain(t *testing.T) *Again {
	a := New(slog.New(slog.NewTextHandler(io.Discard, nil)), func() []string { return []string{"LULL_ROOT=/there"} }, func(_ string, p *os.Process) {
		t.Cleanup(func() { p.Wait() })
	})
	t.Cleanup(a.Close)
	return a
}

func connect(t *testing.T) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(bustest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSIGTERM(t *testing.T) {
	p := startProgram(t, "lulltest-term", `trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done`)
	other := exec.Command("sleep", "60") // in no run: left alone
	other.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	a := newAgain(t)
	a.Quit(t.Context(), connect(t), pending("lulltest-term", p.cmd.Process.Pid, other.Process.Pid, os.Getpid(), 1, 0, 1<<30))
	select {
	case err := <-p.done:
		if e := new(exec.ExitError); !errors.As(err, &e) || e.ExitCode() != 7 {
			t.Errorf("the program has ended with %v, want exit status 7", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it has got no SIGTERM")
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was hit: %v", err)
	}

	out := filepath.Join(t.TempDir(), "out")
	launcher := filepath.Join(t.TempDir(), "launcher")
	if err := os.WriteFile(launcher, []byte("#!/bin/sh\necho $1 $LULL_ROOT $(ps -o sid= -p $$) $$ > "+out+".new && mv "+out+".new "+out+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_LAUNCHER", launcher)
	procs, err := a.Launch("lulltest-term", "LULL_ROOT=/there")
	if err != nil || len(procs) != 1 {
		t.Fatal(procs, err)
	}
	if state, err := procs[0].Wait(); err != nil || !state.Success() {
		t.Fatal(state, err)
	}
	b, err := os.ReadFile(out)
	f := strings.Fields(string(b))
	if err != nil || len(f) != 4 || f[0] != "lulltest-term" || f[1] != "/there" || f[2] != f[3] {
		t.Errorf("the launcher was called with %q (error %v), want lulltest-term, /there and the same word twice", b, err)
	}
}

// An application that does not want to quit is left as it is, and not started
// a second time.
func TestStaysOpen(t *testing.T) {
	p := startProgram(t, "lulltest-stays", `trap '' TERM; echo ready; while :; do sleep 0.05; done`)
	a := newAgain(t)
	a.Quit(t.Context(), connect(t), pending("lulltest-stays", p.cmd.Process.Pid))
	t.Setenv("LULL_LAUNCHER", "/bin/false")
	if _, err := a.Launch("lulltest-stays"); !errors.Is(err, ErrOpen) {
		t.Errorf("got %v, want the error %v", err, ErrOpen)
	}
	select {
	case err := <-p.done:
		t.Errorf("it was ended: %v", err)
	default:
	}
}

// app is an application on the session bus, as GTK makes them.
type app struct {
	actions []string
	called  chan string
}

func (a app) List() ([]string, *dbus.Error) { return a.actions, nil }

func (a app) ActivateAction(name string, _ []dbus.Variant, _ map[string]dbus.Variant) *dbus.Error {
	a.called <- name
	return nil
}

func TestQuitByBus(t *testing.T) {
	conn := connect(t)
	mine := func(actions ...string) app {
		a := app{actions, make(chan string, 8)}
		conn.Export(a, "/org/lull/Test", "org.freedesktop.Application")
		conn.Export(a, "/org/lull/Test", "org.gtk.Actions")
		return a
	}
	if _, err := conn.RequestName("org.lull.Test", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p := pending("lulltest")
	a := mine("about", "quit")
	if name, err := quitByBus(ctx, conn, p, []int{os.Getpid()}); err != nil || name != "org.lull.Test" {
		t.Errorf("quitByBus: got %q, %v, want org.lull.Test and no error", name, err)
	} else if called := <-a.called; called != "quit" {
		t.Errorf("quitByBus called %q, want quit", called)
	}
	if _, err := quitByBus(ctx, conn, p, []int{1}); err == nil {
		t.Error("a stranger was asked to quit")
	}
	a = mine("about")
	if _, err := quitByBus(ctx, conn, p, []int{os.Getpid()}); err == nil || len(a.called) != 0 {
		t.Error("an application was asked for what it does not have")
	}
	p.DesktopEntry = "org.lull.Nobody"
	if _, err := quitByBus(ctx, conn, p, []int{os.Getpid()}); err == nil {
		t.Error("nobody was asked to quit")
	}
}

func TestLauncher(t *testing.T) {
	t.Setenv("LULL_LAUNCHER", "/x/lull-run")
	if got, err := Launcher(); got != "/x/lull-run" || err != nil {
		t.Error(got, err)
	}
	t.Setenv("LULL_LAUNCHER", "")
	t.Setenv("PATH", "")
	if got, err := Launcher(); err == nil {
		t.Errorf("Launcher without a PATH: got %q, want an error", got)
	} else if !strings.HasPrefix(err.Error(), "cannot find the launcher") {
		t.Error(err)
	}
}

// A package that has a hook is asked by that alone, one at a time, and the
// application is restarted where it was.
func TestHookAsks(t *testing.T) {
	dir := t.TempDir()
	p := startProgram(t, "lulltest-hook", `cd `+dir+` && trap '' TERM; [ -n "$LULL_APP" ] || LULL_APP=second exec "$0"; echo ready; while [ ! -e `+dir+`/quit ]; do sleep 0.02; done`)
	out := filepath.Join(dir, "out")
	launcher := filepath.Join(dir, "launcher")
	script := "#!/bin/sh\necho \"$* $LULL_ROOT $LULL_NEW_VERSION\" in $(pwd) >> " + out + "\n[ \"$1\" != --hook ] || while [ ! -e " + dir + "/answer ]; do sleep 0.02; done\n"
	if err := os.WriteFile(launcher, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_LAUNCHER", launcher)
	t.Setenv("HOME", "/")
	hooks := make(chan *os.Process, 8)
	a := New(slog.New(slog.NewTextHandler(io.Discard, nil)), func() []string { return []string{"LULL_ROOT=/there"} },
		func(_ string, p *os.Process) { hooks <- p })
	t.Cleanup(a.Close)
	q := pending("lulltest-hook", p.cmd.Process.Pid)
	q.QuitHook, q.ToVersion = true, "153"
	conn := connect(t)
	a.Quit(t.Context(), conn, q)
	a.Quit(t.Context(), conn, q) // "Try again", while the hook still asks
	if len(hooks) != 1 {
		t.Errorf("%d hooks run, want 1", len(hooks))
	}
	if err := os.WriteFile(filepath.Join(dir, "answer"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := (<-hooks).Wait(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		t.Fatalf("it was ended: %v", err)
	default:
	}
	if err := os.WriteFile(filepath.Join(dir, "quit"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	<-p.done
	again, err := a.Launch("lulltest-hook", "LULL_ROOT=/there")
	if err != nil || len(again) != 1 {
		t.Fatal(again, err)
	}
	if _, err := again[0].Wait(); err != nil {
		t.Fatal(err)
	}
	want := "--hook quit lulltest-hook /there 153 in /\n--app second lulltest-hook /there  in " + dir + "\n"
	if b, err := os.ReadFile(out); string(b) != want {
		t.Errorf("got  %q %v\nwant %q", b, err, want)
	}
}

// TestEachApplication: of a package of which several applications run, each is restarted, once.
func TestEachApplication(t *testing.T) {
	dir := t.TempDir()
	launcher := filepath.Join(dir, "launcher")
	if err := os.WriteFile(launcher, []byte("#!/bin/sh\necho \"$*\" \"$DISPLAY\" >>"+dir+"/out\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_LAUNCHER", launcher)
	a, r := newAgain(t), &run{}
	for _, app := range []string{"one", "two", "two"} {
		cmd := exec.Command("cat")
		cmd.Env = []string{"LULL_APP=" + app, "DISPLAY=:" + app}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		// The kernel shows the environment a moment after the end of execve(2): an answer
		// proves that the program runs.
		if err == nil {
			_, err = io.WriteString(in, "x")
		}
		if err == nil {
			_, err = io.ReadFull(out, make([]byte, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		r.remember(cmd.Process.Pid)
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	a.runs["lulltest-each"] = r
	procs, err := a.Launch("lulltest-each")
	if err != nil || len(procs) != 2 {
		t.Fatal(procs, err)
	}
	for _, p := range procs {
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	slices.Sort(lines)
	if want := []string{"--app one lulltest-each :one", "--app two lulltest-each :two"}; err != nil || !slices.Equal(lines, want) {
		t.Errorf("the launcher was called with %q, %v, want %q", lines, err, want)
	}
}
