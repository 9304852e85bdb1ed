package logind

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
)

const (
	// callTimeout bounds each call: logind answers within milliseconds.
	callTimeout = 10 * time.Second
	// firstRetry and lastRetry bound the pauses before a lost bus is
	// re-dialled. A connected bus needs none: it sends a signal when logind
	// appears.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Modes of a lock.
const (
	Delay     = "delay"
	Block     = "block"
	BlockWeak = "block-weak"
)

// Logind is the connection to logind, whether it is there or not.
type Logind struct {
	address  string
	log      *slog.Logger
	timeout  time.Duration // of each call
	takes    chan take
	shutdown chan bool
	appeared chan struct{}
	cancel   context.CancelFunc
	done     chan struct{}

	mu        sync.Mutex
	available bool
	maxDelay  time.Duration
	locks     map[*Lock]struct{} // held, re-taken when logind returns

	// Of the goroutine alone.
	announced bool // the last value sent to shutdown
}

// take is a wish for a lock on its way to the goroutine.
type take struct {
	lock  *Lock
	block bool
	reply chan error
}

// Option changes how Connect works.
type Option func(*Logind)

// WithLog makes l the place for what is worth knowing; the default is
// slog.Default().
func WithLog(l *slog.Logger) Option { return func(d *Logind) { d.log = l } }

// WithTimeout bounds each call by d instead of ten seconds.
func WithTimeout(d time.Duration) Option { return func(l *Logind) { l.timeout = d } }

// Connect starts to talk to logind on the bus at busAddress, or on the system
// bus where that is empty. It returns when it is known whether logind is there;
// that it is not, or that there is no bus, is no error. Close ends it.
func Connect(busAddress string, options ...Option) (*Logind, error) {
	if busAddress != "" && busAddress != "system" && !strings.Contains(busAddress, ":") {
		return nil, errkind.New(errkind.Invalid, "cannot use %q as the address of a bus: want something like unix:path=/run/dbus/system_bus_socket", busAddress)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Logind{
		address:  busAddress,
		log:      slog.Default(),
		timeout:  callTimeout,
		takes:    make(chan take),
		shutdown: make(chan bool, 1),
		appeared: make(chan struct{}, 1),
		cancel:   cancel,
		done:     make(chan struct{}),
		locks:    map[*Lock]struct{}{},
	}
	for _, o := range options {
		o(l)
	}
	ready := make(chan struct{})
	go l.run(ctx, sync.OnceFunc(func() { close(ready) }))
	<-ready
	return l, nil
}

// Close ends all locks and the connection.
func (l *Logind) Close() error {
	l.cancel()
	<-l.done
	l.mu.Lock()
	var locks []*Lock
	for k := range l.locks {
		locks = append(locks, k)
	}
	l.mu.Unlock()
	for _, k := range locks {
		k.Close()
	}
	return nil
}

// Available reports whether logind is on the bus.
func (l *Logind) Available() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.available
}

// MaxDelay is how long a delay lock can hold off a shutdown
// (InhibitDelayMaxUSec of logind.conf(5)); 0 while logind is absent.
func (l *Logind) MaxDelay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.maxDelay
}

// PrepareForShutdown receives true when a shutdown begins and false when one
// was cancelled. Only the latest value waits in the channel; a shutdown that
// was under way before Connect is sent, too. There is one channel: one reader.
func (l *Logind) PrepareForShutdown() <-chan bool { return l.shutdown }

// Appeared receives when logind appears on the bus, also repeatedly, after
// Connect: a caller without a lock may retry. There is one channel: one
// reader.
func (l *Logind) Appeared() <-chan struct{} { return l.appeared }

// Take holds off what ("shutdown:sleep") in the name of who and because of why,
// both shown to people. With block it asks for block-weak and falls back to
// block; without, for delay. It returns the mode that logind granted. Errors:
// Unavailable (no logind), Interrupted (the shutdown has begun), NotPermitted.
func (l *Logind) Take(what, who, why string, block bool) (*Lock, string, error) {
	t := take{lock: &Lock{logind: l, what: what, who: who, why: why}, block: block, reply: make(chan error, 1)}
	select {
	case l.takes <- t:
	case <-l.done:
		return nil, "", unavailable(errors.New("the connection is closed"))
	}
	if err := <-t.reply; err != nil {
		return nil, "", err
	}
	return t.lock, t.lock.Mode(), nil
}

// Lock is an inhibitor lock.
type Lock struct {
	logind         *Logind
	what, who, why string

	mu     sync.Mutex
	mode   string
	fd     io.Closer
	closed bool
}

// Mode is what logind granted last.
func (k *Lock) Mode() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mode
}

// Close ends the lock at once. It may be called repeatedly.
func (k *Lock) Close() error {
	k.logind.mu.Lock()
	delete(k.logind.locks, k)
	k.logind.mu.Unlock()
	k.mu.Lock()
	fd := k.fd
	k.fd, k.closed = nil, true
	k.mu.Unlock()
	if fd == nil {
		return nil
	}
	return fd.Close()
}

// granted puts a new descriptor in the place of the old one.
func (k *Lock) granted(fd io.Closer, mode string) {
	k.mu.Lock()
	old := fd
	if !k.closed {
		old, k.fd, k.mode = k.fd, fd, mode
	}
	k.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

func unavailable(err error) error {
	return errkind.New(errkind.Unavailable, "cannot hold off a shutdown: logind is not there: %w", err)
}

// announce passes on a change of the shutdown's state without ever blocking.
func (l *Logind) announce(down bool) {
	if down == l.announced {
		return
	}
	l.announced = down
	select {
	case <-l.shutdown: // not read in time, and no longer true
	default:
	}
	l.shutdown <- down // this goroutine alone sends: there is room
}

func (l *Logind) set(available bool, maxDelay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.available, l.maxDelay = available, maxDelay
}
