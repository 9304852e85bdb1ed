package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/e2e/require"
)

// tie makes the tether of a package, as the agent does before it makes it current.
func (w *world) tie(pkg digest.Digest) string {
	w.Helper()
	w.no(w.ctl.CreateTether(app, pkg.Short()))
	return w.ctl.TetherPath(app, pkg.Short())
}

// seal tries the lease of a tether; nil means denied.
func (w *world) seal(tether string) *vacancy.Seal {
	w.Helper()
	s, err := vacancy.NewLeases().Open(tether, nil)
	w.no(err)
	if s.Take().Granted() {
		return s
	}
	s.Close()
	return nil
}

// TestTether: a launch that nothing else tracks is known to run, with its children,
// until the last of them ends; a service is not.
func TestTether(t *testing.T) {
	w := newWorld(t)
	pkg := w.install(1, 0, false)
	tether := w.tie(pkg)
	l := w.start(app, "wait")
	l.expect(t, "revision 1\n")
	if w.seal(tether) != nil {
		t.Fatal("it runs and is not seen")
	}
	// The lock is free, and nothing else is handed on.
	lock, holders, err := w.ctl.TryWriteLock(app)
	if lock == nil || err != nil {
		t.Fatalf("the lock is held by %v (error %v), want it to be free", holders, err)
	}
	w.no(lock.Unlock())
	l.stop()
	if !vacancy.Retry(func() bool { s := w.seal(tether); return s != nil && closed(s) }) {
		t.Error("it has ended and is seen")
	}
	r := w.run(app, "fds")
	program := filepath.Join(w.root, "packages", pkg.String(), "bin/app")
	plain := w.end(exec.Command(program, "fds"))
	if want := strings.Split(plain.out+fmt.Sprintln(runctl.TetherFD), "\n"); !slices.Equal(sorted(want), sorted(strings.Split(r.out, "\n"))) {
		t.Errorf("descriptors %q, without the launcher %q", r.out, plain.out)
	}
	w.agent("subtree")
	s := w.start("--service", "daemon", app)
	s.expect(t, "revision 1\n")
	if seal := w.seal(tether); seal == nil {
		t.Error("a service holds the tether of applications")
	} else {
		seal.Close()
	}
	s.stop()
}

func closed(s *vacancy.Seal) bool { s.Close(); return true }

func sorted(list []string) []string { slices.Sort(list); return list }

// TestSealed: while a refresh has sealed the package, a launch waits for the end of the
// marker and takes what is current then.
func TestSealed(t *testing.T) {
	w := newWorld(t)
	tether := w.tie(w.install(1, 0, false))
	seal := w.seal(tether)
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	l := w.start(app, "wait")
	next := w.add(2, 1, false)
	w.tie(next)
	w.swap(2)
	seal.Close()
	w.no(w.ctl.ClearInhibited(app))
	l.expect(t, "revision 2\n")
	l.stop()
	// Without a marker, as for a launch that has the lock of a file which was replaced.
	seal = w.seal(w.ctl.TetherPath(app, next.Short()))
	r := w.run(app, "exit", "3")
	if r.code != 75 || !strings.Contains(r.stderr, "lull: cannot run "+app+": it is being refreshed\n") {
		t.Errorf("status %d: %s; want code 75 and %q in the error output", r.code, r.stderr, "lull: cannot run "+app+": it is being refreshed\n")
	}
	seal.Close()
	if r := w.run(app, "exit", "3"); r.code != 3 {
		t.Errorf("status %d, want 3: %s", r.code, r.stderr)
	}
}

// TestNothingOldInTheSection: launches without any cgroup of their own against
// continuous refreshes. Each application writes a mark of its own while it runs; none
// is there while the agent has the seal.
func TestNothingOldInTheSection(t *testing.T) {
	require.NotShort(t)
	w := newWorld(t)
	tether := w.tie(w.install(1, 0, false))
	marks := t.TempDir()
	var launchers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		launchers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				cmd := w.command(app, "mark", marks) // its input is empty: it ends at once
				if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState.ExitCode() != 1 {
					t.Errorf("%v: %s", err, out)
					return
				}
			}
		})
	}
	refreshed, busy := uint32(0), 0
	for deadline := time.Now().Add(60 * time.Second); refreshed < 30 && time.Now().Before(deadline) && !t.Failed(); {
		lock, _, err := w.ctl.TryWriteLock(app)
		w.no(err)
		if lock == nil {
			busy++
			time.Sleep(time.Millisecond)
			continue
		}
		seal := w.seal(tether)
		if seal == nil {
			w.no(lock.Unlock())
			busy++
			time.Sleep(time.Millisecond)
			continue
		}
		w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
		w.no(lock.Unlock())
		for range 5 {
			if left, err := os.ReadDir(marks); err != nil || len(left) > 0 {
				t.Errorf("in the critical section run %v (error %v), want no process and no error", left, err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		refreshed++
		next := w.add(refreshed+1, refreshed, false)
		tether = w.tie(next)
		w.swap(refreshed + 1)
		seal.Close()
		w.no(w.ctl.ClearInhibited(app))
	}
	close(stop)
	launchers.Wait()
	t.Logf("%d refreshes, busy %d times", refreshed, busy)
	if refreshed == 0 {
		t.Error("it was never vacant")
	}
}

func TestPlaceOf(t *testing.T) {
	const manager = "/user.slice/user-1000.slice/user@1000.service"
	top := t.TempDir()
	for group, procs := range map[string]string{
		"run-p4711-i4711.scope": "4711\n", "vte-spawn-0.scope": "12\n4711\n", "app-org.lull.notes@7.service": "4711\n",
		"app-lull-x-0123456789abcdef00000000.scope": "4711\n", "run-r7.scope": "",
	} {
		group = top + manager + "/app.slice/" + group
		if err := errors.Join(os.MkdirAll(group, 0o755), os.WriteFile(group+"/cgroup.procs", []byte(procs), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path, env string
		want      place
	}{
		{manager + "/app.slice/app-gnome-org.lull.notes-4711.scope", "", named},
		{manager + "/app.slice/app-gnome-xterm-12.scope", "", own}, // a terminal's, where a user types
		{manager + "/app.slice/app-lull-x-0123456789abcdef00000000.scope", "", own},
		{manager + "/app.slice/app-org.lull.notes@1.service", "SYSTEMD_EXEC_PID=4711", named},
		{manager + "/app.slice/app-org.lull.notes@1.service", "SYSTEMD_EXEC_PID=12", own},
		{manager + "/app.slice/run-p4711-i4711.scope", "", named},                           // systemd-run --scope, with limits perhaps
		{manager + "/app.slice/app-org.lull.notes@7.service", "SYSTEMD_EXEC_PID=12", named}, // by KIO, whose number that is
		{manager + "/app.slice/vte-spawn-0.scope", "", own},                                 // a terminal's, with a shell
		{manager + "/app.slice/run-r7.scope", "", own},                                      // whose processes are in another namespace
		{manager + "/init.scope", "", own},
		{"/user.slice/user-1000.slice/session-1.scope", "GIO_LAUNCHED_DESKTOP_FILE_PID=4711", named},
		{"/user.slice/user-1000.slice/session-1.scope", "GIO_LAUNCHED_DESKTOP_FILE_PID=12", foreign},
		{"/user.slice/user-1000.slice/session-1.scope/below", "", foreign},
		{"/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope", "", foreign}, // su in root's terminal
		{"/user.slice/user-10001.slice/user@10001.service/app.slice/x.service", "", foreign},
		{"/system.slice/cron.service", "SYSTEMD_EXEC_PID=900", foreign},
		{"/system.slice/nightly.service", "SYSTEMD_EXEC_PID=4711", foreign},
		{"/system.slice/system-at.slice/at@1.service", "", foreign},
		{"/machine.slice/libpod-1234.scope/container", "", foreign},
		{"/init.scope", "", nowhere},
		{"/docker/0123", "", nowhere},
		{"/../..", "", nowhere},
		{"/", "", nowhere},
	} {
		getenv := func(name string) string {
			key, value, _ := strings.Cut(c.env, "=")
			if key == name {
				return value
			}
			return ""
		}
		if got := placeOf(top, []cgroup.Membership{{Path: c.path}}, 1000, 4711, getenv); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.path, c.env, got, c.want)
		}
	}
}
