// Package conditions tests that refreshes wait for what policy requires of the
// machine, report that, and go on by themselves: with the real agent and command line, on
// a bus with python-dbusmock's UPower, NetworkManager and logind.
package conditions
