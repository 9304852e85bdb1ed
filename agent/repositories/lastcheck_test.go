package repositories

import (
	"log/slog"
	"testing"
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
