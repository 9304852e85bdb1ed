package launch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/e2e/isolate"
	"github.com/lull/lull/e2e/require"
)

const app = "org.lull-test.launch"

// TestMain makes the test binary lull-run if its environment asks for that, so
// that the tests have a real exec in a real process.
func TestMain(m *testing.M) {
	if os.Getenv("LULL_TEST_RUN") != "" {
		os.Unsetenv("LULL_TEST_RUN")
		os.Exit(Main(context.Background(), os.Args[1:]))
	}
	os.Exit(isolate.Main(isolate.Unified, m.Run))
}

// script is the application: it prints its place, then obeys its first word.
const script = `#!/bin/sh
cgroup() { while IFS= read -r line; do echo "cgroup $line"; done </proc/self/cgroup; }
case "$1" in
tell) env | grep ^LULL_ | sort; cgroup; shift; echo "args $#"; for a; do echo "arg $a"; done ;;
fds) for fd in /proc/$$/fd/*; do echo "${fd##*/}"; done ;;
env) env | sort ;;
nest) shift; exec "$@" ;;
exit) exit "$2" ;;
wait) echo "revision $LULL_REVISION"; read line ;;
save) echo "$2" >>"$LULL_USER_DATA/file" ;;
load) cat "$LULL_USER_DATA/file" ;;
mark) >"$2/$$"; read line; rm "$2/$$" ;;
esac
`

// world is a root with packages, a run directory and a home.
type world struct {
	*testing.T
	root, home string
	ctl        *runctl.Dir
	settings   launchconf.Settings
	env        []string // more of launchers
	vars       map[string]manifest.Variable
	layout     map[string]string
	runtime    digest.Digest // the subpackage runtime, which is the root; zero for none
	xdg        bool
	imports    []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	ctl, err := runctl.Create(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, root: filepath.Join(dir, "root"), home: filepath.Join(dir, "home"), ctl: ctl}
	w.no(os.Mkdir(w.home, 0o755))
	w.no(ctl.CreateInstance(app))
	w.settings = launchconf.Settings{Bus: "unix:path=/nonexistent/bus", Tracker: "subtree", Root: w.root}
	w.tell()
	return w
}

func (w *world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// tell writes launch.json.
func (w *world) tell() {
	w.Helper()
	w.no(launchconf.Write(w.ctl.RunDir(), w.settings))
}

// install makes a revision and makes it current.
func (w *world) install(rev, from uint32, versioned bool) digest.Digest {
	w.Helper()
	pkg := w.add(rev, from, versioned)
	w.swap(rev)
	return pkg
}

func (w *world) add(rev, from uint32, versioned bool) digest.Digest {
	w.Helper()
	l := &manifest.Launch{
		Name: "org.lull-test.launch", Version: fmt.Sprint(rev), Data: manifest.Data{Versioned: versioned, XDG: w.xdg, Import: w.imports},
		Apps:        []manifest.App{{Name: "first", Command: []string{"bin/app", "exit", "3"}}, {Name: app, Command: []string{"bin/app"}}},
		Hooks:       map[string][]string{manifest.HookRefreshPending: {"bin/app", "tell", "the hook"}},
		Services:    []manifest.Service{{Name: "daemon", Command: []string{"bin/app", "wait"}}, {Name: "env", Command: []string{"bin/app", "env"}}},
		Environment: w.vars, Layout: w.layout,
	}
	if !w.runtime.IsZero() {
		l.Root, l.Subpackages = "runtime", map[string]digest.Digest{"runtime": w.runtime}
	}
	b, err := l.Encode()
	w.no(err)
	pkg := digest.Of(b)
	dir := filepath.Join(w.root, "packages", pkg.String())
	for path, text := range map[string]string{".lull/launch.json": string(b), "bin/app": script} {
		w.no(os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		w.no(os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755))
	}
	for name, sub := range l.Subpackages {
		w.no(os.MkdirAll(filepath.Join(dir, manifest.Reserved, "sub"), 0o755))
		w.no(os.Symlink("../../../"+sub.String(), filepath.Join(dir, manifest.SubpackageDir(name))))
	}
	revisions := filepath.Join(w.root, "revisions", app)
	w.no(os.MkdirAll(revisions, 0o755))
	link := filepath.Join(revisions, fmt.Sprint(rev))
	os.Remove(link)
	w.no(os.Symlink("../../packages/"+pkg.String(), link))
	if from != 0 {
		w.no(os.WriteFile(link+".from", []byte(fmt.Sprintln(from)), 0o644))
	}
	return pkg
}

func (w *world) swap(rev uint32) {
	w.Helper()
	current := filepath.Join(w.root, "current")
	w.no(os.MkdirAll(current, 0o755))
	tmp := filepath.Join(current, ".tmp")
	w.no(os.Symlink(fmt.Sprintf("../revisions/%s/%d", app, rev), tmp))
	w.no(os.Rename(tmp, filepath.Join(current, app)))
}

// untracked lets everything run without a tracker.
func (w *world) untracked() {
	w.Helper()
	w.settings.AllowUntracked = []string{app}
	w.tell()
}

// command is lull-run with these arguments after those for the directories and the bus.
func (w *world) command(args ...string) *exec.Cmd {
	w.Helper()
	return w.bare(append([]string{"--run-dir", w.ctl.RunDir()}, args...)...)
}

func (w *world) bare(args ...string) *exec.Cmd {
	w.Helper()
	self, err := os.Executable()
	w.no(err)
	cmd := exec.Command(self, args...)
	cmd.Env = append([]string{"LULL_TEST_RUN=1", "HOME=" + w.home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, w.env...)
	return cmd
}

// result is how a launch ended.
type result struct {
	code        int
	out, stderr string
}

func (w *world) run(args ...string) result {
	w.Helper()
	return w.end(w.command(args...))
}

func (w *world) end(cmd *exec.Cmd) result {
	w.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		w.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// live is a launch that goes on.
type live struct {
	cmd   *exec.Cmd
	in    io.Closer
	out   io.ReadCloser
	ended chan struct{}
}

func (w *world) start(args ...string) *live {
	w.Helper()
	cmd := w.command(args...)
	in, err := cmd.StdinPipe()
	w.no(err)
	r, o, err := os.Pipe()
	w.no(err)
	cmd.Stdout = o
	cmd.Stderr = w.Output()
	w.no(cmd.Start())
	o.Close()
	l := &live{cmd, in, r, make(chan struct{})}
	go func() {
		defer close(l.ended)
		cmd.Wait()
	}()
	w.Cleanup(l.stop)
	return l
}

func (l *live) stop() {
	l.in.Close()
	select {
	case <-l.ended:
	case <-time.After(10 * time.Second):
		l.cmd.Process.Kill()
		<-l.ended
	}
	l.out.Close()
}

// expect reads a line that the application writes.
func (l *live) expect(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(l.out, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// fakeAgent answers JoinRun on a private bus with a real tracker.
type fakeAgent struct {
	t       *testing.T
	conn    *dbus.Conn
	tracker runs.Tracker
	mu      sync.Mutex
	refuse  *dbus.Error
	soon    int // the number of refusals left, if limited
}

// JoinRun is the method of the bus.
func (a *fakeAgent) JoinRun(sender dbus.Sender, instance, pkg, service string) (string, *dbus.Error) {
	a.mu.Lock()
	refuse := a.refuse
	if a.soon > 0 {
		if a.soon--; a.soon == 0 {
			a.refuse = nil
		}
	}
	a.mu.Unlock()
	if refuse != nil {
		return "", refuse
	}
	var pid uint32
	err := a.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, string(sender)).Store(&pid)
	var group string
	if err == nil {
		var d digest.Digest
		if d, err = digest.Parse(pkg); err == nil {
			group, err = a.tracker.Attach(instance, d, service, int(pid), -1)
		}
	}
	if err != nil {
		return "", dbus.NewError(errkind.Prefix+string(errkind.KindOf(err)), []any{err.Error() + "\nhint: a hint"})
	}
	return group, nil
}

// agent starts a bus, a tracker and an agent between them.
func (w *world) agent(want string) *fakeAgent {
	w.Helper()
	require.Program(w, "dbus-daemon")
	opts := runs.Options{RunDir: w.ctl.RunDir(), Want: want}
	switch want {
	case "freezer":
		require.ReleaseAgent(w)
		require.Lock(w, "freezer")
		opts.ReleaseAgent = buildAgent(w.T)
	case "subtree":
		require.Unified(w)
	}
	tracker, err := runs.Choose(opts)
	w.no(err)
	w.Cleanup(func() {
		if err := tracker.Close(); err != nil {
			w.Error(err)
		}
	})
	address := bus(w.T)
	conn, err := dbus.Connect(address)
	w.no(err)
	w.Cleanup(func() { conn.Close() })
	a := &fakeAgent{t: w.T, conn: conn, tracker: tracker}
	w.no(conn.Export(a, agentPath, "org.lull.Agent1.Manager"))
	if reply, err := conn.RequestName(agentName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		w.Fatalf("%v, want %v, %v", reply, dbus.RequestNameReplyPrimaryOwner, err)
	}
	w.settings.Bus, w.settings.Tracker = address, want
	w.tell()
	return a
}

// bus starts a dbus-daemon without service files, and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lull-bus") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := filepath.Join(dir, "conf")
	text := `<busconfig><type>session</type><listen>unix:path=` + dir + `/bus</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, o, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("dbus-daemon", "--nofork", "--config-file="+conf, "--print-address=3")
	cmd.ExtraFiles = []*os.File{o}
	err = cmd.Start()
	o.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	b := make([]byte, 4096)
	n, err := r.Read(b) // it listens once it has printed
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b[:n]))
}

func buildAgent(t *testing.T) string {
	t.Helper()
	require.Program(t, "cc")
	_, self, _, _ := runtime.Caller(0)
	out := filepath.Join(t.TempDir(), "lull-release-agent")
	build := filepath.Join(filepath.Dir(self), "../../cmd/lull-release-agent/build.sh")
	if text, err := exec.Command("sh", build, out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func itoa(n int) string { return strconv.Itoa(n) }
