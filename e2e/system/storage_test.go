package system_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

const (
	notCommitted = "system 2 is booted and not committed"
	decide       = "lull system commit keeps the new one, lull system rollback goes back; both let the other be collected"
)

// first brings a machine to system 1, committed, on which nothing else is.
func (s *scene) first(baseMB, cacheMB float64) *update {
	s.Helper()
	one := s.update(update{version: "1", baseMB: baseMB, cacheMB: cacheMB, silent: true})
	s.StartAgent()
	s.MustLull("repo", "add", "local", s.Repo)
	s.is("idle", "", "")
	s.MustLull("system", "stage", osName)
	s.is("staged", "", "")
	s.reboot("of system 1")
	s.is("booted", "", "1")
	s.MustLull("system", "commit")
	s.MustLull("gc")
	s.is("idle", "1", "")
	s.has(true, one.base...)
	s.has(false, one.hash)
	return one
}

// TestStorage: on a disk where what there is, what comes and what installs it do
// not fit together, a system is updated all the same.
func TestStorage(t *testing.T) {
	s := set(t, 22, rig.Options{})
	one := s.first(7, 1)
	two := s.update(update{version: "2", baseMB: 7, cacheMB: 1, imagesMB: 9})
	if free := s.free(); free < 9.5 || free > 7+1+9 {
		t.Fatalf("%.1f MiB are free, want 9.5 to %d: the test shows nothing", free, 7+1+9)
	}
	s.says("system 2 is staged: it takes effect when the machine starts again\n", "system", "stage", osName)
	s.is("staged", "1", "")
	s.has(true, append(one.base, one.cache...)...)
	s.has(true, append(two.base, two.cache...)...)
	s.has(false, two.images...)
	if b, err := os.ReadFile(s.installed()); err != nil || string(b) != "2\n" {
		t.Errorf("the hook has installed %q (error %v), want \"2\\n\"", b, err)
	}
	s.says("In effect:   1\nNext:        2, staged: it takes effect when the machine starts again\nTo drop it:  lull system rollback\n", "system", "status")
	s.Refused(s.Lull("system", "commit"), 75, "cannot commit system 2: it takes effect when the machine starts again",
		"restart the machine first, or drop it with lull system rollback")
	s.overview("2 is staged, it takes effect when the machine starts again")
	s.MustLull("gc") // what is staged stays
	s.Publish(s.write("org.test.garbage", "1", 3, "", nil))
	s.MustLull("install", "org.test.garbage")
	s.MustLull("remove", "--purge", "org.test.garbage")

	s.reboot("of system 2")
	s.is("booted", "1", "2")
	s.collectRefused(one)
	s.says("system 2 is committed\n", "system", "commit")
	s.says("system 2 is committed\n", "system", "commit")
	s.is("idle", "2", "")
	s.MustLull("install", "org.test.large") // there is room for it now
	s.MustLull("gc")
	s.has(true, append(two.base, two.cache...)...)
	s.has(false, append(one.base, one.cache...)...)
	s.says("In effect:  2\nNext:       nothing is staged\n", "system", "status")
	s.says("system 2 is committed already: there is nothing to do\n", "system", "stage", osName)
	if r := s.Lull("verify"); r.Code != 0 {
		t.Errorf("got %v, want exit status 0", r)
	}
}

// collectRefused checks all reports of that while system 2 is booted: the
// requested collector, the automatic one, and one that a full disk calls.
func (s *scene) collectRefused(one *update) {
	s.Helper()
	why := "cannot collect: " + notCommitted + ", and the system before it must stay whole"
	s.Refused(s.Lull("gc"), 75, why, decide)
	if r := s.MustLull("gc", "--dry-run"); !strings.HasSuffix(r.Stdout, "; but "+why+"\n") {
		s.Errorf("got %v, want output that ends with %q", r, "; but "+why+"\n")
	}
	s.says("In effect:   2, not committed yet\nBefore:      1, kept whole until then\nTo keep it:  lull system commit\nTo go back:  lull system rollback\nCollection:  "+
		why+"\n", "system", "status")
	s.overview("2 is in effect and not committed, nothing is collected until it is")
	if v := s.status(); v.Refused != why {
		s.Errorf("for programs: got %+v, want refused %v", v, why)
	}
	if out := s.MustLull("doctor").Stdout; !strings.Contains(out, notCommitted) || !strings.Contains(out, "lull system commit keeps it, lull system rollback goes back") {
		s.Errorf("lull doctor: want that the system is not committed, and how to keep it or go back, got\n%s", out)
	}
	// The automatic collector after each refresh reports it once, in the journal.
	s.Policy("gc: {after-refresh: true}\n")
	s.Publish(s.write("org.test.small", "1", 0.1, "", nil))
	s.MustLull("install", "org.test.small")
	s.Until("the journal says so", limit, func() (bool, string) {
		return strings.Contains(s.Agent().Log(), why), s.Agent().Log()
	})
	if n := strings.Count(s.Agent().Log(), why); n != 1 {
		s.Errorf("the journal has %q %d times, want once", why, n)
	}
	s.Policy("")
	// So does an installation that unneeded packages would make room for.
	s.Publish(s.write("org.test.large", "1", 5, "", nil))
	if free := s.free(); free > 5 || free < 2.2 {
		s.Fatalf("%.1f MiB are free, want 2.2 to 5: the test shows nothing", free)
	}
	r := s.Lull("install", "org.test.large")
	if want := "lull: cannot install org.test.large: could not make room on the disk: " + why + "\nhint: " + decide + "\n"; r.Code != 75 || !strings.HasSuffix(r.Stderr, want) {
		s.Errorf("got %v, want exit status 75 and error output that ends with %q", r, want)
	}
	s.has(true, one.base...)
	s.Refused(s.Lull("system", "stage", osName+"@stable"), 75, "cannot stage "+osName+"@stable: "+notCommitted, "lull system commit keeps it, lull system rollback goes back")
	c := s.API.Call("Retained.Clear")
	if c.Err == nil || !strings.Contains(c.Err.Error(), notCommitted) {
		s.Errorf("the retained index is cleared by others: got %v, want an error and %q in the error", c.Err, notCommitted)
	}
}

// overview checks the line of lull status.
func (s *scene) overview(text string) {
	s.Helper()
	for line := range strings.Lines(s.MustLull("status").Stdout) {
		if strings.HasPrefix(line, "System:") {
			if !strings.HasSuffix(line, " "+text+"; see `lull system status`\n") {
				s.Errorf("the overview says %q; want line that ends with %q", line, " "+text+"; see `lull system status`\n")
			}
			return
		}
	}
	s.Errorf("the overview says nothing of the system")
}

// TestTight: if the update package itself takes the set's space, it is removed too.
func TestTight(t *testing.T) {
	s := set(t, 22, rig.Options{})
	one := s.first(7, 1)
	two := s.update(update{version: "2", baseMB: 7, cacheMB: 1, imagesMB: 1, ownMB: 8})
	s.MustLull("system", "stage", osName)
	s.is("staged", "1", "")
	s.has(true, append(one.base, two.base...)...)
	s.has(true, two.cache...)
	s.has(false, append(two.images, two.hash)...)
	s.reboot("of system 2")
	s.is("booted", "1", "2")
	// The health of a system does not hang on the package that brought it.
	s.NoError(os.WriteFile(s.Path("sick"), nil, 0o644))
	s.Refused(s.Lull("system", "commit"), 1, "cannot use system 2: the health hook of org.test.base failed: exit status 1; it is rolled back to system 1", "restart the machine, which runs 2 until then")
	s.is("idle", "1", "")
	s.NoError(os.Remove(s.Path("sick")))
	s.MustLull("gc")
	s.has(true, two.base...) // it runs
	s.reboot("of system 1 again")
	s.is("idle", "1", "")
	s.MustLull("gc")
	s.has(true, one.base...)
	s.has(false, two.base...)
	// A configuration manager repeats what it does.
	s.says("nothing is staged, and nothing waits for a commit; system 1 stays in effect\n", "system", "rollback")
	s.says("system 1 is committed\n", "system", "commit")
	s.MustLull("system", "stage", osName)
	s.MustLull("system", "stage", osName)
	s.is("staged", "1", "")
	s.MustLull("system", "rollback")
	s.MustLull("system", "rollback")
	s.is("idle", "1", "")
}

// TestTooLarge: a system that cannot fit is reported and does no harm, and
// resumes when there is room: its downloads are not repeated.
func TestTooLarge(t *testing.T) {
	s := set(t, 22, rig.Options{})
	one := s.first(7, 1)
	filler := filepath.Join(s.Store, "filler")
	two := s.update(update{version: "2", baseMB: 6, cacheMB: 2, imagesMB: 3})
	s.NoError(os.WriteFile(filler, make([]byte, 6<<20), 0o644))
	r := s.Lull("system", "stage", osName)
	if r.Code != 73 || !strings.Contains(r.Stderr, "lull: cannot stage system 2: could not fetch org.test.cache 2: ") || !strings.Contains(r.Stderr, " needed, ") ||
		!strings.Contains(r.Stderr, "\nhint: remove something; lull du shows what takes space, lull why what keeps it\n") {
		t.Errorf("got %v, want exit status 73, %q in the error output, %q in the error output and %q in the error output", r, "lull: cannot stage system 2: could not fetch org.test.cache 2: ", " needed, ", "\nhint: remove something; lull du shows what takes space, lull why what keeps it\n")
	}
	s.is("interrupted", "1", "")
	s.overview("2: staging was interrupted")
	s.has(true, append(one.base, one.cache...)...)
	s.has(true, two.base...)
	s.MustLull("gc")
	base := s.inode(two.base[0])
	out := s.MustLull("system", "status").Stdout
	for _, line := range []string{"In effect:   1\n", "Next:        2, interrupted while downloading the system\n", "Because:     cannot stage system 2: could not fetch org.test.cache 2",
		"To go on:    lull system stage\n", "To drop it:  lull system rollback\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("it does not say %q:\n%s", line, out)
		}
	}
	s.NoError(os.Remove(filler))
	s.MustLull("system", "stage")
	s.is("staged", "1", "")
	s.has(true, two.cache...)
	if got := s.inode(two.base[0]); got != base {
		t.Error("what was there has been fetched again")
	}
	s.says("dropped "+osName+"; system 1 stays in effect\n", "system", "rollback")
	s.MustLull("gc")
	s.has(false, two.base...)
	s.is("idle", "1", "")
}

// inode distinguishes a file of a package from another that is fetched in its place.
func (s *scene) inode(hash string) string {
	s.Helper()
	fi, err := os.Stat(filepath.Join(s.Store, "packages", hash, "content"))
	s.NoError(err)
	return fmt.Sprintf("%+v %v", fi.Sys(), fi.ModTime())
}
