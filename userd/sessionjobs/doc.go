// Package sessionjobs does in the user's session what belongs there of a refresh: it
// copies the user's data ahead and brings it over, and stops and starts the
// user's services. The agent orders it, phase by phase, and does not wait, but
// for services to end.
//
// Words: an order is one phase for one instance; a job is an action that an order
// needs. Jobs on services are one lane of an instance, jobs on data another; a
// lane does one after the other.
//
// machine.go is pure: it has the consequences of orders and of the ends of
// jobs. The Worker carries them out. The directory of a revision's data
// appears in the phases finish and session alone, under the lock of the data,
// and only if that revision is current at that moment: a failed refresh leaves
// at most a partial directory, from which a later copy takes only the entries
// that are still valid.
//
// Concurrency: Run is the one goroutine that owns the machines; each job runs in a
// goroutine that Run waits for. Orders come through a mailbox.
package sessionjobs
