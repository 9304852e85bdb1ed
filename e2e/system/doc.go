// Package system updates the system of a machine whose disk is too small for what
// it has, what it gets and what installs that together; kills the agent at every
// point of it; and plays the scenarios of RFC-0217 about the retained and the open
// index, with a real agent on a bus of its own.
package system
