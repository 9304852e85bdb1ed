package dialer

import (
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

// How many calls of one user a server takes. Calls that are over the rate wait. Those
// that find the queue full are refused, and the refusals wait as well, so that
// a program that repeats its call at once slows itself down; if too many
// refusals wait, the surplus is dropped. root, and the user of this process,
// have no such bounds.
const (
	callRate  = 128 // tokens a second; a call costs one, and one more for each tokenSize
	callBurst = 256 // tokens that are saved up
	tokenSize = 4 << 10

	maxRunning = 32 // calls in the library that have no reply yet
	maxYoung   = 2  // of those, calls that came there less than youth ago
	youth      = 50 * time.Millisecond
	maxParked  = 256 // calls that wait, of a user
	maxWaiting = 512 << 10

	refusalRate  = 256 // a second
	refusalBurst = 256
	maxRefusals  = 4096 // that wait, of a user; of a connection whose user is not known 64

	// Connections whose user is being asked for, as many as dbus-daemon's system bus has
	// (max_completed_connections), and the calls of all of them together that wait.
	maxUnknown       = 2048
	maxUnknownParked = 512
	maxUnknownBytes  = 2 << 20
	// maxSenders is how many connections are remembered.
	maxSenders = 2048
)

// fair shares a server's time between the users that call it: calls of each wait in a
// queue of their own, and the queues are served in turn. Calls over the bounds
// never reach the library, which would decode them and start a goroutine for
// each.
//
// The library must reply to each call, so that fair gets its end: a
// call that wants no reply loses that flag on the way in, and its reply is dropped on
// the way out. The library sees other serials than the callers', because two callers
// may use the same.
//
// All methods may be called from any goroutine; none blocks on a socket.
type fair struct {
	user func(sender string) (uid uint32, err error)
	wake chan struct{} // has a value when a call may have become due

	mu      sync.Mutex        // guards what follows
	last    uint32            // serial that the library was given last
	flight  map[uint32]flight // calls in the library, by that serial
	senders map[string]*line  // by unique name on the bus
	users   map[uint32]*line  // by uid
	busy    []*line           // those that have parked calls, in the order of their turns
	unknown struct{ n, parked, bytes int }
}

// flight is a call in the library.
type flight struct {
	of     *line
	serial uint32 // its caller's
	silent bool   // its caller wants no reply
}

// line is the calls of one user, or of one connection whose user is not known yet.
type line struct {
	free    bool // has no bounds
	unknown bool
	running int
	young   []young // at most maxYoung, the oldest first
	parked  []call
	bytes   int // of those
	calls   bucket

	refused  []call // whose refusals wait
	refusals bucket
}

// young is a call that has come to the library lately. It is taken to need a processor, where
// an older one waits for something.
type young struct {
	serial uint32 // the library's
	until  time.Time
}

// call is a message that waits.
type call struct {
	m   *message // its header
	b   []byte   // all of it, for the library
	why string   // it will be refused with this text; empty otherwise
}

// bucket is a token bucket.
type bucket struct {
	rate, size float64 // tokens a second, and at most
	tokens     float64
	at         time.Time // when there were that many
}

func newBucket(rate, size float64) bucket {
	return bucket{rate: rate, size: size, tokens: size, at: time.Now()}
}

// take takes n tokens, or returns how long it lasts until they are there.
func (b *bucket) take(n float64) (wait time.Duration) {
	now := time.Now()
	b.tokens, b.at = min(b.size, b.tokens+now.Sub(b.at).Seconds()*b.rate), now
	if n = min(n, b.size); b.tokens >= n {
		b.tokens -= n
		return 0
	}
	return max(time.Duration((n-b.tokens)/b.rate*float64(time.Second)), time.Millisecond)
}

func newFair(user func(string) (uint32, error)) *fair {
	return &fair{user: user, wake: make(chan struct{}, 1), flight: map[uint32]flight{}, senders: map[string]*line{}, users: map[uint32]*line{}}
}

func newLine() *line {
	return &line{calls: newBucket(callRate, callBurst), refusals: newBucket(refusalRate, refusalBurst)}
}

// verdict is how a call is handled.
type verdict int

const (
	pass verdict = iota
	refuse
	leave // it waits, or is dropped
)

// arrive decides about a call whose bytes without what the library cannot take are b.
// b is changed where it passes; it is copied where it waits.
func (f *fair) arrive(m *message, b []byte) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lineLocked(m.words[fieldSender])
	if l == nil {
		return leave
	}
	if l.free || len(l.parked) == 0 && f.dueLocked(l, len(b)) == 0 {
		f.enterLocked(l, m, b)
		return pass
	}
	full := l.full(len(b))
	if l.unknown {
		full = f.unknown.parked >= maxUnknownParked || f.unknown.bytes+len(b) > maxUnknownBytes
	}
	if full {
		return f.refuseLocked(l, m, tooMany)
	}
	l.parked = append(l.parked, call{m: m.header(), b: slices.Clone(b)})
	f.addLocked(l, len(b))
	return leave
}

// header is a copy of what a refusal needs.
func (m *message) header() *message {
	words := map[byte]string{fieldSender: m.words[fieldSender]}
	return &message{order: m.order, words: words, b: slices.Clone(m.b[:fixedHeader])}
}

// tooLong decides about a call that is too long to be taken at all.
func (f *fair) tooLong(m *message) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.lineLocked(m.words[fieldSender]); l != nil {
		return f.refuseLocked(l, m, tooLong)
	}
	return leave
}

func (f *fair) refuseLocked(l *line, m *message, why string) verdict {
	switch {
	case m.b[flagsAt]&noReply != 0:
		return leave
	case l.free, len(l.refused) == 0 && l.refusals.take(1) == 0:
		return refuse
	case len(l.refused) < maxRefusals && (!l.unknown || len(l.refused) < 64):
		l.refused = append(l.refused, call{m: m.header(), why: why})
		f.addLocked(l, 0)
	}
	return leave
}

// lineLocked is the line of a sender; nil where too many are unknown.
func (f *fair) lineLocked(sender string) *line {
	if l := f.senders[sender]; l != nil {
		return l
	}
	if f.unknown.n >= maxUnknown {
		return nil
	}
	for other, l := range f.senders {
		if len(f.senders) < maxSenders {
			break
		}
		if !l.unknown {
			delete(f.senders, other) // any one: it is re-queried
		}
	}
	l := newLine()
	l.unknown = true
	f.unknown.n++
	f.senders[sender] = l
	go func() {
		uid, err := f.user(sender)
		f.known(sender, uid, err)
	}()
	return l
}

// known moves the calls of a sender to the line of its user. Without a user there is
// no receiver of a reply either: its calls are dropped.
func (f *fair) known(sender string, uid uint32, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := f.senders[sender]
	f.unknown.n--
	parked, refused := from.parked, from.refused
	f.removeLocked(from, len(from.parked), from.bytes)
	from.parked, from.refused = nil, nil
	if err != nil {
		delete(f.senders, sender)
		return
	}
	l := f.users[uid]
	if l == nil {
		for other, l := range f.users {
			if len(f.users) < maxSenders {
				break
			}
			if len(l.parked) == 0 && len(l.refused) == 0 && l.running == 0 {
				delete(f.users, other)
			}
		}
		l = newLine()
		l.free = uid == 0 || int64(uid) == int64(os.Getuid())
		f.users[uid] = l
	}
	f.senders[sender] = l
	l.refused = append(l.refused, refused...)
	for _, c := range parked {
		if l.full(len(c.b)) {
			if c.m.b[flagsAt]&noReply == 0 {
				l.refused = append(l.refused, call{m: c.m, why: tooMany})
			}
			continue
		}
		l.parked = append(l.parked, c)
		l.bytes += len(c.b)
	}
	f.addLocked(l, 0)
}

// full reports whether a call of a size may not wait any more.
func (l *line) full(size int) bool {
	return !l.free && (len(l.parked) >= maxParked || l.bytes+size > maxWaiting)
}

// addLocked takes note that more waits in a line.
func (f *fair) addLocked(l *line, bytes int) {
	l.bytes += bytes
	if l.unknown && bytes > 0 {
		f.unknown.parked++
		f.unknown.bytes += bytes
	}
	if !slices.Contains(f.busy, l) {
		f.busy = append(f.busy, l)
	}
	f.stir()
}

// removeLocked takes note that n calls no longer wait in a line.
func (f *fair) removeLocked(l *line, n, bytes int) {
	l.bytes -= bytes
	if l.unknown {
		f.unknown.parked -= n
		f.unknown.bytes -= bytes
	}
}

// dueLocked reports how long it lasts until a line may have a call of a size in the
// library; forever where another one has to end first.
func (f *fair) dueLocked(l *line, size int) (wait time.Duration) {
	switch {
	case l.free:
		return 0
	case l.running >= maxRunning, l.unknown && l.running > 0:
		return forever
	}
	if len(l.young) == maxYoung {
		if wait = time.Until(l.young[0].until); wait > 0 {
			return wait
		}
	}
	return l.calls.take(1 + float64(size/tokenSize))
}

const forever = time.Duration(math.MaxInt64)

// enterLocked makes b what the library gets.
func (f *fair) enterLocked(l *line, m *message, b []byte) {
	for taken := true; taken; _, taken = f.flight[f.last] {
		if f.last++; f.last == 0 {
			f.last++
		}
	}
	f.flight[f.last] = flight{of: l, serial: m.serial(), silent: b[flagsAt]&noReply != 0}
	b[flagsAt] &^= noReply
	m.order.PutUint32(b[serialAt:], f.last)
	l.running++
	if len(l.young) == maxYoung {
		l.young = l.young[1:]
	}
	l.young = append(l.young, young{f.last, time.Now().Add(youth)})
}

// next returns the next call that is due, or how long none is. A call for the library
// is ready for it.
func (f *fair) next() (c call, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait = forever
	for range len(f.busy) {
		l := f.busy[0]
		f.busy = f.busy[1:]
		c, later := f.firstLocked(l)
		if len(l.parked)+len(l.refused) > 0 { // else its user became known, or this was the last
			f.busy = append(f.busy, l)
		}
		if c.m != nil {
			return c, 0
		}
		wait = min(wait, later)
	}
	return call{}, wait
}

// firstLocked takes the first call or refusal of a line that is due.
func (f *fair) firstLocked(l *line) (c call, wait time.Duration) {
	wait = forever
	if len(l.parked) > 0 {
		c = l.parked[0]
		if wait = f.dueLocked(l, len(c.b)); wait == 0 {
			l.parked[0] = call{}
			l.parked = l.parked[1:]
			f.removeLocked(l, 1, len(c.b))
			f.enterLocked(l, c.m, c.b)
			return c, 0
		}
	}
	if len(l.refused) > 0 {
		later := l.refusals.take(1)
		if later == 0 {
			c = l.refused[0]
			l.refused[0] = call{}
			l.refused = l.refused[1:]
			return c, 0
		}
		wait = min(wait, later)
	}
	return call{}, wait
}

// replied takes note of the reply of the library's to a call: what serial its caller
// gave it, and whether it wants the reply.
func (f *fair) replied(serial uint32) (callers uint32, wanted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.flight[serial]
	if !ok {
		return serial, true
	}
	delete(f.flight, serial)
	c.of.running--
	c.of.young = slices.DeleteFunc(c.of.young, func(y young) bool { return y.serial == serial })
	f.stir()
	return c.serial, !c.silent
}

// stir has the queues served.
func (f *fair) stir() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
