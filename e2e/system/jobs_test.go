package system_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// job waits until a job is in a state, and returns it.
func (s *scene) job(path dbus.ObjectPath, state string) (p bus.JobProperties) {
	s.Helper()
	job := bus.NewJobProxy(s.Bus.Connect(), path)
	s.Until("job "+string(path)+" is "+state, limit, func() (bool, string) {
		var err error
		p, err = job.Properties(s.Context())
		return err == nil && p.State == state, p.State + " " + p.ErrorText
	})
	return p
}

// called runs gdbus or busctl and returns the path that it prints.
func (s *scene) called(argv ...string) dbus.ObjectPath {
	s.Helper()
	out, err := exec.CommandContext(s.Context(), argv[0], argv[1:]...).CombinedOutput()
	_, path, _ := strings.Cut(string(out), "/org/lull")
	path, _, _ = strings.Cut(path, "'")
	path, _, _ = strings.Cut(path, "\"")
	if err != nil || path == "" {
		s.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return dbus.ObjectPath("/org/lull" + path)
}

func (s *scene) busctl(iface, method string, args ...string) dbus.ObjectPath {
	s.Helper()
	return s.called(append([]string{"busctl", "--address=" + s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName + "." + iface, method}, args...)...)
}

// kind checks the kind of an error.
func (s *scene) kind(err error, kind errkind.Kind) {
	s.Helper()
	if !errkind.Is(err, kind) {
		s.Errorf("got %v, want the error %s", err, kind)
	}
}

// TestResolveJob: a package is fetched by a job, which shows the progress, belongs to the
// connection that has started it, can be cancelled, and protects its result until it is
// taken or the caller has left.
func TestResolveJob(t *testing.T) {
	require.Program(t, "busctl", "gdbus")
	s := set(t, 0, rig.Options{})
	const name = "org.test.paint"
	hash := s.Publish(s.write(name, "1", 0.1, "", nil))
	g := s.gate()
	s.StartAgent()
	s.MustLull("repo", "add", "web", g.URL, "--trust", filepath.Join(s.Repo, "root.json"))
	ctx := t.Context()
	conn, other := s.Bus.Connect(), s.Bus.Connect()
	m := bus.NewManagerProxy(conn, bus.AgentPath)
	hold := func() (reached, open chan struct{}) { return g.hold(s.blobOf(name, "1")) }

	reached, open := hold()
	path, err := m.StartResolve(ctx, name, bus.ResolveOptions{})
	s.NoError(err)
	<-reached
	s.Until("the job shows the size", limit, func() (bool, string) {
		p, err := bus.NewJobProxy(other, path).Properties(ctx)
		return err == nil && p.BytesTotal > 100_000, p.State
	})
	if p := s.job(path, "running"); p.Kind != "resolve" || p.Subject != name || p.User != 0 || p.Started == 0 || p.Hash != "" {
		t.Errorf("got the job %+v, want one of kind resolve, of %s and user 0, started, without a hash", p, name)
	}
	job := bus.NewJobProxy(conn, path)
	_, _, err = job.Take(ctx)
	s.kind(err, errkind.Busy)
	_, _, err = bus.NewJobProxy(other, path).Take(ctx)
	s.kind(err, errkind.NotPermitted)
	stranger := s.Ordinary("games").Run("busctl", "--address="+s.Bus.Address, "call", rig.AgentName, string(path), bus.JobInterface, "Cancel")
	if stranger.Code == 0 || !strings.Contains(stranger.Stderr, "cannot") {
		t.Errorf("another user cancels it: got %v, want a failure and %q in the error output", stranger, "cannot")
	}
	s.job(path, "running")
	s.NoError(bus.NewJobProxy(other, path).Cancel(ctx)) // it is of the same user
	if p := s.job(path, "cancelled"); p.ErrorName != errkind.Prefix+string(errkind.Interrupted) || p.ErrorText == "" {
		t.Errorf("got %+v, want error %v and some error text", p, errkind.Prefix+string(errkind.Interrupted))
	}
	_, _, err = job.Take(ctx)
	s.kind(err, errkind.Interrupted)
	close(open)

	path, err = m.StartResolve(ctx, name, bus.ResolveOptions{})
	s.NoError(err)
	if p := s.job(path, "done"); p.Hash != hash || p.Version != "1" || p.BytesDone != p.BytesTotal || p.ErrorName != "" {
		t.Errorf("got %+v, want hash %v, version %q, bytes done %v and no error", p, hash, "1", p.BytesTotal)
	}
	s.MustLull("gc")
	s.has(true, hash) // not taken yet
	fds, err := bus.DialFDs(ctx, s.Bus.Address, true)
	s.NoError(err)
	defer fds.Close()
	path, err = bus.NewManagerProxy(fds, bus.AgentPath).StartResolve(ctx, name, bus.ResolveOptions{})
	s.NoError(err)
	s.job(path, "done")
	job = bus.NewJobProxy(fds, path)
	dir, lease, err := job.Take(ctx)
	s.NoError(err)
	if _, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d/version", dir.Fd())); err != nil {
		t.Error(err)
	}
	dir.Close()
	_, _, err = job.Take(ctx)
	s.kind(err, errkind.NotFound)
	s.NoError(conn.Close()) // and with it what was not taken
	s.MustLull("gc")
	s.has(true, hash)
	s.NoError(fds.Close())
	s.MustLull("gc")
	s.has(true, hash) // the lease is no matter of the connection
	lease.Close()
	s.Until("the package is collected", limit, func() (bool, string) { s.MustLull("gc"); return !s.resident(hash), "it is there" })

	// gdbus leaves the bus after its call, and the job ends with it.
	reached, open = hold()
	path = s.called("gdbus", "call", "--address="+s.Bus.Address, "--dest="+rig.AgentName, "--object-path="+rig.AgentPath,
		"--method="+rig.AgentName+".Manager.StartResolve", name, "{}")
	s.job(path, "cancelled")
	close(open)
	select {
	case <-reached: // or it was cancelled before
	default:
	}
	if _, err := bus.NewManagerProxy(other, bus.AgentPath).StartResolve(ctx, "Not A Name", bus.ResolveOptions{}); err != nil {
		t.Errorf("a failure of the work is that of the job: %v", err)
	}
	s.has(false, hash)
}

// TestJobs: the store is verified, repaired and collected, a retained package resolved and
// a system committed by jobs that go on when their caller has left the bus. Their
// documentation is in the live introspection, and Ctrl-C reports the continuing work.
func TestJobs(t *testing.T) {
	require.Program(t, "busctl", "gdbus")
	s := set(t, 0, rig.Options{})
	two := s.update(update{version: "2", baseMB: 0.1, silent: true})
	g := s.gate()
	s.StartAgent()
	s.MustLull("repo", "add", "web", g.URL, "--trust", filepath.Join(s.Repo, "root.json"))
	s.says("system 2 is staged: it takes effect when the machine starts again\n", "system", "stage", osName)
	s.reboot("second")

	path := s.busctl("Space", "StartVerify", "a{sv}", "0")
	if p := s.job(path, "done"); p.Kind != "verify" || p.Checked < 4 || len(p.Findings) != 0 || p.BytesTotal == 0 || p.BytesDone != p.BytesTotal {
		t.Errorf("got the job %+v, want one of kind verify that has checked 4 at least, all bytes, and found nothing", p)
	}
	introspected := s.Admin.Must("busctl", "--address="+s.Bus.Address, "introspect", "--xml-interface", rig.AgentName, string(path)).Stdout
	for _, want := range []string{"running, done, failed or cancelled.", "Number of the job", "org.lull.Error.LimitsExceeded", "Returns the result of Manager.StartResolve once"} {
		if !strings.Contains(introspected, want) {
			t.Errorf("the live introspection lacks %q", want)
		}
	}

	// A broken file is found, and repaired; what repairs it goes on without its caller.
	blob := s.blobOf("org.test.base", "2")
	file := filepath.Join(s.Store, "blobs", blob[:2], blob)
	if _, err := os.Stat(file); err != nil {
		file += "x"
	}
	s.NoError(os.Chmod(file, 0o644))
	s.NoError(os.WriteFile(file, []byte("broken"), 0o644))
	if p := s.job(s.busctl("Space", "StartVerify", "a{sv}", "0"), "done"); len(p.Findings) == 0 || p.Findings[0].Repaired {
		t.Errorf("a verification of a broken blob: got the job %+v, want a finding that is not repaired", p)
	}
	reached, open := g.hold(blob)
	command := s.Admin.StartLull(nil, "verify", "--repair")
	<-reached
	command.Signal(syscall.SIGINT)
	s.ends(command, 1, "lull: cannot repair the store: interrupted\nhint: the repair goes on; `lull verify` waits for its end and checks again\n")
	close(open)
	repair := s.API.Objects("Job")
	if len(repair) == 0 {
		t.Fatal("there is no job")
	}
	for _, o := range repair {
		if o.Str("Kind") == "repair" {
			if p := s.job(dbus.ObjectPath(o.Path), "done"); len(p.Findings) == 0 || !p.Findings[0].Repaired {
				t.Errorf("a repair of a broken blob: got the job %+v, want a finding that is repaired", p)
			}
		}
	}
	if r := s.MustLull("verify"); !strings.Contains(r.Stdout, "no problems found") {
		t.Errorf("got %v, want %q in the output", r, "no problems found")
	}

	// A sick system is not committed; a well one is, without the caller of the job.
	s.NoError(os.WriteFile(s.Path("sick"), nil, 0o644))
	if p := s.job(s.busctl("System", "StartCommit"), "failed"); p.Kind != "commit" || p.ErrorText == "" {
		t.Errorf("got %+v, want kind %q and some error text", p, "commit")
	}
	s.is("idle", "", "") // it is rolled back
	s.NoError(os.Remove(s.Path("sick")))
	s.MustLull("system", "stage", osName)
	s.reboot("of system 2 again")
	s.is("booted", "", "2")
	s.job(s.busctl("System", "StartCommit"), "done")
	s.is("idle", "2", "")

	// The updater's retained packages are resolved, and collected later.
	one := s.Publish(s.write("org.test.other", "1", 0, "", nil))
	if c := s.API.Call("Retained.Set", []string{one}); c.Err != nil {
		t.Fatal(c.Err)
	}
	s.job(s.busctl("Retained", "StartResolve", "sa{sv}", one, "0"), "done")
	s.has(true, one, two.base[0])
	if c := s.API.Call("Retained.Clear"); c.Err != nil {
		t.Fatal(c.Err)
	}
	if p := s.job(s.busctl("Space", "StartCollect", "a{sv}", "0"), "done"); p.FreedPackages == 0 || p.FreedBlobs == 0 || p.FreedBytes == 0 {
		t.Errorf("got the job %+v, want one that has freed packages, blobs and bytes", p)
	}
	s.has(false, one)
}
