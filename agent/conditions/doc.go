// Package conditions knows what policy can ask of the machine before anything
// happens by itself: whether it runs on battery, whether its network is metered,
// and whether somebody works at it.
//
// Words: the *power* is what UPower's OnBattery says, which is of the machine and
// not of a mouse or a headset; the *network* is what NetworkManager's Metered says. A
// *session* is one of logind's of class user: a login screen is none. It is *in use*
// while it is in the foreground, not locked, not about to end, and either not idle
// or its user does not want to be disturbed, as in a presentation. The machine is
// *idle* when no session is in use.
//
// What cannot be told is *unknown* and counts as fulfilled: a server without UPower
// and NetworkManager would never be updated else. It is unknown while the service is
// absent, and for as long as it has not answered.
//
// Users' helpers add to their own sessions what logind is not told, as that nobody wants to
// be disturbed. A user can speak of his own sessions alone, and
// where there is a logind only of those that it knows. The worst that a lie does is
// to put refreshes off until their deadline, as running the application does, and
// whoever is in the way is named.
//
// Concurrency: one goroutine owns the connection; questions are asked beside it, so
// that a service that hangs holds up nothing but itself. Every method may be called
// from any goroutine; only Fresh may block, for as long as a question may take. The function given to Watch is called from
// several goroutines and must not block.
package conditions
