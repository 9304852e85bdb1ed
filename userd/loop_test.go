package userd

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/userd/notify"
)

// The timer of the loop, on a clock of its own: two weeks of a person who shuts
// every notice and never closes the application.
func TestRemindersOverTwoWeeks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := notify.Pending{ID: "r1", Instance: "firefox", ToVersion: "153", ToRevision: 2, Since: start, Deadline: start.Add(14 * 24 * time.Hour)}
		events := make(chan notify.Event, 8)
		ctx, cancel := context.WithCancel(t.Context())
		wakeups := 0
		var shown []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			loop(ctx, notify.New(notify.DefaultSchedule, time.UTC, nil), events, wallclock.NewRuntime, edges{
				offered: func() {},
				agent: func(f notify.Effect) {
					if _, ok := f.(notify.Ask); ok {
						wakeups++
						events <- notify.Listed{List: []notify.Pending{p}}
					}
				},
				present: func(bool) {},
				desktop: func(c any) {
					if s, ok := c.(notify.Show); ok {
						shown = append(shown, fmt.Sprintf("%v %d", time.Since(start), s.Notice.Urgency))
						events <- notify.Closed{Instance: "firefox", Serial: s.Notice.Serial}
					}
				},
				remember: func(map[string]notify.Memory) {},
			})
		}()
		events <- notify.Disturb{No: false}
		events <- notify.AgentUp{}
		time.Sleep(60 * 24 * time.Hour)
		cancel()
		<-done
		want := []string{"0s 0", "24h0m0s 0", "72h0m0s 0", "264h0m0s 1", "288h0m0s 1", "312h0m0s 1"}
		if fmt.Sprint(shown) != fmt.Sprint(want) {
			t.Errorf("shown %v\nwant  %v", shown, want)
		}
		if wakeups != len(want) {
			t.Errorf("the agent was asked %d times, want %d", wakeups, len(want))
		}
	})
}

func TestLoopPassesEffectsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := notify.Pending{ID: "r1", Instance: "firefox", ToRevision: 2, Since: time.Now()}
		events := make(chan notify.Event, 8)
		ctx, cancel := context.WithCancel(t.Context())
		var did []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			loop(ctx, notify.New(notify.DefaultSchedule, time.UTC, nil), events, wallclock.NewRuntime, edges{
				offered: func() {},
				agent: func(f notify.Effect) {
					switch f := f.(type) {
					case notify.Ask:
						events <- notify.Listed{List: []notify.Pending{p}}
					case notify.Answer:
						did = append(did, "answer "+f.Action)
					}
				},
				desktop:  func(any) {},
				present:  func(yes bool) { did = append(did, fmt.Sprint("agent ", yes)) },
				quit:     func(p notify.Pending) { did = append(did, "quit "+p.Instance) },
				launch:   func(i string) { did = append(did, "launch "+i) },
				forget:   func(i string) { did = append(did, "forget "+i) },
				remember: func(map[string]notify.Memory) {},
			})
		}()
		for _, e := range []notify.Event{notify.Disturb{}, notify.AgentUp{}, notify.Invoked{Instance: "firefox", Action: notify.RestartNow}} {
			events <- e
			synctest.Wait()
		}
		time.Sleep(20 * time.Second) // it is still open
		for _, e := range []notify.Event{
			notify.Invoked{Instance: "firefox", Action: notify.WhenClosed}, notify.Invoked{Instance: "firefox", Action: notify.RestartNow},
			notify.Withdrawn{ID: "r1", Reason: "failed"}, notify.AgentDown{},
		} {
			events <- e
			synctest.Wait()
		}
		cancel()
		<-done
		want := "[agent true answer restart-now quit firefox forget firefox answer when-closed answer restart-now quit firefox launch firefox agent false]"
		if fmt.Sprint(did) != want {
			t.Errorf("did  %v\nwant %v", did, want)
		}
	})
}
