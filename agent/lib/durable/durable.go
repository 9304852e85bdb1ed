// Package durable writes files that must survive a loss of power. After a call that
// returns without an error the data is on stable storage, and a reader (or a machine
// that has lost power) sees either the old or the new state, never a mixture.
//
// Words: to replace is to write a temporary file beside the target, flush it,
// rename it over the target and flush the directory. To move is to rename without
// flushing: for the many files of a batch, which SyncFS flushes together.
//
// Between every two operations lies a fault point, named "durable.<op>.<next>"
// after the operation that has not happened yet. All functions are safe for
// concurrent use; all may block on the disk. Temporary files are named
// TempPrefix, the target's name and random digits; one that a crash has left
// may be deleted by the owner of the directory.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/faultpoint"
)

// TempPrefix begins the name of every temporary file.
const TempPrefix = ".tmp-"

// IsTemp reports whether a file of that base name is a leftover of this package.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// temp names a new file, in the directory of path.
func temp(path string) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%s-%016x", TempPrefix, filepath.Base(path), rand.Uint64()))
}

// WriteFile replaces path by a file that holds data. Its mode is perm exactly,
// regardless of the umask.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	tmp := temp(path)
	if err := writeTemp(tmp, data, perm); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(tmp)))
	}
	if err := replace("write", tmp, path); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(tmp)))
	}
	return nil
}

func writeTemp(tmp string, data []byte, perm fs.FileMode) error {
	if err := faultpoint.Hit("durable.write.create"); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable.write.sync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// replace renames tmp over path and flushes the directory.
func replace(op, tmp, path string) error {
	if err := faultpoint.Hit("durable." + op + ".rename"); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable." + op + ".syncdir"); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Symlink replaces path, which may exist as a file or symlink, by a symlink to
// target.
func Symlink(target, path string) error {
	tmp := temp(path)
	if err := faultpoint.Hit("durable.symlink.create"); err != nil {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := replace("symlink", tmp, path); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(tmp)))
	}
	return nil
}

// Rename renames and flushes both directories.
func Rename(old, new string) error {
	if err := replace("rename", old, new); err != nil {
		return err
	}
	if filepath.Dir(old) == filepath.Dir(new) {
		return nil
	}
	if err := faultpoint.Hit("durable.rename.syncolddir"); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(old))
}

// Move renames without flushing. Its effect is durable after the next SyncFS,
// or SyncDir of both directories; before that a power cut may undo it.
func Move(old, new string) error {
	if err := faultpoint.Hit("durable.move.rename"); err != nil {
		return err
	}
	return os.Rename(old, new)
}

// MoveNewAt is Move with paths below two open directories; an existing target is
// left alone and reported as fs.ErrExist.
func MoveNewAt(oldDir int, old string, newDir int, new string) error {
	if err := faultpoint.Hit("durable.move.rename"); err != nil {
		return err
	}
	err := unix.Renameat2(oldDir, old, newDir, new, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		// A file system without that flag: a link has the same promise.
		if err = unix.Linkat(oldDir, old, newDir, new, 0); err == nil {
			err = unix.Unlinkat(oldDir, old, 0)
		}
	}
	return pathError("rename", old, err)
}

// Exchange swaps two paths in one step, without flushing.
func Exchange(a, b string) error {
	if err := faultpoint.Hit("durable.exchange.rename"); err != nil {
		return err
	}
	return pathError("exchange", a, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
}

// Remove deletes a file, symlink or empty directory and flushes its directory.
// A missing one is reported as fs.ErrNotExist.
func Remove(path string) error {
	if err := faultpoint.Hit("durable.remove.unlink"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable.remove.syncdir"); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Tidy deletes the temporary files that a crash has left in a directory. No
// process may be writing there. A missing directory is not an error.
func Tidy(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		if IsTemp(e.Name()) && !e.IsDir() {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// RemoveAll deletes path with its content and flushes its directory. A crash
// may leave a part of it. A missing path is not an error.
func RemoveAll(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := faultpoint.Hit("durable.removeall.unlink"); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable.removeall.syncdir"); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes path and its missing parents, each with mode perm exactly,
// and flushes the parent of every one that it made.
func MkdirAll(path string, perm fs.FileMode) error {
	if fi, err := os.Stat(path); err == nil {
		if !fi.IsDir() {
			return pathError("mkdir", path, unix.ENOTDIR)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := faultpoint.Hit("durable.mkdir.create"); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // made by another process in between
		}
		return err
	}
	if err := os.Chmod(path, perm); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable.mkdir.syncdir"); err != nil {
		return err
	}
	return SyncDir(parent)
}

// SyncDir flushes the names in a directory.
func SyncDir(dir string) error {
	if err := faultpoint.Hit("durable.syncdir"); err != nil {
		return err
	}
	return withDir(dir, func(f *os.File) error { return f.Sync() })
}

// SyncFile flushes the content of a file, not its name.
func SyncFile(path string) error {
	if err := faultpoint.Hit("durable.syncfile"); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// SyncFS flushes the whole file system on which dir lies: data and names.
func SyncFS(dir string) error {
	if err := faultpoint.Hit("durable.syncfs"); err != nil {
		return err
	}
	return withDir(dir, func(f *os.File) error { return pathError("syncfs", dir, unix.Syncfs(int(f.Fd()))) })
}

func withDir(dir string, do func(*os.File) error) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
