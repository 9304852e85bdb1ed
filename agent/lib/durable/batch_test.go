package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBatch: nothing is in place before Commit, and afterwards everything is, with exact
// modes, whatever the number of files.
func TestBatch(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	for _, n := range []int{1, flushEach, flushEach + 1, 100} {
		dir := t.TempDir()
		from := filepath.Join(dir, "from")
		if err := os.WriteFile(from, []byte("moved"), 0o644); err != nil {
			t.Fatal(err)
		}
		path := func(i int) string { return filepath.Join(dir, "r", fmt.Sprint(i%20), fmt.Sprint(i)) }
		var b Batch
		for i := range n {
			if err := b.Add(path(i), []byte(fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Move(from, filepath.Join(dir, "r", "moved")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path(0)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("before Commit: got %v, want the error %v", err, fs.ErrNotExist)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			data, err := os.ReadFile(path(i))
			fi, _ := os.Stat(path(i))
			parent, _ := os.Stat(filepath.Dir(path(i)))
			if err != nil {
				t.Fatal(err)
			}
			if string(data) != fmt.Sprint(i) || fi.Mode() != 0o644 || parent.Mode().Perm() != 0o755 {
				t.Fatalf("file %d of %d: got %q with mode %v in a directory with %v, want \"%d\" with -rw-r--r-- and -rwxr-xr-x", i, n, data, fi.Mode(), parent.Mode().Perm(), i)
			}
		}
		if data, err := os.ReadFile(filepath.Join(dir, "r", "moved")); string(data) != "moved" {
			t.Error(err)
		}
		if err := b.Commit(); err != nil {
			t.Errorf("a second Commit: %v", err)
		}
	}
}

// TestBatchFails: a batch that cannot be put in place leaves no temporary files.
func TestBatchFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "b", "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b Batch
	for _, name := range []string{"a", "b", "d"} {
		if err := b.Add(filepath.Join(dir, name), []byte("new"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err == nil {
		t.Error("a directory was replaced")
	}
	if err := b.Discard(); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); got != "a b" {
		t.Errorf("left behind: %s, want a b", got)
	}
	if err := b.Add(filepath.Join(dir, "a", "below"), nil, 0o644); err == nil {
		t.Error("a file below a file")
	}
	_ = b.Discard()
}
