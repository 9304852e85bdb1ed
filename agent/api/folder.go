package api

import (
	"fmt"
	"os"

	"github.com/lull/lull/agent/mounts"
)

// asSeenBy re-opens the directory of a package as a client sees it, if that
// client sees the machine's mounts: a directory of our copy of them has no
// path there,
// for getcwd(3) as an example. A client with mounts of its own, which it may have
// made itself, gets ours.
func (s *Service) asSeenBy(pid int, dir *os.File) *os.File {
	if !s.m.Boxed {
		return dir
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if machine, merr := os.Readlink(mounts.MachineMounts); err != nil || merr != nil || theirs != machine {
		return dir
	}
	again, err := os.Open("/proc/1/root" + dir.Name())
	if err != nil {
		return dir
	}
	a, aerr := again.Stat()
	b, berr := dir.Stat()
	if aerr != nil || berr != nil || !os.SameFile(a, b) {
		again.Close()
		return dir
	}
	dir.Close()
	return again
}
