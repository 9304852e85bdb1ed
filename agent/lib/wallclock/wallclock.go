// Package wallclock wakes a goroutine that waits for a time of the wall clock:
// a deadline, the end of a hold, a reminder, the next check of a repository.
//
// Go's timers count monotonic time, which stops while the machine sleeps and
// is not affected by setting the clock. An Alarm also rings when either has
// happened (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), so that it is never
// late by more than the system's own wake-up. A ring is therefore a hint, like
// every kernel event: the receiver reads the time and resets the alarm.
//
// An Alarm has one user; only its channel may be read from elsewhere.
package wallclock

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Alarm rings once after each Set.
type Alarm interface {
	// C gets a value when the time has come or the clock has been set.
	C() <-chan struct{}
	// Set changes the time; what has not been heard yet is forgotten. Zero: never.
	Set(at time.Time)
	// Close ends it.
	Close()
}

// Layout is how texts for people write a time, see time.Time.Format.
const Layout = "2006-01-02 15:04"

// Now is the wall-clock time without Go's monotonic reading, for what is kept
// longer than the machine stays awake. It is in the time zone of the machine.
func Now() time.Time { return time.Now().Round(0).In(Zone()) }

// New returns an alarm of the kernel's, or where there is none to be had, of
// package time.
func New() Alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return NewRuntime()
	}
	k := &kernel{f: os.NewFile(uintptr(fd), "timerfd"), fd: fd, c: make(chan struct{}, 1), done: make(chan struct{})}
	go k.listen()
	return k
}

type kernel struct {
	f    *os.File // its reads wait in the runtime's poller and cost no thread
	fd   int      // of f
	c    chan struct{}
	done chan struct{} // closed when listen has returned
}

func (k *kernel) C() <-chan struct{} { return k.c }

func (k *kernel) Set(at time.Time) {
	var spec unix.ItimerSpec // zero disarms
	if !at.IsZero() {
		// A time before the epoch, or the epoch itself, would disarm it.
		spec.Value = unix.NsecToTimespec(max(at.UnixNano(), 1))
	}
	drain(k.c)
	const flags = unix.TFD_TIMER_ABSTIME | unix.TFD_TIMER_CANCEL_ON_SET
	switch err := unix.TimerfdSettime(k.fd, flags, &spec, nil); {
	case errors.Is(err, unix.ECANCELED): // armed, but the clock was set since the last time
		ring(k.c)
	case err != nil:
		panic("internal error: timerfd_settime: " + err.Error()) // all others are of the arguments
	}
}

func (k *kernel) Close() {
	k.f.Close()
	<-k.done
}

// listen passes rings on until the descriptor is closed.
func (k *kernel) listen() {
	defer close(k.done)
	var count [8]byte
	for {
		_, err := k.f.Read(count[:])
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return // closed
		}
		ring(k.c)
	}
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// NewRuntime returns an alarm of package time's, which tests with a clock of
// their own (testing/synctest) can drive. It is not affected by setting the
// clock.
func NewRuntime() Alarm { return &runtime{c: make(chan struct{}, 1)} }

type runtime struct {
	c     chan struct{}
	timer *time.Timer
}

func (r *runtime) C() <-chan struct{} { return r.c }

func (r *runtime) Set(at time.Time) {
	r.Close()
	drain(r.c)
	if !at.IsZero() {
		r.timer = time.AfterFunc(max(0, time.Until(at)), func() { ring(r.c) })
	}
}

func (r *runtime) Close() {
	if r.timer != nil {
		r.timer.Stop()
	}
}
