// Package rig sets up the real parts around lull in a scratch directory: message
// buses, a logind and a journal of their own, a display with a notification
// server, and the agent, the helper and the command line on them. The tests on
// whole machines and the demonstration use the same rig.
//
// Words:
//
//   - a World is one such scratch machine; all its files are below its directory,
//     and all its processes are Procs
//   - a Scene is a World with a repository and an agent that does nothing by itself
//   - a Proc is a process in a process group of its own; it dies with the rig
//   - an Actor is a user as whom something runs in the world
//   - a Container is one with systemd as process 1, a VM a whole machine that
//     QEMU emulates, with a power supply that can be cut
//   - a TB is what a rig needs of a test: *testing.T is one, Run makes another
//
// Nothing outside the scratch directory changes: logind and journald run in a
// mount namespace with a /run of its own, and so does all of lull, so that its
// journal entries arrive there. A peer is ready when it reports that (a
// descriptor, sd_notify, a bus name), and a condition that a test waits for is
// re-checked after each event (Until), never after a sleep.
//
// A World belongs to the goroutine that made it, but for Proc, whose methods
// may be called from everywhere.
package rig
