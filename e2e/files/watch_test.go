package files_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// everyDay checks so rarely that only events can be the reason for a read.
const everyDay = "schedule: {check: 31d}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"

// rootsOwn makes a directory below which only root can write: one in /tmp is refused.
func rootsOwn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/srv", "lull-watch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// copied puts a copy of a file into a directory by rename, as careful programs do.
func copied(t *testing.T, file, dir, name string) {
	t.Helper()
	b, err := os.ReadFile(file)
	hidden := filepath.Join(dir, "."+name)
	if err = errors.Join(err, os.WriteFile(hidden, b, 0o644)); err == nil {
		err = os.Rename(hidden, filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// version waits until the application has a version.
func (s *scene) version(want string) {
	s.Helper()
	s.Until("it has version "+want, limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		return p.Str("Version") == want, p.Str("Version")
	})
	s.runs(want)
}

// state returns the line of a repository in the list.
func (s *scene) state(repository string) string {
	for line := range strings.Lines(s.MustLull("repo", "list").Stdout) {
		if strings.HasPrefix(line, repository+" ") {
			return line
		}
	}
	return ""
}

// TestWatch: files in a watched directory become versions once they are complete. What
// is no version is named.
func TestWatch(t *testing.T) {
	s := set(t, rig.Options{})
	s.Configure("policy.yaml", everyDay)
	s.MustLull("policy", "reload")
	dir := rootsOwn(t)
	copied(t, s.tarball("1.0", nil), dir, "notes-1.0.tar.gz")
	s.MustLull("repo", "add", "--watch", dir, "ours")
	s.MustLull("repo", "add", "--watch", dir, "ours") // as a configuration manager does
	s.MustLull("install", notes)
	s.runs("1.0")

	// A file that is being written is not read.
	two, err := os.ReadFile(s.tarball("2.0", nil))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "notes-2.0.tar.gz"), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(two[:100]); err != nil {
		t.Fatal(err)
	}
	s.MustLull("refresh", notes)
	s.runs("1.0")
	if state := s.state("ours"); !strings.Contains(state, "read") || strings.Contains(state, "2.0") {
		t.Errorf("while a file is written: got the state %s, want it read, without 2.0", state)
	}
	if _, err := f.Write(two[100:]); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.version("2.0")

	// An older version changes nothing; a newer one waits for the application.
	copied(t, s.tarball("1.5", nil), dir, "notes-1.5.tar.gz")
	s.MustLull("refresh", notes)
	s.runs("2.0")
	run := s.User.StartLull(nil, "run", notes, "sleep", "infinity")
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	copied(t, s.tarball("3.0", nil), dir, "notes-3.0.tar.gz")
	s.Until("the refresh waits", limit, func() (bool, string) {
		r := s.Lull("pending")
		return strings.Contains(r.Stdout, notes), r.Stdout
	})
	run.Stop()
	s.version("3.0")
	s.MustLull("revert", notes)
	s.runs("2.0")

	// What is no package is named, until it is gone.
	if err := os.WriteFile(filepath.Join(dir, "readme.txt"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Until("the file is named", limit, func() (bool, string) {
		state := s.state("ours")
		return strings.Contains(s.MustLull("repo", "show", "ours").Stdout, "cannot convert readme.txt: the format is unknown"), state
	})
	if err := os.Chown(filepath.Join(dir, "notes-3.0.tar.gz"), 12345, 0); err != nil {
		t.Fatal(err)
	}
	s.MustLull("refresh", notes)
	if r := s.MustLull("repo", "show", "ours"); !strings.Contains(r.Stdout, "cannot use notes-3.0.tar.gz: others than root can write it (and 1 more)") {
		t.Errorf("got %v, want %q in the output", r, "cannot use notes-3.0.tar.gz: others than root can write it (and 1 more)")
	}
	for _, name := range []string{"readme.txt", "notes-3.0.tar.gz"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.MustLull("refresh", notes)
	if r := s.MustLull("repo", "show", "ours"); strings.Contains(r.Stdout, "cannot") {
		t.Errorf("repo show after the bad files were removed: got %v; want nothing that it cannot use", r)
	}

	// The state outlives the agent, also a file that comes while there is none. The directory is
	// checked at each use.
	s.StopAgent()
	copied(t, s.tarball("4.0", nil), dir, "notes-4.0.tar.gz")
	s.StartAgent()
	s.version("4.0")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	copied(t, s.tarball("5.0", nil), dir, "notes-5.0.tar.gz")
	s.refused(77, "others than root can write "+dir, "refresh", notes)
	s.runs("4.0")
	s.MustLull("gc")
	s.MustLull("repo", "remove", "ours")
	if _, err := os.Stat(filepath.Join(s.Store, "watched", "ours")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its packages outlive the repository: got %v, want the error %v", err, os.ErrNotExist)
	}
	s.runs("4.0")
	s.clean()
}

// TestWatchRefused: root's agent watches no directory that others can change.
func TestWatchRefused(t *testing.T) {
	s := set(t, rig.Options{})
	own := rootsOwn(t)
	inner := filepath.Join(own, "inner")
	link := filepath.Join(own, "link")
	if err := errors.Join(os.Mkdir(inner, 0o755), os.Symlink(inner, link)); err != nil {
		t.Fatal(err)
	}
	s.refused(77, "others than root can write /tmp", "repo", "add", "--watch", s.Path(), "ours")
	s.refused(1, "cannot watch "+link, "repo", "add", "--watch", link, "ours")
	s.refused(1, "cannot watch "+own+"/none", "repo", "add", "--watch", own+"/none", "ours")
	s.refused(64, "--watch needs no other flag", "repo", "add", "--watch", own, "--trust", "x", "ours")
	if err := os.Chown(own, 12345, 0); err != nil {
		t.Fatal(err)
	}
	s.refused(77, "others than root can write "+own, "repo", "add", "--watch", inner, "ours")
	if err := errors.Join(os.Chown(own, 0, 0), os.Chmod(own, 0o775)); err != nil {
		t.Fatal(err)
	}
	s.refused(77, "others than root can write "+own, "repo", "add", "--watch", inner, "ours")
	if err := os.Chmod(own, 0o755); err != nil {
		t.Fatal(err)
	}
	s.MustLull("repo", "add", "--watch", inner, "ours")
	s.refused(65, "it watches a directory", "repo", "set-url", "ours", "/tmp")
}
