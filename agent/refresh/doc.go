// Package refresh replaces the current revision of an instance by another one,
// so that no process of it sees the change.
//
// # Words
//
// A Refresh is one such transaction and its journal record; installing,
// reverting and removing are refreshes of another Kind with fewer steps. A Step
// has a Do and an Undo, each safe to run again after a crash. The critical
// section lasts from inhibit to uninhibit. A refresh that waits for the instance
// to be vacant is parked.
//
// # Parts
//
// machine.go is pure: Next takes the record and an event and says what the
// record becomes and what is to be done. task.go does it: one goroutine a
// refresh, which alone touches that record; it takes one event after the other
// from its mailbox. steps_*.go hold what the steps do to the world. engine.go
// owns the set of tasks: one unfinished refresh an instance, any number of
// instances beside each other.
//
// # Journal
//
// The record is written before a step before the critical section, once when the
// section is entered, when the direction turns, and at the end; inside the
// section only the link's rename is awaited, because there launches wait. What a
// restarted agent finds is therefore a record that may lag behind the world, and
// it decides by what the link says: not swapped, undo the section and wait
// again; swapped, go on to the end.
package refresh
