// Package restart ends an application at its user's request and restarts it
// after its update.
//
// To quit, a package that has a quit hook is left to that: it runs in
// the session, as a run of the instance, and asks in its own way. Else an
// application that offers the action "quit" of
// org.freedesktop.Application under its own name on the session bus is asked
// for that. In a session of type x11 the windows of every other one are asked to
// close, as by their own button. Where there is no such way, its main process gets
// SIGTERM. An application is asked in one way only, and one that does not answer
// counts as asked: it may be asking whether to save, and may stay. Nothing is killed.
//
// Only processes of the package are asked: those that execute, map as code or
// interpret a file of it. A run holds more than these, such as a browser that the
// application has opened.
//
// A process is held by a pidfd from before it is checked until after it was
// signalled, so that the signal cannot hit a process that has got the number
// since. The pidfds are kept to see, before the application is started, that it
// has really ended.
//
// Concurrency: an Again may be used from any goroutine; Quit blocks for as long
// as the application's bus connection takes to answer, the others do not block.
package restart
