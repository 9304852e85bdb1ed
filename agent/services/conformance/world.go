package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

// The instances, one of which is another key of the other.
const (
	app   = "org.lull-test.services"
	other = "org.lull-test.services_2"
)

// names are the services of the package.
var names = []string{"polite", "stubborn", "forks", "crashes", "missing", "reports", "unready"}

// reports are those that report when they are ready.
var reports = map[string]bool{"reports": true, "unready": true}

// program is all of them; its first argument selects one.
const program = `#!/bin/sh
say() { echo "$name $*" >>"$LULL_COMMON/log"; }
name=$1
case $name in
stubborn) trap '' TERM ;;
polite) for signal in TERM USR1; do trap "say got $signal; exit 0" $signal; done ;;
forks)
	trap 'exit 0' TERM
	for i in 1 2; do setsid sh -c "trap '' TERM; while :; do sleep 1000; done" & done ;;
esac
say is "$(id -un)"
say runs
[ $name != crashes ] || kill -SEGV $$
[ $name != unready ] || exit 7
if [ $name = reports ]; then
	until [ -e "$LULL_COMMON/go" ]; do sleep 0.05; done
	systemd-notify --ready
fi
while :; do sleep 1000 & wait; done
`

// world is a root with a package, a run directory and a tracker.
type world struct {
	root     string
	ctl      *runctl.Dir
	launcher services.Launcher
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Not t.TempDir, which other users cannot enter.
	dir, err := os.MkdirTemp("", "lull-services-")
	no(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	no(os.Chmod(dir, 0o755))
	ctl, err := runctl.Create(filepath.Join(dir, "run"))
	no(err)
	opts := o.Tracker
	opts.RunDir = ctl.RunDir()
	tracker, err := runs.Choose(opts)
	no(err)
	t.Cleanup(func() { no(tracker.Close()) })
	w := &world{root: filepath.Join(dir, "root"), ctl: ctl}
	w.launcher = services.Launcher{
		Path: lullRun(t, dir), Args: []string{"--root", w.root, "--run-dir", ctl.RunDir()}, Tracks: tracker,
	}

	l := &manifest.Launch{Name: "org.lull-test.services", Version: "1"}
	for _, name := range names {
		l.Services = append(l.Services, manifest.Service{Name: name, Command: []string{"bin/svc", name}, Ready: w.unit(app, name).Ready})
	}
	l.Service("missing").Command = []string{"bin/none"}
	b, err := l.Encode()
	no(err)
	pkg := digest.Of(b)
	tree := filepath.Join(w.root, "packages", pkg.String())
	for path, text := range map[string]string{".lull/launch.json": string(b), "bin/svc": program} {
		no(os.MkdirAll(filepath.Dir(filepath.Join(tree, path)), 0o755))
		no(os.WriteFile(filepath.Join(tree, path), []byte(text), 0o755))
	}
	for _, instance := range []string{app, other} {
		no(ctl.CreateInstance(instance))
		for _, folder := range []string{"current", "revisions/" + instance, "data/" + instance + "/common"} {
			no(os.MkdirAll(filepath.Join(w.root, folder), 0o755))
		}
		no(os.Symlink("../../packages/"+pkg.String(), filepath.Join(w.root, "revisions", instance, "1")))
		no(os.Symlink("../revisions/"+instance+"/1", filepath.Join(w.root, "current", instance)))
	}
	settings := launchconf.Settings{Tracker: tracker.Name(), Root: w.root}
	if tracker.Name() != "scope" {
		settings.Bus = w.agent(t)
	}
	no(launchconf.Write(ctl.RunDir(), settings))
	return w
}

// lullRun returns a launcher in dir, which every user can execute: a copy of that in
// $LULL_BIN, which may be below root's home, else one that is built here.
func lullRun(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "lull-run")
	if bin := os.Getenv("LULL_BIN"); bin != "" {
		built := filepath.Join(bin, "lull-run")
		if exec.Command("test", "-x", built).Run() == nil {
			if out, err := exec.Command("install", "-m755", built, path).CombinedOutput(); err != nil {
				t.Fatalf("install: %v: %s", err, out)
			}
			return path
		}
	}
	_, self, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "build", "-o", path, "./cmd/lull-run")
	cmd.Dir = filepath.Join(filepath.Dir(self), "..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build lull-run: %v\n%s", err, out)
	}
	return path
}

func (w *world) unit(instance, name string) services.Unit {
	u := services.Unit{Instance: instance, Service: manifest.Service{Name: name}}
	if reports[name] {
		u.Ready = manifest.ReadyNotify
	}
	return u
}

// remove takes an instance away.
func (w *world) remove(instance string) { os.Remove(filepath.Join(w.root, "current", instance)) }

// give has a user own the data, and returns the expected statusIDs.
func (w *world) give(instance, name string) string {
	u, err := user.Lookup(name)
	if err != nil {
		return err.Error()
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	groups, err := u.GroupIds()
	if err == nil {
		err = os.Chown(filepath.Join(w.root, "data", instance, "common"), uid, gid)
	}
	if err != nil {
		return err.Error()
	}
	slices.Sort(groups)
	return fmt.Sprintf("user %s, group %s, groups %s", u.Uid, u.Gid, strings.Join(groups, " "))
}

// statusIDs reads who a process is.
func statusIDs(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		t.Error(err)
	}
	field := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		field[key] = strings.Fields(value)
	}
	slices.Sort(field["Groups"])
	if len(field["Uid"]) == 0 || len(field["Gid"]) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("user %s, group %s, groups %s", field["Uid"][0], field["Gid"][0], strings.Join(field["Groups"], " "))
}

func itoa(n int) string { return strconv.Itoa(n) }

// agent answers the launchers of trackers that place, as the agent does, on a bus
// of its own; it returns the address.
func (w *world) agent(t *testing.T) string {
	t.Helper()
	require.Program(t, "dbus-daemon")
	address := bustest.Start(t)
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Export(&placer{conn: conn, tracker: w.launcher.Tracks}, "/org/lull/Agent1", "org.lull.Agent1.Manager"); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName("org.lull.Agent1", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v, %v", reply, err)
	}
	return address
}

// placer is the one method that launchers call.
type placer struct {
	conn    *dbus.Conn
	tracker runs.Tracker
	mu      sync.Mutex
}

// JoinRun puts the caller into a run.
func (p *placer) JoinRun(sender dbus.Sender, instance, pkg, service string) (string, *dbus.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pid uint32
	err := p.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, string(sender)).Store(&pid)
	var d digest.Digest
	if err == nil {
		d, err = digest.Parse(pkg)
	}
	var group string
	if err == nil {
		group, err = p.tracker.Attach(instance, d, service, int(pid), -1)
	}
	if err != nil {
		return "", dbus.NewError(errkind.Prefix+string(errkind.KindOf(err)), []any{err.Error()})
	}
	return group, nil
}

// goFile is what the service that reports when it is ready waits for.
func (w *world) goFile() string { return filepath.Join(w.root, "data", app, "common", "go") }
