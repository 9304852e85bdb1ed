package files_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestInstall: a file is installed, the same file changes nothing, a newer one, which has another
// format, is a refresh that waits for the application, an older one is refused, and
// the refreshed package can be reverted, reinstalled, and removed. The
// repository keeps the needed packages.
func TestInstall(t *testing.T) {
	s := set(t, rig.Options{})
	one, two := s.tarball("1.0", nil), s.archive("notes-2.0.zip", program("2.0"), nil)
	r := s.MustLull("install", one)
	if !strings.Contains(r.Stdout, "notes 1.0 is installed") {
		t.Errorf("got %v, want %q in the output", r, "notes 1.0 is installed")
	}
	if strings.Contains(r.Stderr, "to download") { // the store has the files already
		t.Errorf("got %v, want no download of what was made here", r)
	}
	s.runs("1.0")
	if r := s.MustLull("install", one); r.Stdout != "notes 1.0 is already installed\n" {
		t.Errorf("the same file again: got %v, want output %q", r, "notes 1.0 is already installed\n")
	}
	for path, mode := range map[string]os.FileMode{"local": 0o700, "local.keys": 0o700, "local.keys/targets.pem": 0o600} {
		if fi, err := os.Stat(filepath.Join(s.Store, path)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %v", path, fi, err, mode)
		}
	}
	if r := s.User.Lull("search", "--json"); !strings.Contains(r.Stdout, `"local"`) {
		t.Errorf("the repository is not in the list of a user: %v", r)
	}

	run := s.User.StartLull(nil, "run", notes, "sleep", "infinity")
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.refused(75, "is running", "install", two)
	run.Stop()
	s.Until("it is refreshed", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		return p.Str("Version") == "2.0", p.Str("Version")
	})
	s.runs("2.0")
	s.refused(1, "cannot install version 1.0 of notes: version 2.0 is installed, which is newer", "install", one)

	s.MustLull("revert", notes)
	s.runs("1.0")
	if r := s.MustLull("install", two); !strings.Contains(r.Stdout, "notes is refreshed from 1.0 to 2.0") {
		t.Errorf("after a revert: got %v, want %q in the output", r, "notes is refreshed from 1.0 to 2.0")
	}
	s.runs("2.0")
	s.events(s.MustLull("--events", "install", "--older", one).Stdout)
	s.runs("1.0")
	s.clean()

	before := s.blobs()
	s.MustLull("remove", notes)
	s.MustLull("gc")
	if n := s.blobs(); n != 0 || before == 0 {
		t.Errorf("the repository has %d blobs after the removal and %d before, want none and some", n, before)
	}
	s.MustLull("install", two)
	s.runs("2.0")
	if r := s.MustLull("doctor"); strings.Contains(r.Stdout, "fail") {
		t.Errorf("doctor: got %v; want nothing that fails", r)
	}
}

// events checks the lines of an installation: the progress of the file and of the refresh, and
// the document at the end.
func (s *scene) events(lines string) {
	s.Helper()
	var steps []string
	var last map[string]any
	for l := range strings.Lines(lines) {
		last = nil
		if err := json.Unmarshal([]byte(l), &last); err != nil {
			s.Errorf("got the line %q, %v; want JSON", l, err)
		}
		if last["event"] != "progress" {
			continue
		}
		step := fmt.Sprint(last["name"], " ", last["step"])
		if len(steps) == 0 || steps[len(steps)-1] != step {
			steps = append(steps, step)
		}
		if last["refresh"] == nil && last["bytes-total"] == 0.0 {
			s.Errorf("got %q, want the number of bytes", l)
		}
	}
	if len(steps) < 3 || steps[0] != "notes-1.0.tar.gz convert" || steps[1] != "notes-1.0.tar.gz compress" || !strings.HasPrefix(steps[2], "notes ") {
		s.Errorf("got progress of %q, want that of the reading and the compression of notes-1.0.tar.gz, and of the refresh of notes", steps)
	}
	if last["refreshes"] == nil || last["event"] != nil {
		s.Errorf("got the last line %v, want the refreshes", last)
	}
}

// TestWords: a word with a slash is a file, one without is a name unless there is such a file.
func TestWords(t *testing.T) {
	s := set(t, rig.Options{})
	file := s.tarball("1.0", nil)
	s.refused(65, "cannot install ./none.deb: no such file", "install", "./none.deb")
	s.refused(65, "it is neither a regular file nor a directory", "install", "/dev/null")
	s.refused(64, "cannot install files and names together", "install", file, "org.example.notes")
	s.refused(64, "that flag is for packages of repositories", "install", "--channel", "edge", file)
	s.refused(64, "that flag is for files", "install", "--yes", "org.example.notes")
	s.refused(65, "the format is unknown", "install", "/etc/passwd")
	s.MustLull("install", file)
	s.refused(1, "there is one of that name", "repo", "add", "local", s.Repo)
}

// TestForeignLocal: a machine that has another repository of the name keeps it.
func TestForeignLocal(t *testing.T) {
	s := set(t, rig.Options{})
	s.MustLull("repo", "add", "local", s.Repo)
	file := s.tarball("1.0", nil)
	s.refused(1, `cannot install files: "local" is the name of the repository for them, but that of another one here: `+s.Repo, "install", file)
	s.clean()
	s.MustLull("repo", "remove", "local")
	s.MustLull("install", file)
	s.runs("1.0")
}

// TestDirectory: a directory is installed, with a lull.yaml that counts, or without one;
// a repetition changes nothing.
func TestDirectory(t *testing.T) {
	s := set(t, rig.Options{})
	dir := s.Path("notes-1.0")
	for path, text := range map[string]string{"bin/notes": "#!/bin/sh\necho notes 1.0\n", "etc/data": "data\n", ".git/config": "x"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755), os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../etc/data", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	s.MustLull("install", dir)
	s.runs("1.0")
	if r := s.MustLull("install", dir+"/"); r.Stdout != "notes 1.0 is already installed\n" {
		t.Errorf("got %v, want output %q", r, "notes 1.0 is already installed\n")
	}
	tree := filepath.Join(s.Store, "current", notes)
	if target, err := os.Readlink(tree + "/bin/link"); err != nil || target != "../etc/data" {
		t.Errorf("the symlink: %q, want ../etc/data, %v", target, err)
	}
	if _, err := os.Lstat(tree + "/.git"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("version control is installed: got %v, want the error %v", err, os.ErrNotExist)
	}

	source := "name: notes\nversion: \"2.0\"\ntitle: Notes\napps: [{name: notes, command: bin/notes}]\nservices: [{name: sync, command: [bin/notes], user: nobody}]\n"
	if err := errors.Join(os.WriteFile(dir+"/lull.yaml", []byte(source), 0o644), os.WriteFile(dir+"/bin/notes", []byte("#!/bin/sh\necho notes 2.0\n[ -z $LULL_SERVICE ] || exec sleep infinity\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s.refused(77, "the service sync runs as nobody: bin/notes", "install", dir)
	s.refused(65, "its name and version are those of its lull.yaml", "install", "--version", "3", dir)
	source = source[:strings.Index(source, "services")]
	if err := os.WriteFile(dir+"/lull.yaml", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	s.MustLull("install", dir)
	s.runs("2.0")
	if err := os.WriteFile(dir+"/lull.yaml", []byte("name: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.refused(65, "lull.yaml:", "install", dir)
	if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	s.refused(65, "pipe is neither a file, a directory nor a symlink", "install", dir)
	s.clean()
}

// TestMerged: several files become one package, which the first one names.
func TestMerged(t *testing.T) {
	s := set(t, rig.Options{})
	lib := s.archive("lib-7.tar.xz", "#!/bin/sh\necho notes of the library\n", map[string]string{"lib/data": "data"})
	s.MustLull("install", s.tarball("1.0", nil), lib)
	if r := s.User.Lull("run", notes); r.Stdout != "notes of the library\n" { // the last one counts
		t.Errorf("got %v, want output %q", r, "notes of the library\n")
	}
	if b, err := os.ReadFile(filepath.Join(s.Store, "current", notes, "lib/data")); err != nil || string(b) != "data" {
		t.Errorf("%q, %v; want no error and content %q", b, err, "data")
	}
}

// TestOnce: a file is run without being installed, also beside another version that is.
func TestOnce(t *testing.T) {
	s := set(t, rig.Options{})
	one, two := s.tarball("1.0", nil), s.tarball("2.0", nil)
	once := func() {
		t.Helper()
		if r := s.Lull("run", "--ephemeral", two); r.Code != 0 || r.Stdout != "notes 2.0\n" {
			t.Errorf("got %v, want exit status 0 and output %q", r, "notes 2.0\n")
		}
	}
	once()
	if r := s.MustLull("list"); strings.Contains(r.Stdout, notes) {
		t.Errorf("after run --ephemeral: got %v; want no %s", r, notes)
	}
	if n := s.blobs(); n != 0 {
		t.Errorf("the repository keeps %d blobs, want 0", n)
	}
	s.MustLull("install", one)
	once()
	s.MustLull("refresh", notes)
	s.runs("1.0")
	if r := s.User.Lull("run", "--ephemeral", two); r.Code != 77 {
		t.Errorf("without the right: %v", r)
	}
	s.refused(65, "the format is unknown", "run", "--ephemeral", "/etc/passwd")
	s.clean()
}
