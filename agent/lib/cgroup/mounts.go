// Package cgroup reads the kernel's control groups: where the hierarchies are
// mounted, and which processes a group holds.
//
// Words: a hierarchy is a tree of groups; freezer is the one of cgroup v1 that
// carries the freezer controller, unified that of cgroup v2 (alone, or beside
// v1 in the "hybrid" layout). A group is a directory. It is vacant when no process
// is in it or in any group below it. See cgroups(7).
//
// Everything here fails closed: what cannot be read is an error, never "no
// process". All functions may be called from any goroutine, and none of them
// blocks on anything but the kernel's own locks.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Layout has the mount points of the hierarchies that lull can use; "" if
// there is none.
type Layout struct {
	Freezer        string // mount point of the v1 freezer hierarchy's root
	Unified        string // mount point of the v2 hierarchy's root
	SystemdUnified bool   // systemd is PID 1 and keeps its units in Unified
}

// Mounts finds the hierarchies that this process can see.
func Mounts() (Layout, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	defer f.Close()
	l, err := Parse(f)
	if err != nil {
		return Layout{}, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	if l.Unified == "" {
		return l, nil
	}
	// sd_booted(3) reports whether systemd is PID 1; its own group, where it keeps units.
	if _, err := os.Lstat("/run/systemd/system"); err == nil {
		_, err := os.Lstat(filepath.Join(l.Unified, "init.scope"))
		l.SystemdUnified = err == nil
	}
	return l, nil
}

// Parse reads /proc/self/mountinfo (proc_pid_mountinfo(5)). A hierarchy counts
// only where its root is mounted: below a bind mount of some group, or in a
// container that sees a part, paths mean something else. Of several mounts the
// first is taken.
func Parse(r io.Reader) (Layout, error) {
	var l Layout
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		left, right, ok := strings.Cut(s.Text(), " - ")
		if !ok {
			continue
		}
		lf, rf := strings.Fields(left), strings.Fields(right)
		if len(lf) < 6 || len(rf) < 3 || lf[3] != "/" {
			continue
		}
		switch {
		case rf[0] == "cgroup2" && l.Unified == "":
			l.Unified = unescape(lf[4])
		case rf[0] == "cgroup" && l.Freezer == "" && slices.Contains(strings.Split(rf[2], ","), "freezer"):
			l.Freezer = unescape(lf[4])
		}
	}
	return l, s.Err()
}

// unescape undoes the octal escapes of mountinfo: space, tab, newline, backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Membership is one line of /proc/PID/cgroup.
type Membership struct {
	Controllers []string // of a v1 hierarchy; none for v2
	Path        string   // in the hierarchy, beginning with "/"
}

// Of reads the groups that a process is in; pid 0 is the caller.
func Of(pid int) ([]Membership, error) {
	who := "self"
	if pid != 0 {
		who = strconv.Itoa(pid)
	}
	b, err := os.ReadFile("/proc/" + who + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot read the cgroups of process %s: %w", who, err)
	}
	var all []Membership
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		m := Membership{Path: path}
		if controllers != "" {
			m.Controllers = strings.Split(controllers, ",")
		}
		all = append(all, m)
	}
	return all, nil
}

// Freezer returns the path of a process's group in the freezer hierarchy,
// Unified that in the unified one, Systemd that in the one where systemd has its
// units; "" if the process is in none.
func Freezer(all []Membership) string {
	for _, m := range all {
		if slices.Contains(m.Controllers, "freezer") {
			return m.Path
		}
	}
	return ""
}

// Unified is described at Freezer.
func Unified(all []Membership) string {
	for _, m := range all {
		if m.Controllers == nil {
			return m.Path
		}
	}
	return ""
}

// Systemd is described at Freezer.
func Systemd(all []Membership) string {
	for _, m := range all {
		if slices.Contains(m.Controllers, "name=systemd") {
			return m.Path
		}
	}
	return Unified(all)
}

// Gone reports whether err is the kernel's error for a group that has been
// removed: no such file, or, through a file that was open already, no device.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoDevice)
}
