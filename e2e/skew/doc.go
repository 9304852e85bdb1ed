// Package skew has programs of two versions of lull together, as during an upgrade: an old
// agent with a new launcher, command and helper, the reverse, and agents that take a store over
// from each other. `make skew` builds an earlier version and runs it.
package skew
