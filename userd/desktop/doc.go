// Package desktop is the helper's side of the session bus: the client of the
// notification server, and the interface org.lull.Session1, which has the
// shown notices.
//
// Words: what is *wanted* is one notice for each instance, as package notify
// has decided; what is *posted* is what the server was given and under which
// id. Both are reconciled by one call at a time, so that a hung server has at
// most one call of ours to answer, a late answer still has the id, and a new
// server gets all wanted notices. A posting that the server has closed by
// itself is kept as long as its notice may be true: some
// servers offer its buttons in a history.
//
// No signal is believed but from the connection that owns
// org.freedesktop.Notifications, of the right types, about ids that are ours.
// The listener of esiqveland/notify, which does none of this, is not used; its
// types and its sending are.
//
// Concurrency: Run is the one goroutine that owns the connection; calls are
// made by goroutines that it starts and waits for. Commands come through a
// mailbox; events are given to a function that may block.
package desktop
