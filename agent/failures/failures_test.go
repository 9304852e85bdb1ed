package failures

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
)

// A failure begins with the first one after a success, outlives the agent, is notified once
// and ends with a success.
func TestFailure(t *testing.T) {
	errkind.RememberSentences()
	root, changes := t.TempDir(), 0
	open := func() *List { return Open(root, slog.New(slog.DiscardHandler), func() { changes++ }) }
	l := open()
	start := time.Unix(1_000_000, 0)
	bad := errkind.New(errkind.Unavailable, "cannot read it")
	const after = 7 * 24 * time.Hour
	due := func(at time.Time) (names string) {
		for _, f := range l.Due(after, at) {
			names += string(f.Kind) + " " + f.Name + " " + f.Text + " "
			if f.Notified != nil {
				names += "notified "
			}
		}
		return names
	}
	want := func(at time.Time, want string) {
		t.Helper()
		if got := due(at); got != want {
			t.Errorf("after %v: %q, want %q", at.Sub(start), got, want)
		}
	}
	l.Note(Repository, "main", nil, start)
	l.Note(Repository, "main", errkind.New(errkind.Interrupted, "stopped"), start)
	if changes != 0 {
		t.Errorf("a success and an interruption are %d changes, want 0", changes)
	}
	l.Note(Repository, "main", bad, start)
	l.Note(Package, "main", bad, start.Add(time.Hour)) // an instance of the same name is another thing
	l = open()
	l.Note(Repository, "main", errors.New("again"), start.Add(after-time.Hour))
	want(start.Add(after-1), "")
	want(start.Add(after), "repository main again ")
	want(start.Add(after+time.Hour), "repository main again package main cannot read it ")
	if l.Due(0, start.Add(10*after)) != nil {
		t.Error("a failure is due without a time, want none")
	}
	if made := l.Due(after, start.Add(2*after))[1].Made["cannot read it"]; made.Message != "cannot read it" {
		t.Errorf("after a restart %+v is known of how the text was made, want its message", made)
	}
	l.NoteNotified(l.Due(after, start.Add(after))[0], 1000)
	l.NoteNotified(l.Due(after, start.Add(after))[0], 1001)
	l = open()
	if f := l.Due(after, start.Add(after))[0]; f.Notified == nil || *f.Notified != 1000 {
		t.Errorf("%+v, want one that user 1000 was notified of", f)
	}
	l.Note(Repository, "main", nil, start.Add(after))
	want(start.Add(2*after), "package main cannot read it ")
	l.Note(Repository, "main", bad, start.Add(after)) // a new one
	want(start.Add(2*after), "package main cannot read it repository main cannot read it ")
	l.Note(Repository, "main", bad, start) // by a clock that was put back
	want(start.Add(after), "repository main cannot read it ")
	l.Keep(Repository, func(string) bool { return false })
	want(start.Add(2*after), "package main cannot read it ")
	if err := os.WriteFile(filepath.Join(root, file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open()
	want(start.Add(2*after), "")
}
