package wallclock

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// patience is far more than any of this takes; only a failure waits for it.
const patience = 10 * time.Second

func alarms(t *testing.T) map[string]Alarm {
	k := New()
	if _, ok := k.(*kernel); !ok {
		t.Fatal("the kernel has no timers")
	}
	return map[string]Alarm{"kernel": k, "runtime": NewRuntime()}
}

func rings(t *testing.T, a Alarm) {
	t.Helper()
	select {
	case <-a.C():
	case <-time.After(patience):
		t.Fatal("it does not ring")
	}
}

func TestAlarm(t *testing.T) {
	for name, a := range alarms(t) {
		t.Run(name, func(t *testing.T) {
			defer a.Close()
			at := Now().Add(20 * time.Millisecond)
			a.Set(at)
			rings(t, a)
			if now := Now(); now.Before(at) {
				t.Errorf("it rang %v too early", at.Sub(now))
			}
			for _, past := range []time.Time{Now().Add(-time.Hour), time.Unix(0, 0), time.Unix(-1000, 0), time.Unix(0, 1)} {
				a.Set(past)
				rings(t, a)
			}
		})
	}
}

func TestForgotten(t *testing.T) {
	for name, a := range alarms(t) {
		t.Run(name, func(t *testing.T) {
			defer a.Close()
			b := New()
			defer b.Close()
			a.Set(Now().Add(10 * time.Millisecond))
			a.Set(Now().Add(time.Hour))
			b.Set(Now().Add(50 * time.Millisecond))
			select {
			case <-a.C():
				t.Error("the first time still counts")
			case <-b.C():
			}
			a.Set(Now().Add(-time.Second))
			a.Set(time.Time{})
			b.Set(Now().Add(20 * time.Millisecond))
			rings(t, b)
			select {
			case <-a.C(): // a ring that was on its way may still arrive; a second one may not
			default:
			}
			b.Set(Now().Add(20 * time.Millisecond))
			rings(t, b)
			select {
			case <-a.C():
				t.Error("it rings although it was told not to")
			default:
			}
		})
	}
}

func TestCloseWhileSet(t *testing.T) {
	for name, a := range alarms(t) {
		t.Run(name, func(t *testing.T) {
			a.Set(Now().Add(time.Hour))
			a.Close()
		})
	}
}

func TestRuntimeFollowsTheTestsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewRuntime()
		defer a.Close()
		start := time.Now()
		a.Set(start.Add(14 * 24 * time.Hour))
		<-a.C()
		if d := time.Since(start); d != 14*24*time.Hour {
			t.Errorf("it rang after %v, want %v", d, 14*24*time.Hour)
		}
	})
}

// The clock is set, by a microsecond and back: enough for the kernel to notify.
func TestClockIsSet(t *testing.T) {
	require.Root(t)
	shift := func(ns int64) error {
		sec := int64(0)
		if ns < 0 {
			sec, ns = -1, ns+int64(time.Second)
		}
		const setOffset, nano = 0x0100, 0x2000 // ADJ_SETOFFSET, ADJ_NANO of adjtimex(2)
		_, err := unix.Adjtimex(&unix.Timex{Modes: setOffset | nano, Time: unix.Timeval{Sec: sec, Usec: ns}})
		return err
	}
	a := New()
	defer a.Close()
	a.Set(Now().Add(24 * time.Hour))
	if err := shift(1000); err != nil {
		require.Missing(t, "the clock cannot be set: %v", err)
	}
	rings(t, a)
	a.Set(Now().Add(24 * time.Hour))
	if err := shift(-1000); err != nil {
		t.Fatal(err)
	}
	rings(t, a) // each time
}
