//go:build !faultpoint

// Package faultpoint marks the places between two durable operations where a
// test lets the process die or an operation fail. Without the build tag
// "faultpoint" a point costs nothing.
//
// With the tag, LULL_FAULT="NAME:ACTION[,NAME:ACTION…]" arms points; ACTION is
// kill (SIGKILL to itself), error (a generic error), enospc, or stop (SIGSTOP
// to itself, so that a test can look around), or gate: the named pipe
// LULL_FAULT_GATE is opened for writing, the name written, and then the pipe is
// opened for reading, so that a test can have other things happen before it lets
// the goroutine go on. A name may end in "#N": the N-th passage, counted from 1;
// in "#*": every passage. Between has a program do something at each passage. LULL_FAULT_LIST=FILE appends the name of each
// point passed to FILE.
package faultpoint

// Hit passes the point of that name.
func Hit(string) error { return nil }
