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
	pid, parent int
	pidfd       int
	script      bool // its executable is an interpreter from elsewhere
}

func pids(list []process) []int {
	var out []int
	for _, p := range list {
		out = append(out, p.pid)
	}
	return out
}

// mains returns the processes to signal: those that no other one of the package has
// started. A script that waits for a program of the package passes no signal on, so
// that the programs count and not the script, unless there are only scripts.
func mains(own []process) []process {
	programs := slices.DeleteFunc(slices.Clone(own), func(p process) bool { return p.script })
	if len(programs) == 0 {
		programs = own
	}
	return slices.DeleteFunc(slices.Clone(programs), func(p process) bool {
		return slices.ContainsFunc(programs, func(q process) bool { return q.pid == p.parent })
	})
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
		p.parent, err = strconv.Atoi(field(text, "PPid"))
	}
	return p, err
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
