package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestWriteFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, c := range []struct {
		data string
		perm fs.FileMode
	}{{"one", 0o644}, {"", 0o444}, {"three", 0o600}} {
		if err := WriteFile(path, []byte(c.data), c.perm); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		fi, _ := os.Stat(path)
		if err != nil {
			t.Error(err)
		} else if string(b) != c.data || fi.Mode() != c.perm {
			t.Errorf("got %q with mode %v, want %q with %v", b, fi.Mode(), c.data, c.perm)
		}
	}
	if err := WriteFile(filepath.Join(dir, "no", "a"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A directory cannot be replaced; nothing is left behind.
	if err := os.MkdirAll(filepath.Join(dir, "b", "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "b"), nil, 0o644); err == nil {
		t.Error("a folder was replaced")
	}
	if got := names(t, dir); got != "a b" {
		t.Errorf("left behind: %s, want a b", got)
	}
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "current")
	for _, target := range []string{"../a", "../b"} {
		if err := Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); got != target || err != nil {
			t.Errorf("%q, %v; want %v and no error", got, err, target)
		}
	}
	if got := names(t, dir); got != "current" {
		t.Errorf("left behind: %s, want current", got)
	}
}

func TestMkdirAll(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b")
	for range 2 {
		if err := MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		if fi, err := os.Stat(p); err != nil {
			t.Error(err)
		} else if fi.Mode().Perm() != 0o755 {
			t.Errorf("%s: got mode %v, want %v", p, fi.Mode().Perm(), fs.FileMode(0o755))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"file", "file/x"} {
		if err := MkdirAll(filepath.Join(dir, p), 0o755); err == nil {
			t.Errorf("%s was made", p)
		}
	}
}

func TestMoves(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a/1", "a/2", "b/2", "a/3"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.Open(at("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.Open(at("b"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := MoveNewAt(int(a.Fd()), "1", int(b.Fd()), "1"); err != nil {
		t.Error(err)
	}
	if err := MoveNewAt(int(a.Fd()), "2", int(b.Fd()), "2"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file was replaced: got %v, want the error %v", err, fs.ErrExist)
	}
	if err := Rename(at("a/3"), at("b/3")); err != nil {
		t.Error(err)
	}
	if err := Move(at("a/2"), at("a/4")); err != nil {
		t.Error(err)
	}
	if err := Exchange(at("a"), at("b")); err != nil {
		t.Error(err)
	}
	if got := names(t, at("b")); got != "4" {
		t.Errorf("exchanged: %s, want 4", got)
	}
	if err := Remove(at("a/3")); err != nil {
		t.Error(err)
	}
	if err := Remove(at("a/3")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for range 2 {
		if err := RemoveAll(at("b")); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(SyncDir(dir), SyncFS(dir)); err != nil {
		t.Error(err)
	}
	if got := names(t, at("a")) + ", " + names(t, dir); got != "1 2, a" {
		t.Errorf("got %s, want 1 2, a", got)
	}
}

// TestTemps: a crash leaves files that are recognized by their names.
func TestTemps(t *testing.T) {
	if name := filepath.Base(temp("/x/state.db")); !IsTemp(name) || !strings.Contains(name, "state.db") {
		t.Error(name)
	}
	if IsTemp("state.db") {
		t.Error("state.db")
	}
	dir := t.TempDir()
	for _, path := range []string{temp(dir + "/a"), dir + "/a"} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, dir + "/missing"} {
		if err := Tidy(d); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, dir); got != "a" {
		t.Errorf("left: %s, want a", got)
	}
}
