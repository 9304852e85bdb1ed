package sessionjobs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNothingAppearsTooEarly: in any history of orders and ends, a lane has
// one job, and from the moment that launches are inhibited until the refresh
// is over no data is migrated for good and no service starts.
func TestNothingAppearsTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Machine
		var running [lanes]*Job
		var cancelled [lanes]bool
		shut := false
		step := func(ev Event) {
			for _, e := range m.Step(ev) {
				switch e := e.(type) {
				case Run:
					at := e.Do.lane()
					if running[at] != nil {
						t.Fatalf("two jobs in lane %d: %+v and %+v, want one at a time", at, *running[at], e.Job)
					}
					if shut && (e.Do == Migrate || e.Do == Start) {
						t.Fatalf("%+v begins while launches are inhibited, want it to wait", e.Job)
					}
					running[at], cancelled[at] = &e.Job, false
				case Cancel:
					if running[e.Lane] == nil {
						t.Fatalf("a job of lane %d is cancelled, want that only when one is running there", e.Lane)
					}
					cancelled[e.Lane] = true
				}
			}
			for _, j := range running {
				if j != nil && shut && !cancelled[j.Do.lane()] && (j.Do == Migrate || j.Do == Start) {
					t.Fatalf("%+v goes on while launches are inhibited, want it to be cancelled", *j)
				}
			}
		}
		to := uint32(2)
		t.Repeat(map[string]func(*rapid.T){
			"order": func(t *rapid.T) {
				phases := []string{Precopy, Enter, Abandon, Session}
				if shut {
					phases = []string{Undo, Finish}
				}
				o := Order{ID: "r", Phase: rapid.SampledFrom(phases).Draw(t, "phase"), To: to, Data: rapid.Bool().Draw(t, "data")}
				if rapid.Bool().Draw(t, "services") {
					o.Services = []Service{{Name: "x"}}
				}
				switch o.Phase {
				case Session:
					o.ID = ""
				case Enter:
					shut = true
				case Undo, Finish:
					shut = false
				}
				step(Given{o})
				if o.Phase == Finish || o.Phase == Abandon {
					to++
				}
			},
			"end": func(t *rapid.T) {
				at := rapid.SampledFrom([]Lane{ServicesLane, DataLane}).Draw(t, "lane")
				if running[at] == nil {
					t.Skip("nothing runs there")
				}
				running[at] = nil
				var err error
				if rapid.Bool().Draw(t, "fails") {
					err = errors.New("bad")
				}
				step(Ended{at, err})
			},
		})
	})
}

// hands do a job when the test asks for it, or until it is cancelled.
type hands struct {
	began chan Job
	end   chan error
}

func (h hands) Do(ctx context.Context, j Job) error {
	h.began <- j
	select {
	case err := <-h.end:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestWorker(t *testing.T) {
	services, data := hands{make(chan Job), make(chan error)}, hands{make(chan Job), make(chan error)}
	done := make(chan string, 8)
	w := New(services, data, func(o Order, err error) {
		text := o.Phase
		if err != nil {
			text += ": " + err.Error()
		}
		done <- text
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	says := func(want string) {
		t.Helper()
		if got := <-done; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	some := []Service{{Name: "x"}}
	w.Submit(Order{ID: "1", Phase: Precopy, Instance: "a", To: 2, Data: true})
	w.Submit(Order{Phase: Session, Instance: "b", To: 1, Services: some}) // another instance does not wait
	<-data.began
	<-services.began
	data.end <- errors.New("bad")
	says("precopy: bad")
	w.Submit(Order{ID: "9", Phase: Enter, Instance: "b", Services: some}) // breaks the start off
	if j := <-services.began; j.Do != Stop {
		t.Errorf("got %+v, want %v", j, Stop)
	}
	services.end <- nil
	says("enter")
	w.Submit(Order{ID: "9", Phase: Finish, Instance: "b", To: 2, Data: true, Services: some})
	if j := <-data.began; j.Do != Migrate {
		t.Errorf("got %+v, want %v", j, Migrate)
	}
	cancel() // with a job under way
	<-ended
	if len(done) > 0 {
		t.Errorf("a cancelled job reported %q, want no report after the end", strings.TrimSpace(<-done))
	}
}
