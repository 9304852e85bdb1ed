//go:build !faultpoint

// Package faultpoint marks the places between two durable operations where a
// test lets the process die or an operation fail. Without the build tag
// "faultpoint" a point costs nothing.
//
// With the tag, LULL_FAULT="NAME:ACTION[,NAME:ACTION…]" arms points; ACTION is
// kill (SIGKILL to itself), error (a generic error), enospc, or stop (SIGSTOP
// to itself, so that a test can look around). A name may end in "#N": the
// N-th passage, counted from 1. LULL_FAULT_LIST=FILE appends the name of each
// point passed to FILE.
package faultpoint

// Hit passes the point of that name.
func Hit(string) error { return nil }
