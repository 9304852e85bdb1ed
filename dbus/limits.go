package bus

import (
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

// How many calls of one user a server serves; on a real bus the dialer's gate
// keeps most of the surplus away before (see dialer.Serve). Further calls wait, up to a
// second bound; calls beyond that one are refused with org.lull.Error.LimitsExceeded. So
// one user's calls take neither the memory nor the time of the others'. root, and the
// user of the server's process, have manyTimes as much.
const (
	maxRunning = 32  // run beside each other
	maxQueued  = 256 // wait for one of those
	manyTimes  = 16

	// A call with more arguments than this, in bytes, is large. It does not wait, and
	// maxLarge of them run beside each other.
	largeSize = 16 << 10
	maxLarge  = 4
)

// limits are the calls under way, by user. Before the user is known they count by
// connection, so that the question about it is bounded as well.
type limits struct {
	mu      sync.Mutex
	senders map[string]int        // guarded by mu: calls whose user is being asked for
	users   map[uint32]*userCalls // guarded by mu
}

// userCalls are the calls of one user. limits.mu guards it.
type userCalls struct {
	running int
	large   int             // of those
	queue   []chan struct{} // the oldest first; closed when it is the call's turn
}

func newLimits() *limits {
	return &limits{senders: map[string]int{}, users: map[uint32]*userCalls{}}
}

// enter waits until the call may run, and returns the function to call at its
// end. Uid asks whose bounds it counts for.
func (l *limits) enter(sender string, size int, uid func() (uint32, error)) (leave func(), err error) {
	l.mu.Lock()
	if l.senders[sender] >= maxRunning+maxQueued {
		l.mu.Unlock()
		return nil, tooMany()
	}
	l.senders[sender]++
	l.mu.Unlock()
	id, err := uid()
	l.mu.Lock()
	if l.senders[sender]--; l.senders[sender] == 0 {
		delete(l.senders, sender)
	}
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	running, queued := maxRunning, maxQueued
	if id == 0 || int(id) == os.Getuid() {
		running, queued = running*manyTimes, queued*manyTimes
	}
	u := l.users[id]
	if u == nil {
		u = &userCalls{}
		l.users[id] = u
	}
	large := 0
	if size > largeSize {
		large = 1
	}
	leave = func() { l.leave(id, large) }
	switch {
	case u.running < running && u.large+large <= maxLarge:
		u.running++
		u.large += large
		l.mu.Unlock()
		return leave, nil
	case len(u.queue) >= queued || large > 0:
		l.mu.Unlock()
		return nil, tooMany()
	}
	turn := make(chan struct{})
	u.queue = append(u.queue, turn)
	l.mu.Unlock()
	<-turn // what runs before it ends by itself
	return leave, nil
}

// leave passes the place of an ended call to the next one of its user.
func (l *limits) leave(id uint32, large int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.users[id]
	u.large -= large
	if len(u.queue) > 0 {
		close(u.queue[0])
		u.queue = u.queue[1:]
		return
	}
	if u.running--; u.running == 0 {
		delete(l.users, id)
	}
}

func tooMany() error {
	return errkind.New(errkind.LimitsExceeded, "cannot take the call: too many calls of this user are under way").
		WithHint("wait for the answers to those")
}

// sizeOf estimates the memory of a call's arguments, in bytes.
func sizeOf(body []any) (n int) {
	for _, v := range body {
		n += sizeOfValue(reflect.ValueOf(v))
	}
	return n
}

func sizeOfValue(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.String:
		return 16 + v.Len()
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return 24 + v.Len()
		}
		for i := range v.Len() {
			n += sizeOfValue(v.Index(i))
		}
		return n + 24
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			n += 32 + sizeOfValue(it.Key()) + sizeOfValue(it.Value())
		}
		return n + 48
	case reflect.Interface:
		if !v.IsNil() {
			return sizeOfValue(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == variantType {
			return 32 + sizeOfValue(reflect.ValueOf(v.Interface().(dbus.Variant).Value()))
		}
	}
	return 8
}

// Flight shares one run of an expensive read among all callers that wait for it to begin:
// at most one runs and one is prepared, for any number of callers. Each caller gets a
// value that was read after its call. Its pace keeps runs apart. The zero value is ready, and
// has a pace of its own.
type Flight[T any] struct {
	mu      sync.Mutex
	running bool      // guarded by mu
	next    *batch[T] // guarded by mu: those that the run after this one serves
	pace    *Pace     // guarded by mu
}

// NewFlight returns a flight whose runs take turns with those of other flights of the pace.
func NewFlight[T any](pace *Pace) Flight[T] { return Flight[T]{pace: pace} }

// Pace lets one run at a time begin. Between two runs there is a rest of restFactor times the
// length of the first, up to maxRest, so that callers in a loop leave most of a processor to
// others, however many kinds of reads they call.
type Pace struct {
	turn  chan struct{} // full while a run has its turn, which guards what follows
	ended time.Time     // of the last run
	took  time.Duration // by the last run
}

// NewPace returns a pace for several flights.
func NewPace() *Pace { return &Pace{turn: make(chan struct{}, 1)} }

// run calls f after the rest, and counts how long it takes.
func (p *Pace) run(f func()) {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	time.Sleep(time.Until(p.ended.Add(min(restFactor*p.took, maxRest))))
	began := time.Now()
	f()
	p.ended = time.Now()
	p.took = p.ended.Sub(began)
}

const (
	restFactor = 3
	maxRest    = time.Second
)

type batch[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// Do returns the result of read. Callers share the value and must not change it.
func (f *Flight[T]) Do(read func() (T, error)) (T, error) {
	f.mu.Lock()
	b := f.next
	if b == nil {
		b = &batch[T]{done: make(chan struct{})}
		f.next = b
		if !f.running {
			f.running = true
			go f.run(read)
		}
	}
	f.mu.Unlock()
	<-b.done
	return b.value, b.err
}

// run serves batches until none is left.
func (f *Flight[T]) run(read func() (T, error)) {
	for {
		f.mu.Lock()
		f.running = f.next != nil
		if f.pace == nil {
			f.pace = NewPace()
		}
		running, pace := f.running, f.pace
		f.mu.Unlock()
		if !running {
			return
		}
		pace.run(func() {
			f.mu.Lock()
			b := f.next
			f.next = nil
			f.mu.Unlock()
			b.value, b.err = guarded(read)
			close(b.done)
		})
	}
}

// guarded calls read, and turns a panic into an error of its callers.
func guarded[T any](read func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errkind.New(errkind.Failed, "internal error: %v", p)
		}
	}()
	return read()
}
