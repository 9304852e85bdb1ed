package bus

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/dbus/bustest"
)

func TestCallsOfOneUserAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits()
		as := func(uid uint32) func() (uint32, error) { return func() (uint32, error) { return uid, nil } }
		hold := make(chan struct{})
		var running, most, refused atomic.Int32
		for i := range 1000 {
			go func() {
				leave, err := l.enter(fmt.Sprintf(":1.%d", i%7), 0, as(4001))
				if err != nil {
					if !errkind.Is(err, errkind.LimitsExceeded) {
						t.Errorf("got %v, want an error of kind %s", err, errkind.LimitsExceeded)
					}
					refused.Add(1)
					return
				}
				most.Store(max(most.Load(), running.Add(1)))
				<-hold
				running.Add(-1)
				leave()
			}()
		}
		synctest.Wait()
		if running.Load() != maxRunning || refused.Load() != 1000-maxRunning-maxQueued {
			t.Errorf("got %d running and %d refused, want %d and %d", running.Load(), refused.Load(), maxRunning, 1000-maxRunning-maxQueued)
		}
		if _, err := l.enter(":1.1", largeSize+1, as(4001)); !errkind.Is(err, errkind.LimitsExceeded) {
			t.Errorf("a large call beyond the limit: got %v, want an error of kind %v", err, errkind.LimitsExceeded)
		}
		leave, err := l.enter(":1.1000", 0, as(4002)) // another user, at once
		if err != nil {
			t.Fatal(err)
		}
		leave()
		var large int
		for range 10 {
			if _, err := l.enter(":1.1001", largeSize+1, as(4003)); err == nil {
				large++
			}
		}
		if large != maxLarge {
			t.Errorf("%d large calls run, want %v", large, maxLarge)
		}
		close(hold)
		synctest.Wait()
		if most.Load() > maxRunning || len(l.users) != 1 || len(l.senders) != 0 {
			t.Errorf("got at most %d running, then users %v and senders %v; want at most %d, one user and no sender", most.Load(), l.users, l.senders, maxRunning)
		}
		if _, err := l.enter(":1.1", 0, func() (uint32, error) { return 0, errors.New("gone") }); err == nil || len(l.senders) != 0 {
			t.Errorf("an unknown caller: got %v and senders %v, want an error and none", err, l.senders)
		}
	})
}

// TestFlight: however many ask, one reading runs and one is prepared, and each gets
// what was read after it had asked.
func TestFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[int32]
		var state, reads atomic.Int32
		turn := make(chan struct{})
		read := func() (int32, error) {
			reads.Add(1)
			v := state.Load()
			<-turn
			return v, nil
		}
		var wg sync.WaitGroup
		ask := func(want int32) {
			wg.Go(func() {
				if v, err := f.Do(read); v < want || err != nil {
					t.Errorf("got %d, %v; want at least %d, the state when it was asked, and no error", v, err, want)
				}
			})
		}
		state.Store(1)
		ask(1)
		synctest.Wait()
		state.Store(2)
		for range 1000 {
			ask(2)
		}
		synctest.Wait()
		turn <- struct{}{}
		synctest.Wait()
		turn <- struct{}{}
		wg.Wait()
		if reads.Load() != 2 {
			t.Errorf("%d readings, want 2", reads.Load())
		}
		if _, err := f.Do(func() (int32, error) { panic("ouch") }); err == nil {
			t.Error("a panic is no error")
		}
	})
}

// TestManyNamesTakeFewRules: a bus takes 512 match rules of a connection.
func TestManyNamesTakeFewRules(t *testing.T) {
	address := bustest.StartWith(t, "session", `<limit name="max_match_rules_per_connection">128</limit>`)
	conn, err := Dial(t.Context(), address, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n := NewNames(conn)
	defer n.Close()
	other, err := Dial(t.Context(), address, false)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan string, 1000)
	var stops []func()
	for i := range 400 {
		name := fmt.Sprintf("org.lull.Test%d", i)
		if _, err := other.RequestName(name, 0); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			stop, err := n.Watch(t.Context(), name, func(owner string) {
				if owner == "" {
					left <- name
				}
			})
			if err != nil {
				t.Fatalf("name %d: %v", i, err)
			}
			stops = append(stops, stop)
		}
	}
	other.Close()
	for range 800 {
		<-left
	}
	for _, stop := range stops {
		stop()
	}
	if len(n.narrow)+len(n.wide)+len(n.watching)+len(n.watches) > 0 {
		t.Errorf("got %v, %v, %v and %v left, want nothing", n.narrow, n.wide, n.watching, n.watches)
	}
}

// TestFlightsOfOnePace: callers in a loop of three kinds of readings leave as much of the time
// to others as those of one.
func TestFlightsOfOnePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := NewPace()
		a, b, c := NewFlight[int](pace), NewFlight[int](pace), NewFlight[int](pace)
		var busy, most atomic.Int32
		read := func() (int, error) {
			most.Store(max(most.Load(), busy.Add(1)))
			time.Sleep(100 * time.Millisecond)
			busy.Add(-1)
			return 0, nil
		}
		var wg sync.WaitGroup
		began := time.Now()
		for _, f := range []*Flight[int]{&a, &b, &c} {
			wg.Go(func() {
				for range 5 {
					f.Do(read)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 15*400*time.Millisecond-300*time.Millisecond || most.Load() != 1 {
			t.Errorf("fifteen readings of 100 ms: got %v and %d at the same time, want %v and 1", took, most.Load(), 15*400*time.Millisecond-300*time.Millisecond)
		}
	})
}

// TestFlightRests: callers in a loop have a reading run a quarter of the time at most;
// a call after the rest is served at once.
func TestFlightRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[int]
		read := func() (int, error) {
			time.Sleep(100 * time.Millisecond)
			return 0, nil
		}
		began := time.Now()
		for range 5 {
			f.Do(read)
		}
		if took := time.Since(began); took != 1700*time.Millisecond {
			t.Errorf("five readings of 100 ms took %v, want %v", took, 1700*time.Millisecond)
		}
		time.Sleep(time.Second)
		began = time.Now()
		f.Do(read)
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("one alone took %v, want %v", took, 100*time.Millisecond)
		}
	})
}
