// Package logind handles shutdowns through logind: it takes inhibitor locks,
// returns how long a delay may last, and notifies when the machine begins to
// shut down. See https://systemd.io/INHIBITOR_LOCKS/.
//
// Words: a *lock* is an inhibitor lock, a descriptor whose closing, also by the
// death of the process, ends it. Its *mode* is "delay" (logind waits at most
// MaxDelay), "block" (logind refuses to shut down) or "block-weak" (the same,
// but a caller that may overrule it is not asked to; not every logind supports it).
//
// Logind may be absent, come later, be restarted, or hang: Take then returns a
// problem of kind Unavailable and the caller goes on without a lock. Locks that
// are held when logind comes back are re-taken, and the old descriptor is
// closed after that, so that there is no moment without one.
//
// Concurrency: one goroutine owns the bus connection and makes all calls on it;
// every method may be called from any goroutine. Take blocks until logind has
// answered, or the call has timed out, and so have those waiting before it; Lock.Close,
// Available and MaxDelay never block.
package logind
