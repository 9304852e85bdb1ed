// Package notify decides which notices about refreshes a user gets, when, and
// in which words. It is pure: Core.Step takes the time and an event and
// returns
// effects; nothing here reads a clock, a bus or a file.
//
// Words: a *notice* is what the notification server is asked to show about one
// instance. There is at most one for each instance; a new one replaces the old
// one in place, and a notice that is no longer true is withdrawn. It is *up*
// while it should be on the screen. *Due* is a notice that will be shown as
// soon as that is allowed. *Quiet* is a time in which nothing is shown: the
// screen is locked, a window fills it, or the server reports "do not disturb". A
// *reminder* is the same notice shown again, by the Schedule. A *launch* that
// has to wait has the one notice of its instance until it is over. *Memory* is
// the state that must outlive this process, so that no notice is repeated.
//
// The agent is asked what is pending right before anything is shown: signals
// only give the reason to ask.
//
// Concurrency: a Core belongs to one goroutine.
package notify
