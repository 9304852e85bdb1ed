package repositories

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/repo/publish"
)

// The time of the last reading of the repositories is kept for the next agent.
func TestLastCheckLasts(t *testing.T) {
	r := New(Config{Root: t.TempDir(), Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Changed: func() {}})
	if last := r.State().LastCheck; !last.IsZero() {
		t.Fatalf("the last check was at %v, want never", last)
	}
	r.NoteCheck(true, nil, nil)
	last := r.State().LastCheck
	again := New(r.Config)
	if err := again.LoadLastCheck(); err != nil || !again.State().LastCheck.Equal(last) {
		t.Errorf("after a restart the last check was at %v, want %v (%v)", again.State().LastCheck, last, err)
	}
}

// The time when a repository was last read is kept too, also when it cannot be read any more.
func TestLastReadLasts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	if err := publish.Init(t.Context(), dir, publish.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	c := Config{Root: t.TempDir(), Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Changed: func() {}}
	if err := os.WriteFile(filepath.Join(c.Dir, "mine.yaml"), fmt.Appendf(nil, "url: %s\nroot: %[1]s/root.json\n", dir), 0o644); err != nil {
		t.Fatal(err)
	}
	r := New(c)
	if err := r.Load(); err != nil {
		t.Fatal(err)
	}
	if last := r.State().All[0].Read; !last.IsZero() {
		t.Errorf("it was last read at %v, want never", last)
	}
	if _, err := r.Read(t.Context(), "mine", false); err != nil {
		t.Fatal(err)
	}
	last := r.State().All[0].Read
	again := New(c)
	if err := os.RemoveAll(filepath.Join(dir, "metadata")); err != nil {
		t.Fatal(err)
	}
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Read(t.Context(), "mine", false); err == nil {
		t.Fatal("a repository without metadata is read, want an error")
	}
	if h := again.State().All[0]; h.Read.Before(last) || h.Failed.IsZero() {
		t.Errorf("after a restart: got %+v, want a failure, and that it was last read at %v", h, last)
	}
}
