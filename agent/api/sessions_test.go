package api

import (
	"log/slog"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh"
)

func work(id string, phase refresh.Phase) refresh.Work {
	return refresh.Work{ID: id, Phase: phase, Instance: "notes"}
}

func TestOutdated(t *testing.T) {
	for _, c := range []struct {
		old, now refresh.Work
		want     bool
	}{
		{work("1", refresh.SessionPrecopy), work("1", refresh.SessionEnter), true},
		{work("1", refresh.SessionEnter), work("1", refresh.SessionFinish), true},
		{work("1", refresh.SessionUndo), work("1", refresh.SessionAbandon), false},
		{work("1", refresh.SessionUndo), work("1", refresh.SessionEnter), true},
		{work("1", refresh.SessionFinish), work("2", refresh.SessionPrecopy), true},
		{work("", refresh.SessionBegin), work("2", refresh.SessionEnter), true},
	} {
		if got := outdated(c.old, c.now); got != c.want {
			t.Errorf("%s %s, then %s %s: %v, want %v", c.old.ID, c.old.Phase, c.now.ID, c.now.Phase, got, c.want)
		}
	}
}

// TestWhoMayAnswer: the helper that has the work, for its own user, once.
func TestWhoMayAnswer(t *testing.T) {
	answers := make(chan refresh.Answer, 2)
	x := &sessions{s: &Service{log: slog.New(slog.DiscardHandler)}, users: map[uint32]*person{
		7: {helpers: []string{":1.7", ":1.8"}, jobs: []job{{work("1", refresh.SessionEnter), answers}}},
		9: {helpers: []string{":1.9"}},
	}}
	for _, c := range []struct {
		name, id, instance, phase string
		uid                       uint32
		want                      errkind.Kind
	}{
		{":1.5", "1", "notes", "enter", 5, errkind.NotPermitted}, // no helper
		{":1.8", "1", "notes", "enter", 7, errkind.NotPermitted}, // another of that user
		{":1.9", "1", "notes", "enter", 9, errkind.NotFound},     // of another user
		{":1.7", "2", "notes", "enter", 7, errkind.NotFound},
		{":1.7", "1", "other", "enter", 7, errkind.NotFound},
		{":1.7", "1", "notes", "finish", 7, errkind.NotFound},
		{":1.7", "1", "notes", "enter", 7, ""},
		{":1.7", "1", "notes", "enter", 7, errkind.NotFound}, // twice
	} {
		if err := x.done(c.name, c.uid, c.id, c.instance, c.phase, "it hurts"); errkind.KindOf(err) != c.want {
			t.Errorf("%+v: got error %v of kind %q, want kind %q", c, err, errkind.KindOf(err), c.want)
		}
	}
	if a := <-answers; a.UID != 7 || a.Err == nil || len(answers) > 0 {
		t.Errorf("got answer %+v and %d more, want an error of UID 7 and no more", a, len(answers))
	}
}

// TestLastHelperLeaves: its waiter is notified.
func TestLastHelperLeaves(t *testing.T) {
	answers := make(chan refresh.Answer, 1)
	x := &sessions{s: &Service{log: slog.New(slog.DiscardHandler)}, users: map[uint32]*person{
		7: {helpers: []string{":1.7"}, jobs: []job{{work("1", refresh.SessionEnter), answers}, {Work: work("", refresh.SessionBegin)}}},
	}}
	x.leave(":1.9", 9)
	x.leave(":1.7", 7)
	if a := <-answers; a.UID != 7 || a.Err != refresh.ErrNoHelper {
		t.Errorf("got %+v, want uid 7 and err %v", a, refresh.ErrNoHelper)
	}
	if len(x.users) > 0 {
		t.Error("the user is kept")
	}
	x.leave(":1.7", 7)
}
