package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

// opened opens a directory as the agent of a user does.
func opened(t *testing.T, dir string) *drop {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &drop{path: dir, f: f}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestDropList: hidden and unfinished files, directories and symlinks are left out.
func TestDropList(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.deb", "a.tar", ".hidden", "c.deb.part", "d.crdownload", "e~"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "f"), 0o755), os.Symlink("a.tar", filepath.Join(dir, "g")), unix.Mkfifo(filepath.Join(dir, "h"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if names, err := opened(t, dir).list(); err != nil || strings.Join(names, " ") != "a.tar b.deb" {
		t.Errorf("got %q, %v; want [\"a.tar\" \"b.deb\"] and no error", names, err)
	}
	if names, err := opened(t, t.TempDir()).list(); err != nil || len(names) != 0 {
		t.Errorf("an empty directory: %q, %v; want no error and 0 names", names, err)
	}
	for i := range maxDropped + 1 {
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat("x", i%200+1)+string(rune('a'+i/200))), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := opened(t, dir).list(); err == nil || !strings.Contains(err.Error(), "more than 1000 files") {
		t.Errorf("many files: got %v, want an error and %q in the error", err, "more than 1000 files")
	}
}

// TestDropOpen: a file that a process is writing is not read, nor one that is no regular file.
func TestDropOpen(t *testing.T) {
	dir := t.TempDir()
	d, path := opened(t, dir), filepath.Join(dir, "a")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.open("a"); !errors.Is(err, errWriting) {
		t.Errorf("while it is written: got %v, want the error %v", err, errWriting)
	}
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, at, err := d.open("a")
	if err != nil || at.Size != 1 || at.Inode == 0 {
		t.Fatalf("got %+v, %v; want size 1, an inode and no error", at, err)
	}
	defer f.Close()
	if w, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil { // it does not block: there is no lease
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("y"); err != nil {
		t.Fatal(err)
	}
	if now, err := stampOf(f); err != nil || now == at {
		t.Errorf("after a change: got %+v (%v), want another than %+v", now, err, at)
	}
	if err := errors.Join(os.Symlink("a", filepath.Join(dir, "link")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe", "none"} {
		if f, _, err := d.open(name); err == nil {
			f.Close()
			t.Errorf("%s is opened", name)
		}
	}
	if _, _, err := d.open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v; want the error %v", err, fs.ErrNotExist)
	}
}

// TestRootAlone: for root's agent, a file or directory that others can write is refused.
func TestRootAlone(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if _, err := openDrop(dir); err == nil || !strings.Contains(err.Error(), "others than root can write /tmp") {
		t.Errorf("below /tmp: got %v, want an error and %q in the error", err, "others than root can write /tmp")
	}
	d := opened(t, dir)
	d.root = true
	for _, c := range []struct {
		uid, mode int
		refused   bool
	}{{0, 0o644, false}, {0, 0o4755, false}, {0, 0o664, true}, {0, 0o646, true}, {12345, 0o444, true}} {
		path := filepath.Join(dir, "a")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, c.uid, 0), os.Chmod(path, fs.FileMode(c.mode))); err != nil {
			t.Fatal(err)
		}
		f, _, err := d.open("a")
		if err == nil {
			f.Close()
		}
		if (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchedState: a damaged state is an error, because it protects from older versions; that
// of another directory does not count.
func TestWatchedState(t *testing.T) {
	m := &Watched{Replicas{Local: &Store{Root: t.TempDir()}, Below: "watched"}}
	want := &watched{Dir: "/a", Files: map[string]dropped{"f": {Stamp: stamp{Size: 1}}}, Offers: map[string]string{"x": "1"}}
	if err := m.writeWatched("n", want); err != nil {
		t.Fatal(err)
	}
	for dir, offers := range map[string]int{"/a": 1, "/b": 0} {
		if st, err := m.readWatched("n", dir); err != nil || len(st.Offers) != offers || len(st.Files) != offers || st.Dir != dir {
			t.Errorf("%s: got %+v, %v; want directory %s, %d offers, as many files and no error", dir, st, err, dir, offers)
		}
	}
	path := filepath.Join(m.dir("n"), "state.json")
	for name, content := range map[string][]byte{"garbage": []byte("{"), "large": make([]byte, maxState+1)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := m.readWatched("n", "/a"); err == nil || errkind.HintOf(err) == "" {
			t.Errorf("%s: got %v with hint %q, want an error with a hint", name, err, errkind.HintOf(err))
		}
	}
}
