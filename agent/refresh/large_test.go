package refresh

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/resolve"
)

// TestLargeDownload: a download above the bound of policy that no user has requested ends before
// its first byte, once, and begins a minute later. A user's hold puts it off, for no longer than
// policy lets users hold a revision, however often it is renewed.
func TestLargeDownload(t *testing.T) {
	p := newParking(t, "network: {download-notice: 2MB}\n")
	p.world.Changed = func(plan.Refresh) {}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))) // a clock that can be right
		k := &task{e: &Engine{World: p.world}, wake: make(chan struct{}, 1), instance: "notes", r: plan.Refresh{Kind: plan.Update, Instance: "notes", Step: plan.Fetch, Urgency: "medium"}}
		defer k.closeAlarm()
		sized := func(bytes int64) bool {
			ctx, size, large := k.announcing(t.Context())
			newMeter(k, size).set(resolve.Progress{Total: bytes, Fetch: bytes})
			ended := ctx.Err() != nil
			var busy *busyError
			if found := large(); ended != (found == bytes) || ended != errors.As(context.Cause(ctx), &busy) {
				t.Errorf("%d bytes: ended %v with %v, large %d; want all of them to agree", bytes, ended, context.Cause(ctx), found)
			}
			return ended
		}
		if sized(1_999_999) {
			t.Error("1999999 bytes are large, want 2 MB to be the least that is")
		}
		k.r.Now = true
		if sized(9_000_000) {
			t.Error("what a user has requested is announced, want that to begin at once")
		}
		k.r.Now = false
		if !sized(2_000_000) {
			t.Fatal("2 MB are not large, want them to be")
		}
		k.announce(2_000_000)
		if sized(2_000_000) {
			t.Error("it is announced twice, want once")
		}
		waits := func() (total time.Duration) {
			start := time.Now()
			for busy := k.mayFetch(); busy != nil; busy = k.mayFetch() {
				if busy.until.IsZero() || time.Since(start) > 400*day {
					t.Fatalf("it waits until %v after %v, want an end", busy.until, time.Since(start))
				}
				if announced := k.r.Announced(); announced == k.r.Held {
					t.Errorf("announced %v while held %v; want a held one to need no notice", announced, k.r.Held)
				}
				k.r.Parked = true
				if begins := k.r.DownloadBegins(); k.r.Held != begins.IsZero() || !k.r.Held && !begins.Equal(busy.until) {
					t.Errorf("it is shown to begin at %v while held %v until %v; want a held one to show no time, and another one its own", begins, k.r.Held, busy.until)
				}
				k.r.Parked = false
				time.Sleep(time.Until(busy.until))
			}
			return time.Since(start)
		}
		if took := waits(); took != largeNotice {
			t.Errorf("it waits for %v, want %v", took, largeNotice)
		}
		hold := func() {
			now := time.Now()
			if err := p.world.State.PutHold(state.Hold{Instance: "notes", UID: 7, Owner: "ann", Since: now, Until: now.Add(day)}); err != nil {
				t.Fatal(err)
			}
		}
		hold()
		if took := waits(); took != day {
			t.Errorf("a held one waits for %v, want a day", took)
		}
		start := time.Now()
		for range 30 {
			hold()
			waits()
		}
		if took, most := time.Since(start), 7*day-day-largeNotice; took != most {
			t.Errorf("renewed each day it waits for %v more, want the 7 days of user-hold to end after %v", took, most)
		}
		hold()
		k.r.Now = true
		if took := waits(); took != 0 {
			t.Errorf("a requested one waits for %v, want no time", took)
		}
	})
}
