package desktops_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

// insideEnv marks the inside of a container that a test of the same name has
// booted. Screenshots are put into pictureDir there.
const (
	insideEnv  = "LULL_IN_CONTAINER"
	pictureDir = "/var/tmp/pictures"
)

// launches is how often an application is opened.
func launches(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LULL_LAUNCHES")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("LULL_LAUNCHES: %v", err)
	}
	return n
}

// onDesktop boots a container with a desktop and lull's package, with the
// application's first version installed, and runs the same test inside of it,
// as root, for more than ten minutes at most. It keeps the pictures that it takes.
func onDesktop(t *testing.T, set suite.Set, more time.Duration) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rig.GoBuild(t, "./e2e/desktops/marks", filepath.Join(dir, "marks"), nil)
	if os.Getenv("LULL_DESKTOPS") != "" {
		cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, "userd.test"), "./userd")
		cmd.Dir = rig.Module()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	deb := rig.Repacked(t, "deb", "1.0.0")
	c := rig.BootContainer(t, rig.ContainerOptions{Set: set, ReadOnly: []string{dir + ":" + programDir, self + ":/opt/desktops.test", filepath.Dir(deb) + ":/opt/packages"}})
	run := func(argv ...string) {
		t.Helper()
		if r := c.Service(patience, nil, argv...); r.Code != 0 {
			t.Fatalf("got %v, want exit status 0", r)
		}
	}
	run("dpkg", "--install", "/opt/packages/"+filepath.Base(deb))
	// The files that a user's manager reads at its start are new.
	run("sh", "-c", "mkdir -p /etc/lull "+pictureDir+" && chmod 1777 "+pictureDir+" && echo 'schedule: {check: 0}' > /etc/lull/policy.yaml && systemctl restart lulld user@1000")
	env := []string{insideEnv + "=1", "CI=" + os.Getenv("CI"), "LULL_LAUNCHES=" + os.Getenv("LULL_LAUNCHES"), programsEnv + "=" + os.Getenv(programsEnv), openersEnv + "=" + os.Getenv(openersEnv), "HOME=/root"}
	r := c.Service(time.Duration(launches(t))*10*time.Second+10*time.Minute+more, env, "/opt/desktops.test", "-test.v", "-test.timeout=0", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	if r.Code != 0 || !strings.Contains(r.Stdout, "--- PASS: "+t.Name()+" ") {
		t.Errorf("%v\n%s", r, c.Run("journalctl", "--boot", "--no-pager", "--lines=60", "--identifier=lulld", "--identifier=lull-userd", "--identifier=gnome-shell", "--identifier=lull-run", "--identifier="+desktop).Stdout)
	}
	t.Log(r.Stdout)
	keep := os.Getenv("LULL_PICTURES")
	if keep == "" {
		return
	}
	if strings.HasPrefix(t.Name(), "TestPrograms/") {
		keep = filepath.Join(keep, "programs") // many; git ignores them
	}
	for _, name := range strings.Fields(c.Run("ls", pictureDir).Stdout) {
		r := c.Run("cat", filepath.Join(pictureDir, name))
		if err := errors.Join(os.MkdirAll(keep, 0o755), os.WriteFile(filepath.Join(keep, name), []byte(r.Stdout), 0o644)); err != nil {
			t.Errorf("cannot keep a picture: %v", err)
		}
	}
}

// installed installs the application's first version.
func installed(t *testing.T) {
	t.Helper()
	lull(t, "repo", "init", repo)
	publish(t, 1)
	lull(t, "repo", "add", "local", repo)
	lull(t, "install", app)
	installTwin(t)
}

// sessionBus connects to the user's bus, which lets no other user in, not even
// root: it asks the kernel for the user of the thread that connects.
func sessionBus(t *testing.T) *dbus.Conn {
	t.Helper()
	const uid = 1000
	socket, err := func() (net.Conn, error) {
		runtime.LockOSThread() // as this thread alone changes its user
		const keep = ^uintptr(0)
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uid, keep); e != 0 {
			return nil, e
		}
		conn, err := net.Dial("unix", fmt.Sprintf("/run/user/%d/bus", uid))
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, 0, keep); e != 0 {
			return nil, e // the thread ends with the goroutine
		}
		runtime.UnlockOSThread()
		return conn, err
	}()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dbus.NewConn(socket, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err == nil {
		err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))})
	}
	if err == nil {
		err = conn.Hello()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// session runs a script in a session of the user's, of a type such as "wayland",
// until the end of the test. The channel is closed when it ends by itself.
func session(t *testing.T, kind, script string) (over <-chan struct{}) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-session", "--uid="+suite.Tester, "--property=PAMName=login",
		"--setenv=XDG_SESSION_CLASS=user", "--setenv=XDG_SESSION_TYPE="+kind, "--working-directory=/home/"+suite.Tester, "--", "bash", "-lc", script)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		exec.Command("systemctl", "stop", "test-session").Run()
		<-done
		if t.Failed() {
			t.Logf("the session has said:\n%s", out.String())
		}
	})
	return done
}

// untilName waits until a name has an owner on the bus; over is closed when it
// cannot come any more.
func untilName(t *testing.T, conn *dbus.Conn, name string, over <-chan struct{}) {
	t.Helper()
	changes := make(chan *dbus.Signal, 1024)
	conn.Signal(changes)
	defer conn.RemoveSignal(changes)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		t.Fatal(err)
	}
	for end := time.After(patience); ; {
		var has bool
		if err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has); err != nil {
			t.Fatal(err)
		}
		if has {
			return
		}
		select {
		case <-changes:
		case <-over:
			t.Fatalf("%s does not come: the session has ended", name)
		case <-end:
			t.Fatalf("%s does not come", name)
		}
	}
}
