package container_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// TestEveryday boots a container with programs that start others (cron, at, terminal
// multiplexers) and with indexers, and runs TestStarters and TestIndexers in it, and
// the week of five applications in a session of its user.
func TestEveryday(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	week := filepath.Join(t.TempDir(), "week.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", week, "./e2e/week")
	build.Dir, build.Env = rig.Module(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := rig.BootContainer(t, rig.ContainerOptions{Set: suite.Everyday, ReadOnly: []string{rig.Binaries(t, "") + ":/opt/lull", rig.Module() + ":/opt/source", self + ":/opt/tests/container.test", week + ":/opt/tests/week.test"}})
	env := []string{insideEnv + "=1", "LULL_BIN=/opt/lull", "LULL_SOURCE=/opt/source", "CI=" + os.Getenv("CI"), "HOME=/root",
		"TMPDIR=/srv"} // localsearch leaves /tmp out
	for _, name := range []string{"TestStarters", "TestIndexers", "TestWeek"} {
		program := "/opt/tests/container.test"
		if name == "TestWeek" {
			program = "/opt/tests/week.test"
		}
		r := c.Service(10*time.Minute, env, program, "-test.v", "-test.timeout=0", "-test.run=^"+name+"$")
		if r.Code != 0 || !strings.Contains(r.Stdout, "--- PASS: "+name+" ") {
			t.Errorf("got %v, want exit status 0 and %q in the output", r, "--- PASS: "+name+" ")
		}
		t.Logf("%s took %v", name, r.Took.Round(time.Second))
	}
}

// everyday skips what TestEveryday runs in a container.
func everyday(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/usr/bin/tmux"); err != nil || os.Getenv(insideEnv) == "" {
		t.Skip("this part is for the inside of a container: TestEveryday runs it")
	}
}

// TestStarters: an application that a real cron, at or terminal multiplexer has started
// is waited for and named wherever it is put, and its end lets the refresh go on.
func TestStarters(t *testing.T) {
	everyday(t)
	m := newMoving(t)
	wrapper := filepath.Join(m.Store, "exports/bin", name)
	env := append(m.User.Command("true").Env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+m.User.Runtime()+"/bus")
	run := func(cmd *exec.Cmd) {
		t.Helper()
		cmd.Env = append(cmd.Env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+m.User.Runtime()+"/bus", "SCREENDIR="+m.User.Home+"/screens")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
		}
	}
	m.User.Must("mkdir", "-m", "700", m.User.Home+"/screens")
	for _, c := range []struct {
		name  string
		start func()
		in    string // a part of the name of the group where it stays; "" means that it may be moved: tmux makes a scope for each window
	}{
		{"cron", func() {
			// Jobs for the boot run at cron's first start, which leaves a mark.
			table := strings.Join(env, "\n") + "\n@reboot " + wrapper + "\n"
			load := exec.Command("crontab", "-u", m.User.Name, "-")
			load.Stdin = strings.NewReader(table)
			run(load)
			sh(t, "rm -f /run/crond.reboot /var/run/crond.reboot; systemctl restart cron")
		}, "cron.service"},
		{"at", func() {
			sh(t, "systemctl start atd")
			job := m.User.Command("at", "-M", "now")
			job.Stdin = strings.NewReader("exec " + wrapper + "\n")
			run(job)
		}, "atd.service"},
		{"tmux", func() { run(m.User.Command("tmux", "-L", "test", "new-session", "-d", wrapper)) }, ""},
		{"screen", func() { run(m.User.Command("screen", "-dmS", "test", wrapper)) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.t = t
			before := numbers(m.marks)
			c.start()
			app := m.started(m.marks, before)
			in := groupOf(t, app)
			t.Logf("%s's is in %s", c.name, in)
			if !strings.Contains(in, c.in) {
				t.Errorf("it is in %s, want %s", in, c.in)
			}
			m.waitsFor(app)
			to := m.other()
			if now := groupOf(t, app); c.in != "" && now != in {
				t.Errorf("the application is in %s now, want %s as before", now, in)
			}
			if err := syscall.Kill(app, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			m.settledDone()
			if now := revision(t, m.Scene); now != to {
				t.Errorf("revision %s is current, want %s", now, to)
			}
		})
	}
}

// TestIndexers: real indexers read a package when its refresh begins.
// None of them counts as running the application, and none holds a refresh up for longer
// than it reads.
func TestIndexers(t *testing.T) {
	everyday(t)
	m := newMoving(t)
	version := 2
	publish := func() {
		t.Helper()
		version++
		dir := m.Path(fmt.Sprint("v", version))
		sh(t, "cp -a %s %s && sed -i 's/^version: .*/version: \"%d\"/' %s/lull.yaml && echo %d >>%s/bin/tool && echo '# %d' >>%s/bin/app", m.Path("v2"), dir, version, dir, version, dir, version, dir)
		m.MustLull("publish", "--repo", m.Repo, dir)
	}
	bus := "DBUS_SESSION_BUS_ADDRESS=unix:path=" + m.User.Runtime() + "/bus"
	user := func(dir, script string) *exec.Cmd {
		cmd := m.User.Command("sh", "-euc", script, "sh", dir)
		cmd.Env = append(cmd.Env, bus)
		return cmd
	}
	must := func(cmd *exec.Cmd) string {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	for _, c := range []struct {
		name, start, unit string
	}{
		{"localsearch", `mkdir -p ~/.config/glib-2.0/settings
printf "[org/freedesktop/tracker/miner/files]\nindex-recursive-directories=['%s']\nindex-single-directories=@as []\ninitial-sleep=0\n" "$1" >~/.config/glib-2.0/settings/keyfile
systemd-run --user --quiet --collect --unit=localsearch --setenv=HOME="$HOME" --setenv=GSETTINGS_BACKEND=keyfile /usr/libexec/localsearch-3`, "localsearch"},
		{"baloo", `mkdir -p ~/.config
printf '[Basic Settings]\nIndexing-Enabled=true\n[General]\nfolders=%s\nexclude folders=\nexclude filters=\nonly basic indexing=false\n' "$1" >~/.config/baloofilerc
systemd-run --user --quiet --collect --unit=baloo --setenv=HOME="$HOME" --setenv=QT_QPA_PLATFORM=offscreen /usr/lib/x86_64-linux-gnu/libexec/kf6/baloo_file`, "baloo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.t = t
			for range 3 {
				pkg, err := filepath.EvalSymlinks(filepath.Join(m.Store, "current", name))
				if err != nil {
					t.Fatal(err)
				}
				opened := opens(t, pkg+"/bin/app", pkg+"/bin/tool")
				must(user(pkg, c.start))
				t.Logf("%s has opened %s", c.name, opened())
				publish()
				if r := m.Admin.RunWithin(limit, "lull", "refresh", "--wait", name); r.Code != 0 {
					t.Fatalf("got %v; want exit status 0; pending:\n%s", r, m.Lull("pending").Stdout)
				}
				if now := revision(t, m.Scene); now != strconv.Itoa(version) {
					t.Errorf("revision %s is current, want %d", now, version)
				}
				if state := must(user(pkg, "systemctl --user is-active "+c.unit)); state != "active\n" {
					t.Errorf("%s is %s, want %q", c.unit, state, "active\n")
				}
				must(user(pkg, "systemctl --user stop "+c.unit))
			}
		})
	}
	t.Run("updatedb", func(t *testing.T) {
		m.t = t
		db := m.Path("locate.db")
		ended := make(chan error, 1)
		loop := exec.Command("sh", "-euc", `i=0; while [ $i -lt 20 ]; do updatedb --database-root "$0" --output "$1" --prunepaths "" --require-visibility no; i=$((i+1)); done`, m.Store, db)
		loop.Stderr = os.Stderr
		if err := loop.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- loop.Wait() }()
		for range 3 {
			publish()
			if r := m.Admin.RunWithin(limit, "lull", "refresh", "--wait", name); r.Code != 0 {
				t.Fatalf("got %v, want exit status 0", r)
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if found := sh(t, "locate --database %s bin/tool", db); !strings.Contains(found, "/bin/tool") {
			t.Errorf("locate finds %q; want %q in the found", found, "/bin/tool")
		}
	})
}

// opens returns a function that waits until a process has opened one of the files, and
// returns which.
func opens(t *testing.T, paths ...string) (wait func() string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	watched := map[int32]string{}
	for _, path := range paths {
		wd, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN)
		if err != nil {
			t.Fatal(err)
		}
		watched[int32(wd)] = filepath.Base(path)
	}
	return func() string {
		t.Helper()
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n != 1 || err != nil {
				t.Fatalf("none of %v was opened: %v; want 1 and no error", watched, err)
			}
			buf := make([]byte, 4096)
			if n, err = unix.Read(fd, buf); err != nil || n < unix.SizeofInotifyEvent {
				t.Fatalf("reading an event of inotify: got %d bytes, %v; want at least %d and no error", n, err, unix.SizeofInotifyEvent)
			}
			return watched[int32(binary.NativeEndian.Uint32(buf))] // inotify(7)
		}
	}
}
