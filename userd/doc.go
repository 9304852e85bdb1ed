// Package userd is lull-userd, the per-user helper. It notifies the user of
// refreshes that wait for an application to exit, takes the answer, and
// restarts the application if the user has asked for that. It also does the
// user's part of a refresh: the user's data and services. It has the rights of
// its user and no others.
//
// It serves two agents: the system's, and the user's own (lulld --user) on the session bus.
// Each has a side: a connection, a core and jobs in its directories. The edges of the desktop
// and of the session are shared, and give each event to the side that it concerns.
//
// Its parts are edges around a pure core (package notify): relay is the agent
// on its bus, desktop the notification server on the session bus, session is
// logind, fullscreen and windows the X server, restart ends and starts
// applications, texts has the languages, memory.go keeps on a volatile file
// system the state that must outlive the
// process. Beside it, work takes the agent's orders, with data and services as its
// hands.
//
// Concurrency: each edge has one goroutine that owns its connection. They give
// events to the loop, waiting for it; the loop, which owns the core, never
// waits for them: it puts commands into their mailboxes. Run waits for all.
package userd
