// Package container runs the tests that need systemd as PID 1 inside of
// containers where it is: test binaries of other packages, built here.
package container
