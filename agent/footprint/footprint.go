// Package footprint keeps a process small that mostly waits.
//
// A burst of work leaves behind garbage, free memory that the Go runtime keeps
// for the next burst, and most of the program's own pages, mapped around those
// that ran. A Resting gives all of that back when nothing has been done for a
// while: once after each burst, so that an idle process does not wake up for it.
// What is given back of the program is its mapping; the pages are clean, stay in
// the page cache as long as the kernel has room, and come back by a minor fault.
//
// Touch may be called from any goroutine, often, and never blocks. The work is
// done in a goroutine of the timer's; Close waits for it.
package footprint

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Resting notices that a process rests.
type Resting struct {
	after time.Duration
	trim  func()

	mu     sync.Mutex // guards what follows; held while trim runs
	last   time.Time
	timer  *time.Timer // nil: nothing has been done since the last trim
	closed bool
}

// New has trim called when Touch was not for the time after.
func New(after time.Duration, trim func()) *Resting { return &Resting{after: after, trim: trim} }

// Touch says that something is done.
func (r *Resting) Touch() {
	if !r.mu.TryLock() {
		return // another Touch of this moment; or what is done now is trimmed with the next
	}
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.last = time.Now()
	if r.timer == nil {
		r.timer = time.AfterFunc(r.after, r.look)
	}
}

func (r *Resting) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch rest := r.after - time.Since(r.last); {
	case r.closed:
	case rest > 0:
		r.timer.Reset(rest)
	default:
		r.timer = nil
		r.trim()
	}
}

// Close ends it.
func (r *Resting) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// Trim gives back free memory and the pages of the program that can be read
// again from its file.
func Trim() error {
	debug.FreeOSMemory()
	err := dropProgram()
	if err != nil {
		return fmt.Errorf("cannot give memory back: %w", err)
	}
	return nil
}

// dropProgram unmaps what is only read of the program's file, as the kernel
// would when memory is short. What has been written is another kind of page and
// stays.
func dropProgram() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var errs []error
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		from, to, ok := readOnly(lines.Text(), self)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, os.NewSyscallError("madvise", errno))
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}

// readOnly reads a line of /proc/PID/maps (proc_pid_maps(5)): a private mapping of
// the file that cannot be written.
func readOnly(line, file string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[5] != file || f[1] != "r-xp" && f[1] != "r--p" {
		return 0, 0, false
	}
	_, err := fmt.Sscanf(f[0], "%x-%x", &from, &to)
	return from, to, err == nil && from < to
}
