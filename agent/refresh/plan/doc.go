// Package plan decides what a refresh does next.
//
// It is pure: Next takes the record of a refresh and an event, and returns the changed
// record and the next effect. It reads no clock and no disk, and holds no state.
// Package refresh carries out the effects.
//
// # Words
//
// A Refresh is one transaction and its journal record; installing, reverting and removing
// are refreshes of another Kind with fewer steps. Its plan is the list of its steps. The
// critical section lasts from inhibit to uninhibit: launches wait. A refresh that waits for
// the instance to be vacant is parked.
package plan
