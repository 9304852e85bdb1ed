// Package tempdir makes temporary directories for one process. A process that is killed
// cannot delete its own; the next one that makes a directory with the same prefix does.
//
// Words: a directory is in use while its maker, or a program that has inherited the open
// directory, has a lock on it (flock(2)). The kernel releases the lock of a killed process.
//
// A Dir belongs to one goroutine. All functions block on the disk.
package tempdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a temporary directory.
type Dir struct {
	path string
	lock *os.File
}

// Path returns its path.
func (d *Dir) Path() string { return d.path }

// Remove deletes it with its content.
func (d *Dir) Remove() error { return errors.Join(os.RemoveAll(d.path), d.lock.Close()) }

// attempts bounds how often another process may delete a new directory before its lock is set.
const attempts = 100

// Make makes a directory in the directory for temporary files, and deletes those of the same
// user with that prefix that are not in use.
func Make(prefix string) (*Dir, error) {
	sweep(prefix)
	for range attempts {
		path, err := os.MkdirTemp("", prefix)
		if err != nil {
			return nil, err
		}
		f, err := locked(path, unix.LOCK_SH)
		if err == nil {
			return &Dir{path, f}, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, os.Remove(path))
		}
	}
	return nil, errors.New("other processes delete it")
}

// locked opens a directory and locks it, if that is possible at once. The error is
// os.ErrNotExist if the path leads to another file, or to none.
func locked(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err == nil {
		var mine, there os.FileInfo
		if mine, err = f.Stat(); err == nil {
			there, err = os.Lstat(path)
		}
		if err == nil && !os.SameFile(mine, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep deletes the directories of killed processes. An error leaves one to the next call.
func sweep(prefix string) {
	list, _ := os.ReadDir(os.TempDir())
	for _, e := range list {
		path := filepath.Join(os.TempDir(), e.Name())
		var st unix.Stat_t
		if !strings.HasPrefix(e.Name(), prefix) || unix.Lstat(path, &st) != nil || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
			continue
		}
		f, err := locked(path, unix.LOCK_EX)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(path)
		f.Close()
	}
}
