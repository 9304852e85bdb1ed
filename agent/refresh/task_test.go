package refresh

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/lull/lull/agent/problem"
)

// TestWhatIsLearnedDuringAStepIsKept: the record belongs to the step while it
// runs; neither may overwrite what the other has written.
func TestWhatIsLearnedDuringAStepIsKept(t *testing.T) {
	k := &task{
		e:    &Engine{World: World{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}},
		mail: make(chan Event), instance: "notes",
		r: Refresh{Kind: Update, Instance: "notes", Step: Fetch},
	}
	started := make(chan struct{})
	go func() {
		<-started
		k.mail <- Event{Type: NoticeShown, UID: 5}
		k.mail <- Event{Type: CancelAsked}
	}()
	ev, ok := k.carry(t.Context(), "test", DoStep, func(ctx context.Context, k *task) error {
		k.r.To = 6
		close(started)
		<-ctx.Done() // the cancellation reaches it at once
		k.r.To = 7
		return context.Cause(ctx)
	})
	if !ok || ev.Type != StepFailed || !problem.Is(ev.Err, problem.Interrupted) {
		t.Fatalf("%+v %v", ev, ok)
	}
	if k.r.To != 7 || !k.r.Cancel || !slices.Equal(k.r.Told, []uint32{5}) {
		t.Fatalf("something was lost: %+v", k.r)
	}
}
