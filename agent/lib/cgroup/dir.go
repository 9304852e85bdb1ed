package cgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrTooMany reports that a group has more groups below it, or a longer list of
// processes, than the caller wants to read.
var ErrTooMany = errors.New("it has more groups or processes than may be read")

// Dir is an open group. Groups below it are opened by name (openat(2)): users
// make groups below their own, and their depth may exceed PATH_MAX.
type Dir struct{ fd int }

// OpenDir opens a group by its path.
func OpenDir(path string) (*Dir, error) {
	d, err := (&Dir{fd: unix.AT_FDCWD}).openat(path, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return d, nil
}

// Open opens a group directly below d. A mount point or a symlink is refused
// with EXDEV or ELOOP: neither is a group of this hierarchy.
func (d *Dir) Open(name string) (*Dir, error) {
	sub, err := d.openat(name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return sub, nil
}

func (d *Dir) openat(name string, resolve uint64) (*Dir, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	for {
		fd, err := unix.Openat2(d.fd, name, &unix.OpenHow{Flags: flags, Resolve: resolve})
		if err == unix.ENOSYS {
			fd, err = unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW, 0)
		}
		switch err {
		case nil:
			return &Dir{fd}, nil
		case unix.EINTR, unix.EAGAIN: // EAGAIN: something was renamed or mounted meanwhile, openat2(2)
		default:
			return nil, err
		}
	}
}

// Close closes the group.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Handle is a path of the group that works as long as it is open, at any
// depth.
func (d *Dir) Handle() string { return "/proc/self/fd/" + strconv.Itoa(d.fd) }

// Read reads a file of the group, at most limit bytes of it; more is
// ErrTooMany.
func (d *Dir) Read(name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, min(limit+1, 4096))
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := unix.Read(fd, b[len(b):min(cap(b), limit+1)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		case n == 0:
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) > limit {
			return nil, ErrTooMany
		}
	}
}

// Groups lists the groups directly below, in no order; more than limit are
// ErrTooMany.
func (d *Dir) Groups(limit int) ([]string, error) {
	names, _, err := d.GroupsLike(limit, func([]byte) bool { return true })
	return names, err
}

// GroupsLike lists those of the groups directly below whose names like accepts, in no order.
// count is the number of all; more than limit are ErrTooMany.
func (d *Dir) GroupsLike(limit int, like func(name []byte) bool) (names []string, count int, err error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: ".", Err: err}
	}
	defer unix.Close(fd)
	var buf [16 << 10]byte // by hand: os.File.ReadDir takes several times as long, and this is most of a walk
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, 0, &os.PathError{Op: "readdir", Path: ".", Err: err}
		}
		if n <= 0 {
			return names, count, nil
		}
		names = appendGroups(names, buf[:n], &count, like)
		if count > limit {
			return nil, 0, ErrTooMany
		}
	}
}

// appendGroups counts the directories among entries in the form of getdents64(2): d_ino,
// d_off, d_reclen, d_type, d_name. It appends the names that like accepts. cgroupfs always
// fills d_type.
func appendGroups(names []string, entries []byte, count *int, like func(name []byte) bool) []string {
	const header = 8 + 8 + 2 + 1
	for len(entries) > header {
		length := int(binary.NativeEndian.Uint16(entries[16:]))
		if length <= header || length > len(entries) {
			return names
		}
		if entries[18] == unix.DT_DIR {
			name, _, _ := bytes.Cut(entries[header:length], []byte{0})
			if string(name) != "." && string(name) != ".." {
				if *count++; like(name) {
					names = append(names, string(name))
				}
			}
		}
		entries = entries[length:]
	}
	return names
}

// Populated reports whether the kernel has a process in the group or below.
func (d *Dir) Populated() (bool, error) {
	b, err := d.Read("cgroup.events", 4096)
	if err != nil {
		return false, err
	}
	return parsePopulated(b)
}

// Procs returns processes of the group and of those below it, unsorted. It
// stops at the first that are found when it has read as many groups as budget
// allows or is deeper than depth; complete reports whether it has read all. An
// empty list with complete is no proof of vacancy: see Populated.
func (d *Dir) Procs(depth int, budget *int) (pids []int, complete bool, err error) {
	if *budget--; *budget < 0 || depth < 0 {
		return nil, false, nil
	}
	pids, err = d.one(*budget)
	if errors.Is(err, ErrTooMany) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	*budget -= len(pids) / 16
	names, err := d.Groups(max(*budget, 0))
	if errors.Is(err, ErrTooMany) {
		return pids, false, nil
	}
	if err != nil {
		return pids, false, err
	}
	complete = true
	for _, name := range names {
		sub, err := d.Open(name)
		if err != nil {
			if Gone(err) {
				complete = false
				continue
			}
			return pids, false, err
		}
		more, whole, err := sub.Procs(depth-1, budget)
		sub.Close()
		if err != nil && !Gone(err) {
			return pids, false, err
		}
		pids = append(pids, more...)
		complete = complete && whole && err == nil
	}
	return pids, complete, nil
}

// one reads the processes of this group alone.
func (d *Dir) one(budget int) ([]int, error) {
	// A line is at most eight bytes; a process costs a sixteenth of a group.
	limit := 128 * max(budget, 1)
	s := scanner{read: func(path string) ([]byte, error) {
		if filepath.Dir(path) == "." {
			return d.Read(path, limit)
		}
		return os.ReadFile(path) // of /proc
	}}
	pids, err := s.one(".")
	if err != nil {
		return nil, fmt.Errorf("cannot read the processes of a cgroup: %w", err)
	}
	return pids, nil
}
