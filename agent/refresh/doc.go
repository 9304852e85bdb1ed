// Package refresh replaces the current revision of an instance by another one,
// so that no process of it notices the change.
//
// # Words
//
// The words of package plan: refresh, kind, step, critical section, parked. Each step has a
// Do and an Undo, each safe to repeat after a crash.
//
// # Parts
//
// plan is pure: its Next takes the record and an event, and returns the changed record and
// the next effect. task.go carries it out, with one goroutine for each refresh. Only this
// goroutine changes the record; it takes one event after the other from its queue.
// steps_before.go, steps_critical.go and steps_after.go have the steps and how they are
// undone; data.go has the directories of data. engine.go owns the set of tasks: one
// unfinished refresh for each instance, any number of instances in parallel.
//
// # Journal
//
// The record is written before each step that precedes the critical section, once when the
// section is entered, when the direction turns, and at the end. Inside the section only the
// link's rename is awaited, because launches wait there. So the record that a restarted
// agent finds may lag behind the actual state. The agent decides by the link: if it was not
// swapped, the agent undoes the section and returns to waiting; if it was, the agent goes on
// to the end.
package refresh
