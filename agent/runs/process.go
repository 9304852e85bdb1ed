package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// StillThere leaves out the processes that have ended since they were found: the kernel
// only reports the end of the last one of a run. One with PID 0, in a PID namespace that is
// not visible, stays.
func StillThere(procs []Process) (list []Process) {
	for _, p := range procs {
		if p.PID == 0 || lives(p) {
			list = append(list, p)
		}
	}
	return list
}

// lives reports whether a process exists and, judged by its user, is still the same one. An
// unreadable one counts as existing.
func lives(p Process) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false
	}
	text := string(b)
	return err != nil || strings.Contains(text, fmt.Sprintf("\nUid:\t%d\t", p.UID)) && !strings.Contains(text, "\nState:\tZ")
}
