// Package work does in the user's session what belongs there of a refresh: it
// copies the user's data ahead and brings it over, and stops and starts the
// user's services. The agent orders it, phase by phase, and does not wait, but
// for services to end.
//
// Words: an order is one phase for one instance; a job is an action that an order
// needs. Jobs on services are one lane of an instance, jobs on data another; a
// lane does one after the other.
//
// machine.go is pure: what follows from orders and from the ends of jobs. The
// Worker does it. The folder of a revision's data appears in the phases finish and
// session alone, under the lock of the data, and only if that revision is current
// at that moment: a refresh that comes to nothing leaves a partial folder at the
// most, from which any later copy takes only what is still true.
//
// Concurrency: Run is the one goroutine that owns the machines; each job runs in a
// goroutine that Run waits for. Orders come through a mailbox.
package work
