// Package week is a week's life of five applications and two users, with refreshes,
// reverts, agents that die and a machine that is reinstalled: no process of an old
// revision is alive at a swap, and not one byte of data is lost or old.
package week
