package repositories

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// checkedFile is a file below the root. Its time is the last time that all repositories were
// read without error. With it, a machine that is never on for as long as schedule.check
// requires still checks. A missing file only delays a check, so it is neither flushed nor
// repaired.
const checkedFile = "checked"

// LoadLastCheck loads the record of an earlier agent.
func (r *Set) LoadLastCheck() error {
	fi, err := os.Lstat(filepath.Join(r.Root, checkedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastCheck = fi.ModTime()
	return nil
}

// readFile is a file of the state of a repository. Its time is the beginning of the last reading
// without error. A missing file is shown as a repository that was never read, so it is neither
// flushed nor repaired.
func (r *Set) readFile(name string) string { return filepath.Join(r.Root, "repos", name, "read") }

// stamp gives a file a time.
func (r *Set) stamp(path string, at time.Time) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err == nil {
		err = errors.Join(f.Close(), os.Chtimes(path, at, at))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the repository was removed meanwhile
		r.Log.Warn("cannot note when repositories were read", "error", err)
	}
}

// NoteCheck records the result of a check of all repositories, or of some: err has all
// errors, other those that are not about the reading of repositories.
func (r *Set) NoteCheck(all bool, err, other error) {
	r.mu.Lock()
	if all {
		r.lastError = ""
		if other != nil {
			r.lastError = strings.ReplaceAll(other.Error(), "\n", "; ")
		}
	}
	at := time.Now()
	if all && err == nil {
		r.lastCheck = at
	}
	r.mu.Unlock()
	if all && err == nil {
		r.stamp(filepath.Join(r.Root, checkedFile), at)
	}
	r.Changed()
}

// Unread reports whether the last read of a repository failed, for any reason, and how
// long to wait before a retry, as requested by the unreachable repositories. A repository
// that was read in the middle of a publication, or whose metadata had just expired, is
// usually valid some minutes later.
func (r *Set) Unread() (yes bool, wait time.Duration) {
	if yes, wait = r.Unreachable(); yes {
		return yes, wait
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, last := range r.reads {
		yes = yes || last.err != nil
	}
	return yes, 0
}

// Unreachable reports whether the last read of a repository could not reach it, and the
// shortest wait before a retry that such a repository requests.
func (r *Set) Unreachable() (yes bool, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, last := range r.reads {
		if !errkind.Is(last.err, errkind.Unavailable) {
			continue
		}
		if left := max(last.notBefore.Sub(now), 0); !yes || left < wait {
			wait = left
		}
		yes = true
	}
	return yes, wait
}

// Want remembers the instances that a user has requested while their repository could not
// be reached.
func (r *Set) Want(instances []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted == nil {
		r.wanted = map[string]time.Time{}
	}
	for _, n := range instances {
		r.wanted[n] = time.Now()
	}
}

// Unwant forgets instances after a successful read of their repository.
func (r *Set) Unwant(instances []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range instances {
		delete(r.wanted, n)
	}
}

// TakeWanted returns the wanted instances with the times of their requests, and clears
// the list.
func (r *Set) TakeWanted() map[string]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := r.wanted
	r.wanted = nil
	return wanted
}
