package launch

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/e2e/require"
)

func TestTracked(t *testing.T) {
	for _, tracker := range []string{"subtree", "freezer"} {
		t.Run(tracker, func(t *testing.T) {
			w := newWorld(t)
			a := w.agent(tracker)
			pkg := w.install(4, 0, true)
			r := w.run(app, "tell", "--app", "two words", "")
			if r.code != 0 || r.stderr != "" {
				t.Fatalf("status %d: %s; want code 0 and no error output", r.code, r.stderr)
			}
			data := filepath.Join(w.home, ".local/share/lull", app)
			for _, line := range []string{
				"LULL_INSTANCE=" + app, "LULL_REVISION=4",
				"LULL_PACKAGE_DIR=" + filepath.Join(w.root, "packages", pkg.String()),
				"LULL_DATA=" + filepath.Join(w.root, "data", app, "4"),
				"LULL_COMMON=" + filepath.Join(w.root, "data", app, "common"),
				"LULL_USER_DATA=" + data + "/4", "LULL_USER_COMMON=" + data + "/common",
				"args 3", "arg --app", "arg two words", "arg ",
			} {
				if !slices.Contains(strings.Split(r.out, "\n"), line) {
					t.Errorf("the line %q is missing in:\n%s", line, r.out)
				}
			}
			if want := app + "/" + pkg.Short() + "."; !strings.Contains(r.out, want) {
				t.Errorf("no cgroup with %s in:\n%s", want, r.out)
			}

			l := w.start(app, "wait")
			l.expect(t, "revision 4\n")
			ps, err := a.tracker.Busy(app)
			if err != nil || len(ps) != 1 || ps[0].PID != l.cmd.Process.Pid {
				t.Errorf("busy: %+v, %v, want process %d", ps, err, l.cmd.Process.Pid)
			}
			// A launch that is over blocks no other.
			lock, holders, err := w.ctl.TryWriteLock(app)
			if lock == nil || err != nil {
				t.Fatalf("the lock is still held by %v: %v", holders, err)
			}
			w.no(lock.Unlock())
			if ps, _ := a.tracker.ServiceProcs(app, ""); len(ps) != 0 {
				t.Errorf("the application counts as a service: got %+v, want 0 of them", ps)
			}
			s := w.start("--service", "daemon", app)
			s.expect(t, "revision 4\n")
			if ps, err := a.tracker.ServiceProcs(app, "daemon"); err != nil || len(ps) != 1 || ps[0].PID != s.cmd.Process.Pid {
				t.Errorf("service: %+v, %v; want no error, 1 of them and pid %v", ps, err, s.cmd.Process.Pid)
			}
			l.stop()
			if ps, err := a.tracker.Busy(app); err != nil || len(ps) != 0 {
				t.Errorf("the service makes the application busy: %+v, %v; want no error and 0 of them", ps, err)
			}
			s.stop()
		})
	}
}

func TestNothingIsHandedOn(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	r := w.run(app, "fds")
	// The shell's own descriptors, and those that this test was started with.
	program, err := filepath.Glob(filepath.Join(w.root, "packages/*/bin/app"))
	w.no(err)
	plain := w.end(exec.Command(program[0], "fds"))
	if r.code != 0 || r.out != plain.out {
		t.Errorf("descriptors %q, without the launcher %q, status %d: %s", r.out, plain.out, r.code, r.stderr)
	}
	r = w.end(w.with(w.command(app, "tell"), "LULL_REVISION=99", "LULL_DATA=/etc", "LULL_ELSE=1"))
	if strings.Contains(r.out, "=99") || strings.Contains(r.out, "/etc") || !strings.Contains(r.out, "LULL_ELSE=1\n") {
		t.Errorf("got the environment below, want LULL_ELSE=1 kept, and neither revision 99 nor /etc from outside:\n%s", r.out)
	}
}

func (w *world) with(cmd *exec.Cmd, env ...string) *exec.Cmd {
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func TestWhatIsRun(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{app, "exit", "7"}, 7, ""},
		{[]string{"--app", "first", app}, 3, ""},
		{[]string{"--app", "none", app}, 1, "lull: cannot run org.lull-test.launch: it has no application \"none\"\nhint: it has first, org.lull-test.launch\n"},
		{[]string{"--service", "none", app}, 1, "lull: cannot run org.lull-test.launch: it has no service \"none\"\n"},
		{[]string{"org.other"}, 1, "lull: cannot run org.other: it is not installed\nhint: lull list shows what is; lull install org.other installs it\n"},
		{[]string{"../x"}, 65, "lull: cannot run ../x: cannot use \"../x\" as an instance: "},
		{[]string{}, 64, "lull: cannot run nothing: name an instance\n"},
		{[]string{"--app", "a", "--service", "b", app}, 64, "lull: cannot run org.lull-test.launch: --app and --service exclude each other\n"},
		{[]string{"--what", app}, 64, "lull: cannot understand the command line: "},
	} {
		r := w.run(c.args...)
		if got := quietly(r.stderr); r.code != c.code || (c.stderr == "") != (got == "") || !strings.HasPrefix(got, c.stderr) {
			t.Errorf("%q: status %d, want %d\n%s", c.args, r.code, c.code, got)
		}
	}
	if r := w.run("--help"); r.code != 0 || r.out != Usage {
		t.Errorf("status %d: %s; want code 0 and output %v", r.code, r.out, Usage)
	}
}

// quietly removes the lines that are printed because there is neither journal nor log.
func quietly(stderr string) string {
	var kept []string
	for line := range strings.Lines(stderr) {
		if !strings.Contains(line, " runs untracked, as policy allows: ") && !strings.Contains(line, " waits: ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func TestBrokenStore(t *testing.T) {
	w := newWorld(t)
	pkg := w.install(1, 0, false)
	w.untracked()
	dir := filepath.Join(w.root, "packages", pkg.String())
	launch := filepath.Join(dir, ".lull/launch.json")
	whole, err := os.ReadFile(launch)
	w.no(err)
	for name, harm := range map[string]func() error{
		"bad meta":   func() error { return os.WriteFile(launch, []byte("{}"), 0o644) },
		"no meta":    func() error { return os.Remove(launch) },
		"no program": func() error { return os.Rename(dir+"/bin/app", dir+"/bin/gone") },
		"odd link": func() error {
			os.Remove(w.root + "/current/" + app)
			return os.Symlink("/etc", w.root+"/current/"+app)
		},
	} {
		w.no(harm())
		if r := w.run(app, "exit", "0"); r.code == 0 || !strings.Contains(r.stderr, "lull: cannot run "+app+": ") {
			t.Errorf("%s: got status %d and the error output %q, want a failure and %q", name, r.code, r.stderr, "lull: cannot run "+app+": ")
		}
		w.no(os.WriteFile(launch, whole, 0o644))
		os.Rename(dir+"/bin/gone", dir+"/bin/app")
		w.swap(1)
	}
	if r := w.run(app, "exit", "5"); r.code != 5 {
		t.Errorf("status %d, want 5: %s", r.code, r.stderr)
	}
}

func TestWrapper(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	wrapper := filepath.Join(t.TempDir(), "app")
	self, err := os.Executable()
	w.no(err)
	w.no(os.WriteFile(wrapper, fmt.Appendf(nil, "#!%s --wrapper\n# made by lull\ninstance=%s\napp=first\nroot=%s\nrun-dir=%s\nlater=x\n",
		self, app, w.root, w.ctl.RunDir()), 0o755))
	cmd := exec.Command(wrapper, "a", "--app", "b")
	cmd.Env = w.bare().Env
	if r := w.end(cmd); r.code != 3 {
		t.Errorf("status %d, want 3: %s", r.code, r.stderr)
	}
	for text, want := range map[string]string{"#!x\nnonsense\n": ":2: want KEY=VALUE", "#!x\napp=first\n": " names no instance"} {
		bad := filepath.Join(t.TempDir(), "bad")
		w.no(os.WriteFile(bad, []byte(text), 0o644))
		if _, err := ParseArgs([]string{"--wrapper", bad}); !errkind.Is(err, errkind.Invalid) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v; want an error of kind %v and error that ends with %q", text, err, errkind.Invalid, want)
		}
	}
	o, err := ParseArgs([]string{"--wrapper", wrapper, "--app", "x"})
	if err != nil || o.App != "first" || !slices.Equal(o.Args, []string{"--app", "x"}) {
		t.Errorf("%+v, %v; want no error, app %q and args %v", o, err, "first", []string{"--app", "x"})
	}
}

func TestUntrackable(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	r := w.run(app, "exit", "0")
	if r.code != 69 || !strings.Contains(r.stderr, "lull: cannot run "+app+": it cannot be tracked: cannot reach the agent's bus: ") ||
		!strings.Contains(r.stderr, "hint: a refresh would not see that it runs; allow-untracked in the policy permits that\n") {
		t.Errorf("status %d: %s; want code 69, %q in the error output and %q in the error output", r.code, r.stderr, "lull: cannot run "+app+": it cannot be tracked: cannot reach the agent's bus: ", "hint: a refresh would not see that it runs; allow-untracked in the policy permits that\n")
	}
	w.settings.AllowUntracked = []string{"org.other"}
	w.tell()
	if r := w.run(app, "exit", "0"); r.code != 69 {
		t.Errorf("status %d, want 69: %s", r.code, r.stderr)
	}
	w.untracked()
	if r := w.run(app, "exit", "4"); r.code != 4 {
		t.Errorf("status %d, want 4: %s", r.code, r.stderr)
	}
}

// TestAgentSaysNo: what the agent refuses, allow-untracked does not permit.
func TestAgentSaysNo(t *testing.T) {
	w := newWorld(t)
	a := w.agent("subtree")
	w.install(1, 0, false)
	w.untracked()
	for kind, code := range map[errkind.Kind]int{errkind.Busy: 75, errkind.NotPermitted: 77, errkind.NotFound: 1} {
		a.mu.Lock()
		a.refuse = dbus.NewError(errkind.Prefix+string(kind), []any{"the text of it\nhint: the hint of it"})
		a.mu.Unlock()
		r := w.run(app, "exit", "0")
		if want := "lull: cannot run " + app + ": the text of it\nhint: the hint of it\n"; r.code != code || r.stderr != want {
			t.Errorf("%s: status %d, want %d: %s", kind, r.code, code, r.stderr)
		}
	}
}

// TestAgentSaysNotNow: a restarted agent inhibits launches while one is
// already inside. The launch begins anew.
func TestAgentSaysNotNow(t *testing.T) {
	w := newWorld(t)
	a := w.agent("subtree")
	w.install(1, 0, false)
	a.mu.Lock()
	a.refuse, a.soon = dbus.NewError(errkind.Prefix+string(errkind.Busy), []any{"not now"}), 3
	a.mu.Unlock()
	if r := w.run(app, "exit", "6"); r.code != 6 {
		t.Errorf("status %d, want 6: %s", r.code, r.stderr)
	}
}

// TestFakeJoin: the agent claims to have moved the launcher, the kernel shows otherwise.
func TestFakeJoin(t *testing.T) {
	w := newWorld(t)
	address := bus(t)
	conn, err := dbus.Connect(address)
	w.no(err)
	t.Cleanup(func() { conn.Close() })
	w.no(conn.ExportMethodTable(map[string]any{
		"JoinRun": func(string, string, string) (string, *dbus.Error) { return "/lull/app/anywhere", nil },
	}, agentPath, "org.lull.Agent1.Manager"))
	_, err = conn.RequestName(agentName, 0)
	w.no(err)
	w.settings.Bus = address
	w.tell()
	w.install(1, 0, false)
	if r := w.run(app, "exit", "0"); r.code != 69 || !strings.Contains(r.stderr, "the kernel does not show it in its run") {
		t.Errorf("status %d: %s; want code 69 and %q in the error output", r.code, r.stderr, "the kernel does not show it in its run")
	}
}

// TestInhibited: launches wait for the end of the marker and get the new
// revision; services wait for less.
func TestInhibited(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	for _, word := range []string{runctl.RefreshPending, runctl.RefreshInProgress, runctl.RefreshStarting} {
		w.install(1, 0, false)
		w.no(w.ctl.SetInhibited(app, word))
		svc := w.start("--service", "daemon", app)
		own := w.start("--service", "daemon", "--session", app)
		l := w.start(app, "wait")
		// It waits: it prints a message and releases the lock.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if fds, _ := filepath.Glob("/proc/" + itoa(l.cmd.Process.Pid) + "/fd/*"); slices.ContainsFunc(fds, isInotify) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: it does not wait", word)
			}
		}
		if word != runctl.RefreshInProgress {
			svc.expect(t, "revision 1\n")
		}
		if word == runctl.RefreshPending {
			own.expect(t, "revision 1\n")
		}
		lock, holders, err := w.ctl.TryWriteLock(app)
		if err != nil || lock == nil {
			t.Fatalf("%s: the lock of those that wait is held by %v (error %v), want it to be free", word, holders, err)
		}
		w.install(2, 1, false)
		w.no(lock.Unlock())
		if word == runctl.RefreshInProgress {
			w.no(w.ctl.SetInhibited(app, runctl.RefreshStarting))
			svc.expect(t, "revision 2\n")
		}
		w.no(w.ctl.ClearInhibited(app))
		if word != runctl.RefreshPending {
			own.expect(t, "revision 2\n")
		}
		l.expect(t, "revision 2\n")
		l.stop()
		own.stop()
		svc.stop()
	}
}

func isInotify(fd string) bool {
	target, _ := os.Readlink(fd)
	return target == "anon_inode:inotify"
}

// TestWaitingIsSaid on a terminal.
func TestWaitingIsSaid(t *testing.T) {
	require.Program(t, "script")
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	launch := w.command(app, "exit", "0")
	cmd := exec.Command("script", "--quiet", "--return", "--command", strings.Join(launch.Args, " "), "/dev/null")
	cmd.Env = append(launch.Env, "SHELL=/bin/sh")
	r, o, err := os.Pipe()
	w.no(err)
	cmd.Stdout = o
	w.no(cmd.Start())
	o.Close()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		r.Close()
	})
	want := "lull: " + app + " waits: it is being refreshed\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want no error and %v", got, err, want)
	}
	w.no(w.ctl.ClearInhibited(app))
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestAfterBoot: the package is there, its lock file is not.
func TestAfterBoot(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.no(w.ctl.RemoveInstance(app))
	if r := w.run(app, "exit", "0"); r.code != 69 || !strings.Contains(r.stderr, "the agent has not run since the machine started: ") {
		t.Errorf("status %d: %s; want code 69 and %q in the error output", r.code, r.stderr, "the agent has not run since the machine started: ")
	}
	w.no(os.RemoveAll(w.ctl.Path()))
	if r := w.run(app, "exit", "0"); r.code != 69 {
		t.Errorf("status %d, want 69: %s", r.code, r.stderr)
	}
	if r := w.run("org.other", "exit", "0"); r.code != 1 {
		t.Errorf("status %d, want 1: %s", r.code, r.stderr)
	}
}

// TestExecFD: the starter of a service learns of the exec.
func TestExecFD(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	r, o, err := os.Pipe()
	w.no(err)
	defer r.Close()
	cmd := w.with(w.command(app, "wait"), launchconf.ExecFDEnv+"=3")
	cmd.ExtraFiles = []*os.File{o}
	in, err := cmd.StdinPipe()
	w.no(err)
	w.no(cmd.Start())
	o.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) != 0 {
		t.Errorf("got %q, %v; want no error and 0 content", b, err)
	}
	in.Close()
	cmd.Wait()
	for _, bad := range []string{"", "x", "2", "77"} {
		if r := w.end(w.with(w.command(app, "exit", "0"), launchconf.ExecFDEnv+"="+bad)); r.code != 64 {
			t.Errorf("%q: status %d, want 64: %s", bad, r.code, r.stderr)
		}
	}
}

// TestNoWindow is the first promise: between the agent's look under the
// exclusive lock and the end of its critical section nothing runs, however many
// launches come.
func TestNoWindow(t *testing.T) {
	require.NotShort(t)
	w := newWorld(t)
	a := w.agent("subtree")
	w.install(1, 0, false)
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
				cmd := w.command(app, "exit", "9")
				if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 9 {
					t.Errorf("a launch ended with %v, want exit status 9: %s", err, out)
					return
				}
			}
		})
	}
	rev, refreshed, busy := uint32(1), 0, 0
	for deadline := time.Now().Add(20 * time.Second); refreshed < 20 && time.Now().Before(deadline) && !t.Failed(); {
		lock, _, err := w.ctl.TryWriteLock(app)
		w.no(err)
		if lock == nil {
			busy++
			time.Sleep(time.Millisecond)
			continue
		}
		ps, err := a.tracker.Busy(app)
		w.no(err)
		if len(ps) > 0 {
			busy++
			w.no(lock.Unlock())
			time.Sleep(time.Millisecond)
			continue
		}
		w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
		w.no(lock.Unlock())
		for range 5 {
			time.Sleep(2 * time.Millisecond)
			if ps, err := a.tracker.Busy(app); err != nil || len(ps) > 0 {
				t.Errorf("in the critical section run %+v (error %v), want no process and no error", ps, err)
			}
		}
		rev++
		w.install(rev, rev-1, false)
		w.no(w.ctl.ClearInhibited(app))
		refreshed++
	}
	close(stop)
	launchers.Wait()
	t.Logf("%d refreshes, busy %d times", refreshed, busy)
	if refreshed == 0 {
		t.Error("it was never vacant")
	}
}

// TestSmallImports keeps the launcher what it is: fast to start.
func TestSmallImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/lull/lull/cmd/lull-run").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	allowed := []string{
		"github.com/lull/lull/cmd/lull-run", "github.com/lull/lull/agent/lib/launchconf", "github.com/lull/lull/agent/lib/environment", "github.com/lull/lull/userd/launch", "github.com/lull/lull/agent/lib/cgroup",
		"github.com/lull/lull/agent/lib/copytree", "github.com/lull/lull/agent/lib/digest", "github.com/lull/lull/agent/lib/faultpoint",
		"github.com/lull/lull/agent/lib/messages", "github.com/lull/lull/agent/lib/manifest", "github.com/lull/lull/agent/lib/printable", "github.com/lull/lull/agent/lib/errkind", "github.com/lull/lull/agent/lib/runctl",
		"github.com/lull/lull/agent/lib/inotify", "github.com/lull/lull/agent/lib/runname", "github.com/lull/lull/agent/lib/scopes",
		"github.com/lull/lull/userd/userdata", "github.com/lull/lull/userd/xdg", "github.com/lull/lull/agent/lib/durable", "github.com/lull/lull/agent/lib/storeid", "github.com/lull/lull/agent/lib/dialer", "github.com/lull/lull/agent/lib/words", "github.com/lull/lull/agent/lib/texts/po",
		"github.com/godbus/dbus/v5", "github.com/coreos/go-systemd/v22/daemon", "github.com/coreos/go-systemd/v22/journal", "golang.org/x/sys/unix",
	}
	for dep := range strings.FieldsSeq(string(out)) {
		first, _, _ := strings.Cut(dep, "/")
		if strings.Contains(first, ".") && !slices.Contains(allowed, dep) {
			t.Errorf("the launcher imports %s, want only the packages of the list allowed", dep)
		}
		for _, heavy := range []string{"net/http", "crypto/tls", "regexp", "text/template", "log/slog", "go/ast", "encoding/xml"} {
			if dep == heavy {
				t.Errorf("the launcher imports %s, want it without such heavy packages", dep)
			}
		}
	}
}
