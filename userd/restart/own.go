package restart

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
)

// process is one of an instance's package.
type process struct {
	pid    int
	pidfd  int
	script bool   // its executable is an interpreter from elsewhere
	began  uint64 // when it was started, in ticks of the kernel's clock
	group  string // its cgroups
	above  []int  // its ancestors in the same cgroups, the nearest one first
	orphan bool   // the process that has started it has ended
}

func pids(list []process) []int {
	var out []int
	for _, p := range list {
		out = append(out, p.pid)
	}
	return out
}

// mains returns the processes to signal: those that no other one of the package has
// started, directly or by other programs. A script that waits for a program of the
// package passes no signal on, so that the programs count and not the script, unless
// there are only scripts. An orphan that is not the first process in its cgroup is a
// helper that the application has left running: it is not signalled, nor is what it has
// started.
func mains(own []process) []process {
	startedBy := func(p process, list []process) bool {
		return slices.ContainsFunc(list, func(q process) bool { return slices.Contains(p.above, q.pid) })
	}
	without := func(list, starters []process) []process {
		return slices.DeleteFunc(slices.Clone(list), func(p process) bool { return startedBy(p, starters) })
	}
	var helpers, rest []process
	for _, p := range own {
		if p.orphan && slices.ContainsFunc(own, func(q process) bool { return q.group == p.group && q.began < p.began }) {
			helpers = append(helpers, p)
		} else {
			rest = append(rest, p)
		}
	}
	rest = without(rest, helpers)
	programs := slices.DeleteFunc(slices.Clone(rest), func(p process) bool { return p.script })
	if len(programs) == 0 {
		programs = rest
	}
	return without(programs, programs)
}

// Look reports whether a process that a refresh of the instance waits for is still
// there, and whether it is another program, which the application has started. A
// process that cannot be read counts as there and as the application's.
func Look(instance string, pid uint32) (there, other bool) {
	if pid == 0 { // in a PID namespace that the agent cannot see into
		return true, false
	}
	_, state, err := status(int(pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && (state == "Z" || state == "X") {
		return false, false
	}
	if err != nil {
		return true, false
	}
	_, err = look(int(pid), instance)
	return true, errors.Is(err, errOther)
}

// hold opens a pidfd of a process of this user that belongs to the package of the
// instance.
func hold(pid int, instance string) (process, int, error) {
	if pid <= 1 || pid == os.Getpid() {
		return process{}, -1, fmt.Errorf("cannot be a process of %s", instance)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}, -1, err
	}
	// From here on the number may pass to another process, which is then the
	// one that is checked. The pidfd still refers to the first one, and a
	// signal to it hits no other.
	p, err := check(pid, instance)
	if err != nil {
		unix.Close(fd)
		return process{}, -1, err
	}
	return p, fd, nil
}

func check(pid int, instance string) (process, error) {
	text, _, err := status(pid)
	if err != nil {
		return process{}, err
	}
	// Not the owner of the directory, which is root for what must not be traced.
	if !strings.Contains(text, fmt.Sprintf("\nUid:\t%d\t", os.Getuid())) {
		return process{}, errors.New("it belongs to another user")
	}
	p, err := look(pid, instance)
	if err == nil {
		err = p.origin()
	}
	return p, err
}

// maxAncestors bounds how far the ancestors of a process are followed.
const maxAncestors = 64

// origin reads where a process comes from.
func (p *process) origin() (err error) {
	_, parent, began, err := stat(p.pid)
	if err != nil {
		return err
	}
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		return err
	}
	p.began, p.group = began, string(group)
	for first := true; len(p.above) < maxAncestors; first = false {
		pid := parent
		var name string
		name, parent, _, err = stat(pid)
		if first { // PID 1, or a user's systemd, is the parent of what has lost its own
			p.orphan = pid <= 1 || err == nil && name == "systemd"
		}
		other, gerr := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if pid <= 1 || err != nil || gerr != nil || !bytes.Equal(other, group) {
			return nil // from elsewhere, or it has ended
		}
		p.above = append(p.above, pid)
	}
	return nil
}

// stat reads what proc_pid_stat(5) has of a process: its name, its parent, and when it was
// started.
func stat(pid int) (name string, parent int, began uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, 0, err
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // the name may have any character
	if open < 0 || end < open {
		return "", 0, 0, fmt.Errorf("/proc/%d/stat has no name", pid)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return "", 0, 0, fmt.Errorf("/proc/%d/stat has %d fields behind the name, want 20", pid, len(f))
	}
	parent, err = strconv.Atoi(f[1])
	if err == nil {
		began, err = strconv.ParseUint(f[19], 10, 64)
	}
	return string(b[open+1 : end]), parent, began, err
}

// status reads /proc/PID/status, and the letter of the state in it.
func status(pid int) (text, state string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", "", err
	}
	state, _, _ = strings.Cut(field(string(b), "State"), " ")
	return string(b), state, nil
}

func field(status, name string) string {
	_, rest, _ := strings.Cut(status, "\n"+name+":\t")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

var (
	errOther = errors.New("it is no program of the package")
	errNoRun = errors.New("it is in no run of the instance")
)

// look checks whether a process of a run is one of the package: it executes a
// file of the package, or has one mapped as code, or interprets one. A child
// of such a process is in the same run, and has the same tether, and may be
// any program.
func look(pid int, instance string) (process, error) {
	p := process{pid: pid}
	prefixes, err := packages(pid, instance)
	if err != nil {
		return p, err
	}
	if len(prefixes) == 0 {
		return p, errNoRun
	}
	within := func(path string) bool {
		m := inPackage.FindStringSubmatch(path)
		return m != nil && slices.Contains(prefixes, m[1])
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return p, err
	}
	if within(exe) {
		return p, nil
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) >= 6 && strings.Contains(f[1], "x") && within(f[5]) {
			return p, nil
		}
	}
	p.script = true
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return p, err
	}
	// #!INTERPRETER [ARGUMENT]: execve(2) puts the script's path behind both.
	for i, arg := range strings.Split(string(args), "\x00") {
		if i > 0 && i <= 2 && within(arg) && isScript(arg) {
			return p, nil
		}
	}
	return p, errOther
}

// inPackage matches the path of a file in a package's tree, and the first 16 digits of
// the package's hash.
var inPackage = regexp.MustCompile(`/packages/([0-9a-f]{16})[0-9a-f]{48}/`)

func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	b := make([]byte, 2)
	_, rerr := f.Read(b)
	return err == nil && rerr == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 && bytes.Equal(b, []byte("#!"))
}

// packages returns the beginnings of the hashes of the packages of the instance whose
// run a process is in: by its cgroup, and by the tether that it has.
func packages(pid int, instance string) ([]string, error) {
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	list := inRuns(string(cgroups), instance)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		if len(list) > 0 {
			return list, nil
		}
		return nil, err
	}
	for _, fd := range fds {
		target, err := os.Readlink(dir + "/" + fd.Name())
		if err != nil {
			continue // it has just been closed
		}
		target = strings.TrimSuffix(target, " (deleted)")
		if of, prefix, ok := runctl.ParseTether(target[strings.LastIndexByte(target, '/')+1:]); ok && of == instance {
			list = append(list, prefix)
		}
	}
	return list, nil
}

// inRuns returns the beginning of the package hash of each run of an application of the
// instance that /proc/PID/cgroup shows, by the names of package runname.
func inRuns(cgroups, instance string) (prefixes []string) {
	for line := range strings.Lines(cgroups) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		parts := strings.Split(strings.Trim(path, "/"), "/")
		for i, part := range parts {
			if of, prefix, ok := runname.ParseScope(part); ok && of == instance {
				prefixes = append(prefixes, prefix)
			}
			group := part == runname.FreezerGroup(instance, false) ||
				i >= 2 && strings.Join(parts[i-2:i+1], "/") == runname.SubtreeGroup(instance, false)
			if group && i+1 < len(parts) {
				if prefix, service, ok := runname.ParseRun(parts[i+1]); ok && service == "" {
					prefixes = append(prefixes, prefix)
				}
			}
		}
	}
	return prefixes
}
