// Package powercut cuts the power of whole machines in the middle of installs,
// refreshes, reverts, removals and collections, and looks at what a boot makes
// of it: every package and all data are whole and belong together, whatever was
// reported as done is done, nothing is left behind, and work goes on.
//
// Words: a cut is one loss of power; what the disk had not been told to flush is
// lost then, in part or as a whole (see e2e/rig/disk). A cut falls at a random
// moment, at a write or flush of the disk, or at a fault point of the agent,
// which stops there. Lost is what breaks a promise about packages or data;
// unclean is what should not have been left behind. A lane is a sequence of
// operations on one package; lanes run beside each other.
package powercut
