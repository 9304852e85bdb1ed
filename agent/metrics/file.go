package metrics

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// Replace replaces the content of the file at path by text. Its directory must exist. A
// reader sees the old or the new text as a whole. The file is not flushed: after a power cut
// the figures are outdated anyway, and the next agent rewrites them.
//
// The directory may be below one that belongs to a service (Debian's is below that of the
// user prometheus). So no symbolic link is followed on the way, and afterwards the directory
// is used by its descriptor.
func Replace(path string, text []byte) error {
	err := inFolder(path, func(dir int, name string) error {
		tmp := tempName(name)
		if err := unlink(dir, tmp); err != nil { // of an agent that crashed
			return err
		}
		err := create(dir, tmp, text)
		if err == nil {
			err = unix.Renameat(dir, tmp, dir, name)
		}
		if err != nil {
			return errors.Join(err, unlink(dir, tmp))
		}
		return nil
	})
	return failed("write", path, err)
}

// Remove removes the file. A missing file is not an error.
func Remove(path string) error {
	return failed("remove", path, inFolder(path, func(dir int, name string) error { return unlink(dir, name) }))
}

func failed(what, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ELOOP):
		return errkind.New(errkind.Failed, "cannot %s the metrics in %s: a symbolic link is on the way to it: %w", what, path, err).
			WithHint("metrics.textfile in the policy names the file by the directories that it is really in")
	}
	return errkind.New(errkind.KindOf(err), "cannot %s the metrics in %s: %w", what, path, err).
		WithHint("metrics.textfile in the policy names the file; its directory must exist")
}

// tempName does not have the suffix that the collector expects. It is constant, so that a
// crash leaves at most one file.
func tempName(name string) string { return "." + name + ".new" }

func inFolder(path string, do func(dir int, name string) error) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	dir, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(path), &how)
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return do(dir, filepath.Base(path))
}

func create(dir int, name string, text []byte) error {
	const mode = 0o644 // for the user of the node exporter
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(text)
	return errors.Join(err, f.Chmod(mode), f.Close()) // independent of the umask
}

func unlink(dir int, name string) error {
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}
