package logind

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
)

const (
	name    = "org.freedesktop.login1"
	path    = dbus.ObjectPath("/org/freedesktop/login1")
	manager = "org.freedesktop.login1.Manager"
	busName = "org.freedesktop.DBus"

	nameOwnerChanged = busName + ".NameOwnerChanged"
	prepareSignal    = manager + ".PrepareForShutdown"
)

// login1 of go-systemd is not used: it dials the system bus by itself, so that
// a private one cannot be given, ignores the errors of its match rules, and
// matches signals of any sender.

func dial(ctx context.Context, address string) (*dbus.Conn, error) {
	return dialer.Open(address, true, dialer.Replies, dbus.WithContext(ctx),
		dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
}

// run keeps a connection until the context ends. It calls ready after the
// first attempt, whether it succeeded or not.
func (l *Logind) run(ctx context.Context, ready func()) {
	defer close(l.done)
	defer ready()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		conn, err := dial(ctx, l.address)
		if err == nil {
			p := &peer{Logind: l, conn: conn}
			err = p.serve(ctx, ready)
			conn.Close()
			p.late.Wait()
			if p.served {
				pause = firstRetry
			}
		}
		l.set(false, 0)
		ready()
		if ctx.Err() != nil {
			return
		}
		l.log.Debug("no bus to find logind on", "error", err, "retry", pause)
		if !l.idle(ctx, pause, err) {
			return
		}
	}
}

// idle waits, and refuses all requests for a lock meanwhile.
func (l *Logind) idle(ctx context.Context, pause time.Duration, err error) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case t := <-l.takes:
			t.reply <- unavailable(err)
		}
	}
}

// peer is logind as seen over one connection. All but late belongs to the
// goroutine of serve.
type peer struct {
	*Logind
	conn    *dbus.Conn
	owner   string // unique name of logind; empty if absent
	noWeak  bool   // this logind does not support block-weak
	served  bool
	signals chan *dbus.Signal

	late sync.WaitGroup // answers that came too late and are still waited for
}

var errLost = errors.New("the connection to the bus is lost")

func (p *peer) serve(ctx context.Context, ready func()) error {
	p.signals = make(chan *dbus.Signal, 16)
	p.conn.Signal(p.signals)
	if err := p.match(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		return err
	}
	owner, err := p.ownerOf(ctx, name)
	if err != nil {
		return err
	}
	p.served = true
	p.adopt(ctx, owner)
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-p.signals:
			if !ok {
				return errLost
			}
			p.heard(ctx, s)
		case t := <-p.takes:
			t.reply <- p.take(ctx, t)
		}
	}
}

// heard handles a signal, if it is from the right sender.
func (p *peer) heard(ctx context.Context, s *dbus.Signal) {
	switch {
	case s.Name == nameOwnerChanged && s.Sender == busName:
		var who, was, is string
		if dbus.Store(s.Body, &who, &was, &is) == nil && who == name && is != p.owner {
			p.adopt(ctx, is)
		}
	case s.Name == prepareSignal && s.Sender == p.owner && s.Path == path:
		var down bool
		if dbus.Store(s.Body, &down) == nil {
			p.announce(down)
		}
	}
}

// adopt makes owner the logind that is believed, and takes all locks of it.
func (p *peer) adopt(ctx context.Context, owner string) {
	if p.owner != "" {
		p.unmatch(ctx, prepareMatch(p.owner)...)
	}
	p.owner, p.noWeak = owner, false
	if owner == "" {
		p.set(false, 0)
		return
	}
	// Matched before read: a change in between is heard, and heard later.
	if err := p.match(ctx, prepareMatch(owner)...); err != nil {
		p.log.Warn("cannot listen to logind: a shutdown will not be noticed", "error", err)
	}
	var usec uint64
	if err := p.property(ctx, "InhibitDelayMaxUSec", &usec); err != nil {
		p.log.Warn("cannot ask logind how long a shutdown can be delayed", "error", err)
	}
	p.set(true, time.Duration(min(usec, math.MaxInt64/1000))*time.Microsecond)
	// No PropertiesChanged comes for this one.
	var down bool
	if err := p.property(ctx, "PreparingForShutdown", &down); err != nil {
		p.log.Warn("cannot ask logind whether the machine is going down", "error", err)
	} else {
		p.announce(down)
	}
	p.retake(ctx)
	select {
	case p.appeared <- struct{}{}:
	default: // the last time has not been heard of yet
	}
}

func (p *peer) retake(ctx context.Context) {
	p.mu.Lock()
	var locks []*Lock
	for k := range p.locks {
		locks = append(locks, k)
	}
	p.mu.Unlock()
	for _, k := range locks {
		if err := p.obtain(ctx, k, k.Mode() != Delay); err != nil {
			p.log.Warn("cannot renew a lock after logind has come back", "what", k.what, "why", k.why, "error", err)
		}
	}
}

func (p *peer) take(ctx context.Context, t take) error {
	if p.owner == "" {
		return unavailable(errors.New("no process owns " + name))
	}
	if err := p.obtain(ctx, t.lock, t.block); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.locks[t.lock] = struct{}{}
	return nil
}

// obtain asks logind for a lock, in the mildest mode that it supports.
func (p *peer) obtain(ctx context.Context, k *Lock, block bool) error {
	mode := Delay
	if block {
		mode = BlockWeak
		if p.noWeak {
			mode = Block
		}
	}
	fd, err := p.inhibit(ctx, k, mode)
	if mode == BlockWeak && isNamed(err, "org.freedesktop.DBus.Error.InvalidArgs") {
		p.noWeak = true // systemd before 257
		mode = Block
		fd, err = p.inhibit(ctx, k, mode)
	}
	switch {
	case err == nil:
	case isNamed(err, "org.freedesktop.DBus.Error.AccessDenied"),
		isNamed(err, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"):
		return errkind.New(errkind.NotPermitted, "cannot hold off a shutdown: %w", err)
	case isNamed(err, "org.freedesktop.login1.OperationInProgress"):
		return errkind.New(errkind.Interrupted, "cannot hold off a shutdown that has begun: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, dbus.ErrClosed),
		isNamed(err, "org.freedesktop.DBus.Error.ServiceUnknown"), isNamed(err, "org.freedesktop.DBus.Error.NoReply"),
		isNamed(err, "org.freedesktop.DBus.Error.NameHasNoOwner"):
		return unavailable(err)
	default:
		return errkind.New(errkind.Failed, "cannot hold off a shutdown: %w", err)
	}
	k.granted(os.NewFile(uintptr(fd), "inhibitor lock"), mode)
	return nil
}

// inhibit does not use a context: godbus drops a late answer, and the
// descriptor in it would be a lock without an owner.
func (p *peer) inhibit(ctx context.Context, k *Lock, mode string) (dbus.UnixFD, error) {
	done := make(chan *dbus.Call, 1)
	p.conn.Object(p.owner, path).Go(manager+".Inhibit", dbus.FlagNoAutoStart, done, k.what, k.who, k.why, mode)
	timeout := time.NewTimer(p.timeout)
	defer timeout.Stop()
	var err error
	select {
	case c := <-done:
		var fd dbus.UnixFD
		err := c.Store(&fd)
		return fd, err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = context.DeadlineExceeded
	}
	p.late.Go(func() { // ends with the connection at the latest
		var fd dbus.UnixFD
		if c := <-done; c.Store(&fd) == nil {
			unix.Close(int(fd))
		}
	})
	return -1, err
}

func (p *peer) property(ctx context.Context, property string, into any) error {
	var v dbus.Variant
	if err := p.call(ctx, p.conn.Object(p.owner, path), "org.freedesktop.DBus.Properties.Get", manager, property).Store(&v); err != nil {
		return err
	}
	return v.Store(into)
}

func (p *peer) call(ctx context.Context, o dbus.BusObject, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
}

func (p *peer) ownerOf(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return dialer.OwnerOf(ctx, p.conn, name)
}

func (p *peer) match(ctx context.Context, options ...dbus.MatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.conn.AddMatchSignalContext(ctx, options...)
}

func (p *peer) unmatch(ctx context.Context, options ...dbus.MatchOption) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := p.conn.RemoveMatchSignalContext(ctx, options...); err != nil {
		p.log.Debug("cannot give up a match rule", "error", err)
	}
}

func prepareMatch(owner string) []dbus.MatchOption {
	return []dbus.MatchOption{dbus.WithMatchSender(owner), dbus.WithMatchObjectPath(path),
		dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForShutdown")}
}

func isNamed(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
