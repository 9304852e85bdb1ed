// Package userd is lull-userd, the per-user helper: it tells the person at the
// screen about refreshes that wait for an application to be closed, takes the
// answer, and starts the application again when that was the wish; and it does
// the part of a refresh that is the user's: his data and his services. It has the
// privileges of its user and no others.
//
// Its parts are edges around a pure core (package notify): relay is the agent
// on its bus, desktop the notification server on the session bus, session is
// logind, fullscreen the X server, again ends and starts applications, texts has
// the languages, memory.go keeps on a volatile file system what must outlive the
// process. Beside it, work takes the agent's orders, with data and services as its
// hands.
//
// Concurrency: each edge has one goroutine that owns its connection. They give
// events to the loop, waiting for it; the loop, which owns the core, never
// waits for them: it puts commands into their mailboxes. Run waits for all.
package userd
