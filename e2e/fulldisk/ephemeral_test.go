package fulldisk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestOneAfterTheOther runs fifty applications with room for four, without
// manual cleaning (RFC-0217, requirement 2).
func TestOneAfterTheOther(t *testing.T) {
	n, weight := 50, 40*mib
	if testing.Short() {
		n = 6
	}
	s := set(t, 200*mib, 4*mib)
	for i := range n {
		name := fmt.Sprintf("org.lull.test%d", i)
		s.publish(name, "1", weight)
		if i == 0 {
			s.trust()
		}
		r := s.Lull("run", "--ephemeral", name)
		if r.Code != 0 || !strings.Contains(r.Stdout, "version 1\n") || !strings.Contains(r.Stdout, fmt.Sprint(weight)) {
			t.Fatalf("application %d of %d: %v; want exit status 0, %q in the output and %q in the output", i+1, n, r, "version 1\n", fmt.Sprint(weight))
		}
		if err := os.RemoveAll(filepath.Join(s.Repo, "blobs")); err != nil { // 2 GB that are no longer needed
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(s.Repo, "blobs"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if open := s.open(); len(open) > 0 {
		t.Errorf("the open index is %q, want it empty, as nothing runs", open)
	}
	if r := s.MustLull("list", "--json"); strings.Contains(r.Stdout, "org.lull.test") {
		t.Errorf("list: got %v; want no org.lull.test", r)
	}
}

// TestEphemeral checks the environment of an application, and its protection.
func TestEphemeral(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", 20*mib)
	s.publish("org.lull.two", "1", 20*mib)
	s.publish("org.lull.three", "1", 20*mib)
	s.trust()

	p, end := s.stay("org.lull.one@stable")
	s.Until("it runs", limit, func() (bool, string) { return strings.Contains(p.Log(), fmt.Sprint(20*mib)), p.Log() })
	said := p.Log()
	for _, want := range []string{"LULL_INSTANCE=org.lull.one\n", "LULL_REVISION=0\n", "LULL_PACKAGE_DIR=" + s.Store + "/packages/"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is missing in its environment:\n%s", want, said)
		}
	}
	_, data, _ := strings.Cut(said, "LULL_USER_DATA=")
	data, _, _ = strings.Cut(data, "\n")
	if b, err := os.ReadFile(filepath.Join(data, "note")); err != nil || string(b) != "note\n" {
		t.Errorf("its data is not in %s: %q, %v", data, b, err)
	}
	if open := s.open(); len(open) != 1 || open[0] != "ephemeral run of org.lull.one, user root" {
		t.Errorf("the open index is %q, want [%q]", open, "ephemeral run of org.lull.one, user root")
	}
	// A running package is kept, one that has ended is removed.
	s.MustLull("run", "--ephemeral", "org.lull.two")
	s.MustLull("run", "--ephemeral", "org.lull.three")
	s.MustLull("gc")
	if left := s.packages(); len(left) != 1 {
		t.Errorf("what is left while one runs: %q", left)
	}
	end.Close()
	if code, err := p.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("it ended with %d, want 0, %v: %s", code, err, p.Log())
	}
	if _, err := os.Stat(filepath.Dir(data)); !os.IsNotExist(err) {
		t.Errorf("its data is left: %v", err)
	}
	s.MustLull("gc")
	if left := s.packages(); len(left) != 0 {
		t.Errorf("what is left: %q", left)
	}
}

// TestEphemeralKilled ends the command that holds the lease: the application
// still runs, and keeps its package; when it has ended, nothing does.
func TestEphemeralKilled(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", mib)
	s.trust()
	p, end := s.stay("org.lull.one")
	s.Until("it runs", limit, func() (bool, string) { return strings.Contains(p.Log(), fmt.Sprint(mib)), p.Log() })
	_, folder, _ := strings.Cut(p.Log(), "LULL_DATA=")
	folder, _, _ = strings.Cut(folder, "\n")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(folder)) })
	p.Signal(syscall.SIGKILL)
	if _, err := p.Wait(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	s.MustLull("gc")
	if left := s.packages(); len(left) != 1 {
		t.Fatalf("the packages while it is leased are %q, want 1", left)
	}
	if open := s.open(); len(open) != 1 {
		t.Errorf("open: got %q, want 1 of them", open)
	}
	end.Close()
	s.Until("the lease has ended", limit, func() (bool, string) { o := s.open(); return len(o) == 0, fmt.Sprint(o) })
	s.MustLull("gc")
	if left := s.packages(); len(left) != 0 {
		t.Errorf("what is left: %q", left)
	}
}

// TestEphemeralOutlivesTheAgent: a run keeps its package while the agent restarts, is killed,
// and collects afterwards.
func TestEphemeralOutlivesTheAgent(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", mib)
	s.trust()
	p, end := s.stay("org.lull.one")
	s.Until("it runs", limit, func() (bool, string) { return strings.Contains(p.Log(), fmt.Sprint(mib)), p.Log() })
	for _, leave := range []func(){s.StopAgent, func() { s.Agent().Crash() }} {
		leave()
		s.StartAgent()
		s.MustLull("gc")
		if left := s.packages(); len(left) != 1 {
			t.Fatalf("the packages while it runs are %q, want 1", left)
		}
		if open := s.open(); len(open) != 1 || open[0] != "ephemeral run of org.lull.one, user root" {
			t.Errorf("the open index is %q, want [%q]", open, "ephemeral run of org.lull.one, user root")
		}
	}
	end.Close()
	if code, err := p.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("it ended with %d, want 0, %v: %s", code, err, p.Log())
	}
	s.Until("the lease has ended", limit, func() (bool, string) { o := s.open(); return len(o) == 0, fmt.Sprint(o) })
	s.MustLull("gc")
	if left := s.packages(); len(left) != 0 {
		t.Errorf("what is left: %q", left)
	}
}

// TestEphemeralEnds: the command ends as its program did, after cleaning up.
func TestEphemeralEnds(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", mib)
	s.trust()
	for _, c := range []struct {
		signal string
		want   int // of the shell
	}{{"SEGV", 139}, {"ABRT", 134}, {"KILL", 137}, {"TERM", 143}, {"INT", 130}} {
		r := s.Admin.Run("sh", "-c", `lull run --ephemeral org.lull.one end "$0"; echo "status $?"`, c.signal)
		if want := fmt.Sprintf("\nstatus %d\n", c.want); !strings.Contains(r.Stdout, want) || strings.Contains(r.Stderr, "lull: ") {
			t.Errorf("%s: %v, want %s", c.signal, r, want)
		}
		_, data, _ := strings.Cut(r.Stdout, "LULL_USER_DATA=")
		data, _, _ = strings.Cut(data, "\n")
		if _, err := os.Stat(filepath.Dir(data)); data == "" || !os.IsNotExist(err) {
			t.Errorf("%s: its data is left in %q: %v", c.signal, data, err)
		}
	}
}

// TestReserveIsCountedOnce: the file of the reserve takes its space already, and the rest
// can be used; a disk that is small for it gets a smaller one.
func TestReserveIsCountedOnce(t *testing.T) {
	s := set(t, 200*mib, 64*mib) // a twentieth is used
	s.publish("org.lull.one", "1", 100*mib)
	s.publish("org.lull.two", "1", 60*mib)
	s.publish("org.lull.large", "1", 190*mib)
	s.trust()
	for _, name := range []string{"org.lull.one", "org.lull.two"} {
		if r := s.Lull("install", name); r.Code != 0 {
			t.Errorf("with %d bytes free: %v; want exit status 0", s.free(), r)
		}
	}
	if st, err := os.Stat(filepath.Join(s.Store, "reserve")); err != nil {
		t.Error(err)
	} else if st.Size() < 5*mib || st.Size() > 10*mib {
		t.Errorf("the reserve has %d bytes, want %d to %d", st.Size(), 5*mib, 10*mib)
	}
	if err := os.Remove(filepath.Join(s.Store, "reserve")); err != nil {
		t.Fatal(err)
	}
	if r := s.Lull("install", "org.lull.large"); r.Code != 73 || !strings.Contains(r.Stderr, "are a reserve (gc.reserve in the policy)") {
		t.Errorf("it does not name the reserve: %v", r)
	}
}

// TestEphemeralRefused: one clear error each, and nothing left behind.
func TestEphemeralRefused(t *testing.T) {
	s := set(t, 32*mib, 0)
	s.publish("org.lull.one", "1", mib)
	s.publish("org.lull.large", "1", 40*mib)
	s.trust()
	for _, c := range []struct {
		as   *rig.Actor
		args []string
		code int
		want string
	}{
		{s.Admin, []string{"org.lull.none"}, 1, `cannot find org.lull.none in repository "local"`},
		{s.Admin, []string{"org.lull.one@edge"}, 1, `cannot find a channel "edge" of org.lull.one in repository "local"`},
		{s.Admin, []string{"Not A Name"}, 65, `cannot use "Not A Name" as a package name`},
		{s.Admin, []string{"org.lull.large"}, 73, "cannot fetch org.lull.large 1: "},
		{s.Admin, []string{"--app=other", "org.lull.one"}, 1, `it has no application "other"`},
		{s.User, []string{"org.lull.one"}, 77, "cannot fetch packages: user nobody is not permitted to"},
	} {
		r := c.as.Lull(append([]string{"run", "--ephemeral"}, c.args...)...)
		if r.Code != c.code || !strings.Contains(r.Stderr, "lull: ") || !strings.Contains(r.Stderr, c.want) {
			t.Errorf("%q: %v\nwant %d and %s", c.args, r, c.code, c.want)
		}
	}
	if open := s.open(); len(open) != 0 {
		t.Errorf("open: got %q, want 0 of them", open)
	}
}

// TestEphemeralOffline has the repository go away: what is there serves.
func TestEphemeralOffline(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", mib)
	s.publish("org.lull.two", "1", mib)
	s.trust()
	out := s.MustLull("run", "--ephemeral", "org.lull.one").Stdout
	if err := os.Rename(s.Repo, s.Repo+".away"); err != nil {
		t.Fatal(err)
	}
	if r := s.Lull("run", "--ephemeral", "org.lull.one"); r.Code != 0 || !strings.Contains(r.Stdout, "version 1\n") || !strings.Contains(r.Stderr, "the version that is here is run: ") {
		t.Errorf("it does not run without its repository, or does not report it: %v", r)
	}
	// The packages that the image names for use without the network are there.
	if r := s.Lull("run", "--ephemeral", "org.lull.one@edge"); r.Code == 0 {
		t.Errorf("a channel that was never seen is there: got %v, want a failure", r)
	}
	_, hash, _ := strings.Cut(out, s.Store+"/packages/")
	s.Configure("system.yaml", "cache:\n  - "+hash[:64]+"\n")
	s.StopAgent()
	s.StartAgent()
	if r := s.Lull("run", "--ephemeral", "org.lull.one@edge"); r.Code != 0 || !strings.Contains(r.Stdout, "version 1\n") {
		t.Errorf("it does not run from the cache index: %v", r)
	}
	if r := s.Lull("run", "--ephemeral", "org.lull.two"); r.Code == 0 || !strings.Contains(r.Stderr, `repository "local"`) {
		t.Errorf("what is not there runs: %v", r)
	}
}

// stay runs an application until end is closed.
func (s *scene) stay(name string) (p *rig.Proc, end *os.File) {
	s.Helper()
	r, end, err := os.Pipe()
	if err != nil {
		s.Fatalf("%v", err)
	}
	defer r.Close()
	s.Cleanup(func() { end.Close() })
	return s.Admin.StartLull(func(c *exec.Cmd) { c.Stdin = r }, "run", "--ephemeral", name, "stay"), end
}

// packages are the trees in the store.
func (s *scene) packages() []string {
	s.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Store, "packages"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return slices.Clip(names)
}
