// Package powercut cuts the power of whole machines in the middle of installs,
// refreshes, reverts, removals and collections, and checks the result after a
// boot: every package and all data are whole and consistent, reported work is
// done, nothing is left behind, and work goes on. One machine
// updates its system (TestSystemPowerCuts): it is wholly in the one before or
// wholly in the next one.
//
// Words: a cut is one loss of power; unflushed writes are lost then, in part
// or as a whole (see e2e/rig/disk). A cut falls at a random moment, at a write
// or flush of the disk, or at a fault point of the agent, which stops there.
// Lost is what breaks a promise about packages or data; unclean is what should
// not have been left behind. A lane is a sequence of operations on one
// package; lanes run beside each other.
package powercut
