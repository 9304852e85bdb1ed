package main

import (
	"testing"

	bus "github.com/lull/lull/dbus"
)

// TestWhoWithoutNumbers: a process without a number here is not called PID 0, nor root's.
func TestWhoWithoutNumbers(t *testing.T) {
	got := who([]bus.Process{{PID: 12, UID: 64999, Command: "notes"}, {UID: 1<<32 - 1, Command: "unseen"}, {UID: 64999, Command: "unread cgroups"}, {UID: 64998}})
	want := "PID 12 (notes), user number 64999; a process of another PID namespace, user number 64998; perhaps a process in groups that cannot be read, user number 64999; something that cannot be seen from here"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
