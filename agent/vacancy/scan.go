package vacancy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Use is how a process uses a file, the strongest last.
type Use int

// The uses.
const (
	Open   Use = iota + 1 // it has the file open, and no more: a backup, an indexer
	Mapped                // it has the file mapped
	Executes
	Tethered // it has the tether open
)

func (u Use) String() string {
	return [...]string{"nothing", "a descriptor", "a mapping", "its executable", "the tether"}[u]
}

// Runs reports whether a process that uses a file so counts as running.
func (u Use) Runs() bool { return u > Open }

// Holder is a process that uses one of the files of a query.
type Holder struct {
	PID   int
	Use   Use
	Inode Inode // of the file that it uses so
}

// Query is what a scan is about.
type Query struct {
	Tethers  map[Inode]bool
	Files    map[Inode]bool
	TetherFD int // at which processes have their tether, as a rule
	// Deep reads mappings and all descriptors too, which costs about a hundred
	// microseconds a process instead of five.
	Deep bool
	// Skip leaves a process out; nil leaves out only this one.
	Skip func(pid int) bool
}

// Outcome is what a scan has found.
type Outcome struct {
	Holders []Holder
	// Unread are the processes that could not be read, for want of rights. One that
	// ended meanwhile is not among them.
	Unread []int
	// Complete is false if the budget or the context ended before all were read.
	Complete bool
}

// Runs reports whether a holder counts as running.
func (o *Outcome) Runs() bool {
	for _, h := range o.Holders {
		if h.Use.Runs() {
			return true
		}
	}
	return false
}

// Scan reads /proc once. A budget of zero is none. Processes that fork meanwhile may
// be missed: only a lease is proof.
func Scan(ctx context.Context, budget time.Duration, q Query) (Outcome, error) {
	var o Outcome
	began := time.Now()
	d, err := os.Open("/proc")
	if err != nil {
		return o, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return o, err
	}
	self := os.Getpid()
	for i, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self || q.Skip != nil && q.Skip(pid) {
			continue
		}
		if ctx.Err() != nil || budget > 0 && i%16 == 0 && time.Since(began) > budget {
			return o, nil
		}
		h, err := q.process(pid)
		if h.Use != 0 {
			o.Holders = append(o.Holders, h)
		} else if err != nil {
			o.Unread = append(o.Unread, pid)
		}
	}
	o.Complete = true
	return o, nil
}

// process reads one. A process that has ended uses nothing.
func (q *Query) process(pid int) (Holder, error) {
	h := Holder{PID: pid}
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	note := func(in Inode, u Use) {
		if u == Open && q.Tethers[in] {
			u = Tethered
		} else if !q.Files[in] {
			return
		}
		if u > h.Use {
			h.Use, h.Inode = u, in
		}
	}
	var errs error
	in, err := statInode(dir + "exe")
	if err == nil {
		note(in, Executes)
	}
	errs = errors.Join(errs, unreadable(err))
	if len(q.Tethers) > 0 && q.TetherFD > 0 {
		in, err := statInode(dir + "fd/" + strconv.Itoa(q.TetherFD))
		if err == nil {
			note(in, Open)
		}
		errs = errors.Join(errs, unreadable(err))
	}
	if !q.Deep || h.Use == Tethered {
		return h, errs
	}
	errs = errors.Join(errs, eachMapping(dir, func(in Inode, _ string) { note(in, Mapped) }), eachDescriptor(dir, func(in Inode) { note(in, Open) }))
	return h, errs
}

// eachDescriptor calls f with each file that a process has open.
func eachDescriptor(dir string, f func(Inode)) error {
	d, err := os.Open(dir + "fd")
	if err != nil {
		return unreadable(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, name := range names {
		if in, err := statInode(dir + "fd/" + name); err == nil {
			f(in)
		}
	}
	return unreadable(err)
}

// statInode follows a link of /proc to the file itself, which may be deleted or in
// another mount namespace.
func statInode(path string) (Inode, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Inode{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return Inode{st.Dev, st.Ino}, nil
}

// unreadable drops the errors about a process that has ended, or that never had what
// was asked for, as threads of the kernel.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIO) {
		return nil
	}
	return err
}

// eachMapping calls f with each file that a process has mapped: proc_pid_maps(5). The
// device in that list is the file system's own, which for btrfs is not that of stat(2);
// therefore the file behind /proc/PID/map_files is asked where that may be read.
func eachMapping(dir string, f func(in Inode, path string)) error {
	b, err := os.ReadFile(dir + "maps")
	if err != nil {
		return unreadable(err)
	}
	last := ""
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) < 6 || fields[4] == "0" {
			continue
		}
		if key := fields[3] + " " + fields[4]; key == last {
			continue // the next part of the same file
		} else {
			last = key
		}
		in, err := statInode(dir + "map_files/" + trimZeros(fields[0]))
		if err != nil {
			if in, err = parseDevice(fields[3], fields[4]); err != nil {
				return err
			}
		}
		f(in, fields[5])
	}
	return nil
}

// trimZeros turns the range of a line of maps into a name of map_files, which has no
// leading zeros.
func trimZeros(span string) string {
	from, to, _ := strings.Cut(span, "-")
	short := func(s string) string {
		if s = strings.TrimLeft(s, "0"); s == "" {
			return "0"
		}
		return s
	}
	return short(from) + "-" + short(to)
}

func parseDevice(dev, ino string) (Inode, error) {
	major, minor, _ := strings.Cut(dev, ":")
	ma, err1 := strconv.ParseUint(major, 16, 32)
	mi, err2 := strconv.ParseUint(minor, 16, 32)
	n, err3 := strconv.ParseUint(ino, 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Inode{}, fmt.Errorf("cannot parse a mapping on %s: %w", dev, err)
	}
	return Inode{unix.Mkdev(uint32(ma), uint32(mi)), n}, nil
}
