// Package conditions watches the state of the machine that policy can require
// for automatic actions: whether it runs on battery, whether its network is
// metered, and whether a user works at it.
//
// Words: the *power* is UPower's OnBattery, which covers the machine and no
// mouse or headset; the *network* is NetworkManager's Metered. A
// *session* is one of logind's of class user: a login screen is none. It is *in use*
// while it is in the foreground, not locked, not about to end, and either not idle
// or its user does not want to be disturbed, as in a presentation. The machine is
// *idle* when no session is in use.
//
// A missing state is *unknown* and counts as fulfilled: a server without
// UPower and NetworkManager would never be updated otherwise. It is unknown
// while the service is
// absent, and for as long as it has not answered.
//
// Users' helpers add state of their own sessions that logind does not get,
// such as do-not-disturb. A helper can report only the sessions of its own
// user, and if there is a logind only those that it lists. The worst effect of
// a false report is to postpone refreshes until their deadline, as running the
// application does, and the user is named.
//
// The time zone of the machine, which the windows of the policy are in, is watched apart from
// these states (WatchZone).
//
// Concurrency: one goroutine owns the connection; questions are asked beside
// it, so that a service that hangs holds up nothing but itself. Every method
// may be called from any goroutine; only Fresh may block, for as long as a
// question may take. The function given to Watch is called from several
// goroutines and must not block.
package conditions
