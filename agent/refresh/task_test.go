package refresh

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
)

// TestWhatIsLearnedDuringAStepIsKept: the record belongs to the step while it runs. Neither
// the step nor an event may overwrite what the other has written.
func TestWhatIsLearnedDuringAStepIsKept(t *testing.T) {
	k := &task{
		e:       &Engine{World: World{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}},
		letters: make(chan letter), instance: "notes",
		r: plan.Refresh{Kind: plan.Update, Instance: "notes", Step: plan.Fetch},
	}
	started := make(chan struct{})
	go func() {
		<-started
		k.letters <- letter{Event: plan.Event{Type: plan.NoticeShown, UID: 5}}
		k.letters <- letter{Event: plan.Event{Type: plan.CancelAsked}}
	}()
	ev, ok := k.runStep(t.Context(), "test", plan.DoStep, func(ctx context.Context, k *task) error {
		k.r.To = 6
		close(started)
		<-ctx.Done() // the cancellation reaches it at once
		k.r.To = 7
		return context.Cause(ctx)
	})
	if !ok || ev.Type != plan.StepFailed || !errkind.Is(ev.Err, errkind.Interrupted) {
		t.Fatalf("got event %+v (%v), want a step that failed with an error of kind %s, and true", ev, ok, errkind.Interrupted)
	}
	if k.r.To != 7 || !k.r.Cancel || !slices.Equal(k.r.Notified, []uint32{5}) {
		t.Fatalf("got %+v, want revision 7, a cancellation and UID 5 notified", k.r)
	}
}
