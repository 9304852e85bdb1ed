// Package again ends an application at its user's wish and starts it again
// after it was updated.
//
// To quit, a package that has a refresh-pending hook is left to that: it runs in
// the session, as a run of the instance, and asks in its own way. Else an
// application that offers the action "quit" of
// org.freedesktop.Application under its own name on the session bus is asked
// for that; every other gets SIGTERM in those of its processes that belong to
// this user and still are in a run of the instance. Nothing is ever killed: an
// application may ask whether to save, and stay.
//
// A process is held by a pidfd from before it is looked at until after it was
// signalled, so that the signal cannot hit a process that has got the number
// since. The pidfds are kept to see, before the application is started, that it
// has really ended.
//
// Concurrency: an Again may be used from any goroutine; Quit blocks for as long
// as the application's bus connection takes to answer, the others do not block.
package again
