package local

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// maxDropped bounds the files of a watched directory.
const maxDropped = 1000

// unfinished are endings of names under which programs store a file that is not complete.
var unfinished = []string{".part", ".partial", ".crdownload", ".download", ".tmp", ".swp", "~"}

// errWriting means that a process has a file open for writing. Its close is an event.
var errWriting = errors.New("a process is writing it")

// drop is an open directory in which users put files.
type drop struct {
	path string
	f    *os.File
	root bool // root alone may be able to write the directory and its files
}

// openDrop opens a watched directory. For root, each directory of its path is opened by the
// descriptor of the one before, is no symlink, and only root can write it.
func openDrop(dir string) (*drop, error) {
	failed := func(path string, err error) (*drop, error) {
		return nil, errkind.New(errkind.KindOf(err), "cannot watch %s: %w", dir, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	d := &drop{path: dir, root: os.Geteuid() == 0}
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if !d.root {
		fd, err := unix.Open(dir, flags, 0)
		if err != nil {
			return failed(dir, err)
		}
		d.f = os.NewFile(uintptr(fd), dir)
		return d, nil
	}
	at, path := unix.AT_FDCWD, "/"
	steps := strings.FieldsFunc(filepath.Clean(dir), func(r rune) bool { return r == '/' })
	for _, step := range append([]string{"/"}, steps...) {
		path = filepath.Join(path, step)
		fd, err := unix.Openat(at, step, flags|unix.O_NOFOLLOW, 0)
		if at >= 0 {
			unix.Close(at)
		}
		if err != nil {
			return failed(path, err)
		}
		at = fd
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			unix.Close(at)
			return failed(path, err)
		}
		if !rootAlone(&st) {
			unix.Close(at)
			return nil, errkind.New(errkind.NotPermitted, "cannot watch %s: others than root can write %s", dir, path).
				WithHint("`chown root` and `chmod go-w` change that; `lull --user repo add --watch` is for the directories of a user")
		}
	}
	d.f = os.NewFile(uintptr(at), dir)
	return d, nil
}

// rootAlone reports whether only root can write a file. An access control list cannot grant
// more than the bits of the group.
func rootAlone(st *unix.Stat_t) bool { return st.Uid == 0 && st.Mode&0o022 == 0 }

// Close closes the directory.
func (d *drop) Close() error { return d.f.Close() }

// list returns the names of the regular files, apart from hidden and unfinished ones, sorted.
func (d *drop) list() (names []string, err error) {
	entries, err := d.f.ReadDir(4 * maxDropped)
	if err != nil && !errors.Is(err, io.EOF) { // of an empty directory
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() || strings.HasPrefix(name, ".") ||
			slices.ContainsFunc(unfinished, func(end string) bool { return strings.HasSuffix(name, end) }) {
			continue
		}
		names = append(names, name)
	}
	if len(names) > maxDropped || len(entries) == 4*maxDropped {
		return nil, errkind.New(errkind.Invalid, "%s has more than %d files", d.path, maxDropped)
	}
	slices.Sort(names)
	return names, nil
}

// open opens a file that no process is writing. The file system may be one without leases
// (fcntl(2)): there a file that is incomplete fails its conversion, and is converted when
// it has changed.
func (d *drop) open(name string) (*os.File, stamp, error) {
	fd, err := unix.Openat(int(d.f.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errkind.New(errkind.Invalid, "it is no regular file")
	case d.root && !rootAlone(&st):
		err = errkind.New(errkind.NotPermitted, "others than root can write it")
	default:
		if _, lease := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); lease == unix.EAGAIN {
			err = errWriting
		} else if lease == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		}
	}
	if err != nil {
		f.Close()
		return nil, stamp{}, err
	}
	at, err := stampOf(f)
	return f, at, err
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return stamp{st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, err
}
