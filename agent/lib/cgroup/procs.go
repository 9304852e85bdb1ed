package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var errNoDevice error = unix.ENODEV

// rounds bounds how often a scan is restarted because groups came and went
// under it. Groups that keep changing are not vacant.
const rounds = 1000

// ErrUnstable reports that a group changed too often to be read.
var ErrUnstable = errors.New("its groups come and go too fast to be read")

// Procs returns the processes in the group dir and in all groups below it,
// sorted. A group that is gone, by its parent's word, has none. A process that
// this one cannot name (of another PID namespace) is a 0 in the list.
func Procs(dir string) ([]int, error) {
	pids, _, err := Scan(dir)
	return pids, err
}

// Scan is Procs that distinguishes a removed group from an empty one.
func Scan(dir string) (pids []int, gone bool, err error) {
	return scanner{read: os.ReadFile, list: subgroups}.top(filepath.Clean(dir))
}

// scanner reads through functions, so that a test can make a group vanish at
// every step.
type scanner struct {
	read func(path string) ([]byte, error)
	list func(dir string) ([]string, error)
}

// errVanished reports that a group is gone and its parent no longer lists it.
var errVanished = errors.New("the group has vanished")

// unsettled reports that a group is gone, but its parent still lists it: the
// kernel removes the files of a group a moment before its directory. The group
// is re-read; if it stays like that, it is an error.
type unsettled struct{ error }

func (u unsettled) Unwrap() error { return u.error }

func isUnsettled(err error) bool {
	var u unsettled
	return errors.As(err, &u)
}

func (s scanner) top(dir string) ([]int, bool, error) {
	last := ErrUnstable
	for range rounds {
		if s.empty(dir) {
			return nil, false, nil
		}
		pids, err := s.tree(dir)
		if errors.Is(err, errVanished) {
			return nil, true, nil
		}
		if isUnsettled(err) {
			last = err
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("cannot read the processes of cgroup %s: %w", dir, err)
		}
		if len(pids) > 0 {
			slices.Sort(pids)
			return slices.Compact(pids), false, nil
		}
		// Groups are not read all at once: something may have moved from one
		// that was still to be read into one that was. The kernel has the sum.
		switch populated, err := s.populated(dir); {
		case errors.Is(err, errVanished):
			return nil, true, nil
		case isUnsettled(err):
			last = err
		case err != nil:
			return nil, false, fmt.Errorf("cannot read the processes of cgroup %s: %w", dir, err)
		case !populated:
			return nil, false, nil
		}
	}
	return nil, false, fmt.Errorf("cannot read the processes of cgroup %s: %w", dir, last)
}

// empty reports whether the kernel shows no process in the group and below. It
// is also the last check (see top); made first, it spares callers that wait
// for the end of a run from reading every list to find it empty. False: look.
func (s scanner) empty(dir string) bool {
	b, err := s.read(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return false
	}
	populated, err := parsePopulated(b)
	return err == nil && !populated
}

// tree reads dir and, recursively, the groups below. When a group below
// vanishes its parent is re-read from the start, the list of its groups first.
func (s scanner) tree(dir string) ([]int, error) {
again:
	for range rounds {
		pids, err := s.one(dir)
		if err != nil {
			return nil, s.vanished(dir, err)
		}
		children, err := s.list(dir)
		if err != nil {
			return nil, s.vanished(dir, err)
		}
		for _, c := range children {
			more, err := s.tree(filepath.Join(dir, c))
			if errors.Is(err, errVanished) {
				continue again
			}
			if err != nil {
				return nil, err
			}
			pids = append(pids, more...)
		}
		return pids, nil
	}
	return nil, ErrUnstable
}

// vanished turns err into errVanished only if it means that and the parent no
// longer lists the group.
func (s scanner) vanished(dir string, err error) error {
	if !Gone(err) {
		return err
	}
	siblings, lerr := s.list(filepath.Dir(dir))
	switch {
	case Gone(lerr):
		return errVanished // the parent's own turn comes next
	case lerr != nil:
		return lerr
	case slices.Contains(siblings, filepath.Base(dir)):
		return unsettled{err}
	}
	return errVanished
}

// one reads the processes of a single group.
func (s scanner) one(dir string) ([]int, error) {
	pids, err := s.numbers(filepath.Join(dir, "cgroup.procs"))
	threaded := errors.Is(err, unix.EOPNOTSUPP) // a threaded group has no list of processes
	if err != nil && !threaded {
		return nil, err
	}
	if len(pids) > 0 {
		return pids, nil
	}
	// A process whose first thread has ended while others live may be missing
	// from cgroup.procs; the lists of threads have it.
	for _, name := range []string{"cgroup.threads", "tasks"} {
		tids, err := s.numbers(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && !threaded {
			continue // v2 has the first, v1 the second; a group that is gone is noticed below
		}
		if err != nil {
			return nil, err
		}
		for _, tid := range tids {
			pids = append(pids, s.process(tid))
		}
		return pids, nil
	}
	return nil, fs.ErrNotExist
}

// process returns the process of a thread, or the thread if that is unknown.
func (s scanner) process(tid int) int {
	b, err := s.read("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return tid
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Tgid:"); ok {
			if pid, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil {
				return pid
			}
		}
	}
	return tid
}

func (s scanner) numbers(path string) ([]int, error) {
	b, err := s.read(path)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, f := range bytes.Fields(b) {
		n, err := strconv.Atoi(string(f))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s holds %.20q", path, f)
		}
		list = append(list, n)
	}
	return list, nil
}

// populated queries the kernel whether the group or one below it has
// processes. v2 has a file for it; in v1 a second reading must agree with the
// first.
func (s scanner) populated(dir string) (bool, error) {
	b, err := s.read(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		pids, err := s.tree(dir)
		return len(pids) > 0, err
	}
	if err != nil {
		return false, s.vanished(dir, err)
	}
	return parsePopulated(b)
}

func parsePopulated(b []byte) (bool, error) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("populated ")); ok {
			switch string(bytes.TrimSpace(rest)) {
			case "0":
				return false, nil
			case "1":
				return true, nil
			}
		}
	}
	return false, errors.New("cgroup.events has no line for populated")
}

// subgroups lists the groups directly below dir, in order.
func subgroups(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Groups lists the groups directly below dir, in order.
func Groups(dir string) ([]string, error) { return subgroups(dir) }

// RemoveTree removes a group and those below it, which must all be vacant: the
// kernel refuses with EBUSY otherwise, and that is the last word on vacancy. A
// group that is gone already is no error.
func RemoveTree(dir string) error {
	alone := false // it refused although nothing was seen below it
	for range rounds {
		err := unix.Rmdir(dir)
		if err == nil || Gone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		children, lerr := subgroups(dir)
		if Gone(lerr) {
			continue
		}
		if lerr != nil {
			return lerr
		}
		if len(children) == 0 && alone {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		alone = len(children) == 0
		for _, c := range children {
			if err := RemoveTree(filepath.Join(dir, c)); err != nil {
				return err
			}
		}
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: ErrUnstable}
}

// Join moves a process, with all its threads, into a group.
func Join(dir string, pid int) error {
	// One write(2), no O_CREAT: in cgroupfs the file is there or the group is not.
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(pid))
	return err
}
