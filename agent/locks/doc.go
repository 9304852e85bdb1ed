// Package locks has no code of its own: its test reads the agent's source and fails
// where a lock is held over more than memory.
//
// A mutex in a field mu guards the fields after it and is held for as long as reading
// or writing them takes. A caller that held one while it writes to a disk or asks
// systemd would stop every other part of the agent for as long as that takes. Mutexes
// with other names (telling, reloading) order work on purpose; the test lists all of them, and
// the functions that may hold a mu for longer, each with the reason.
package locks
