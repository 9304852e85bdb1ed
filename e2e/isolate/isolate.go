// Package isolate runs the tests of a package in cgroup hierarchies that are
// theirs alone, so that packages whose tests track processes can run side by
// side, although each names its cgroups as lull does. A process that the tests
// of a package leave is killed, and fails them.
//
// A test binary that calls Main starts itself a second time in a new mount and cgroup
// namespace, below a new cgroup of each hierarchy; in there that cgroup is the
// hierarchy's root (cgroup_namespaces(7)). A v1 hierarchy has its one release
// agent at its real root, which cannot be reached from there: packages that
// register one share the freezer and take turns (need.Lock). Where systemd manages
// the cgroups, as it does on a workstation, tests need those that it shows: there
// packages take turns.
//
// It imports the standard library only.
package isolate

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Hierarchies selects the hierarchies that a package gets its own root of.
type Hierarchies int

const (
	All     Hierarchies = iota // the unified hierarchy, and the freezer's if there is one
	Unified                    // the unified hierarchy alone: the freezer's is shared
)

// inside is set in the environment of the test binary that runs the tests.
const inside = "LULL_TEST_ISOLATED"

// grace is how long processes that clean up may go on when the tests are over.
const grace = 10 * time.Second

// M is a testing.M that runs its tests isolated; it is one itself for packages
// such as goleak.
type M struct {
	Tests interface{ Run() int }
	In    Hierarchies
}

// Run implements testing.M.
func (m M) Run() int { return Main(m.In, m.Tests.Run) }

// Main runs the tests and returns the exit status of the test binary. Without
// root it runs them where they are: tests that track processes then need more
// than they have.
func Main(in Hierarchies, run func() int) int {
	if os.Geteuid() != 0 {
		return run()
	}
	if list := os.Getenv(inside); list != "" {
		if os.Getenv(inside+"_IN") == strconv.Itoa(os.Getppid()) { // else it is a program that a test has started
			if err := mountAll(list); err != nil {
				fmt.Fprintln(os.Stderr, "cannot isolate the tests:", err)
				return 1
			}
		}
		return run()
	}
	if booted() {
		return turn(run)
	}
	code, err := outside(in)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot isolate the tests:", err)
		return max(code, 1)
	}
	return code
}

// turn runs the tests while no other package does, on this machine.
func turn(run func() int) int {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "lull-test-cgroups.lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err == nil {
		defer f.Close()
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot take turns:", err)
		return 1
	}
	return run()
}

// hierarchy is a mounted cgroup hierarchy and this package's cgroup in it.
type hierarchy struct {
	top    string // mount point
	fstype string
	data   string // mount options: the controller of a v1 hierarchy
	group  string // path of the cgroup, below top
	home   string // path of the original cgroup of this process
}

// outside makes the cgroups, runs the test binary in them, and removes them.
func outside(in Hierarchies) (code int, err error) {
	hs, err := find(in)
	if err != nil {
		return 1, err
	}
	if len(hs) == 0 {
		return 1, errors.New("no cgroup hierarchy is mounted")
	}
	runtime.LockOSThread() // the death signal of the child is that of the thread which started it
	defer func() { err = errors.Join(err, leave(hs)) }()
	var list []string
	for i := range hs {
		h := &hs[i]
		sweep(h.home)
		h.group = filepath.Join(h.home, fmt.Sprintf("lull-test-%d", os.Getpid()))
		if err := os.Mkdir(h.group, 0o755); err != nil {
			return 1, err
		}
		if err := join(h.group); err != nil {
			return 1, err
		}
		list = append(list, h.top+" "+h.fstype+" "+h.data)
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+strings.Join(list, "\n"), inside+"_IN="+strconv.Itoa(os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP,
		Pdeathsig:    syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	end := pass([]*exec.Cmd{cmd})
	defer end()
	for _, h := range hs {
		if err = join(h.home); err != nil {
			cmd.Process.Kill()
			break
		}
	}
	return status(errors.Join(err, cmd.Wait()))
}

// sweep removes the cgroups of test binaries that were killed.
func sweep(home string) {
	groups, _ := filepath.Glob(filepath.Join(home, "lull-test-*"))
	for _, group := range groups {
		pid := strings.TrimPrefix(filepath.Base(group), "lull-test-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			remove(group) // unless it has processes
		}
	}
}

// find lists the hierarchies that are mounted.
func find(in Hierarchies) ([]hierarchy, error) {
	mounts, err := os.Open("/proc/self/mountinfo") // proc(5)
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	var hs []hierarchy
	scan := bufio.NewScanner(mounts)
	for scan.Scan() {
		left, right, ok := strings.Cut(scan.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 || l[3] != "/" {
			continue
		}
		h := hierarchy{top: l[4], fstype: r[0]}
		switch {
		case h.fstype == "cgroup2":
		case h.fstype == "cgroup" && in == All && strings.Contains(","+r[2]+",", ",freezer,"):
			h.data = "freezer"
		default:
			continue
		}
		if h.home, err = own(h); err != nil {
			return nil, err
		}
		hs = append(hs, h)
	}
	return hs, scan.Err()
}

// own returns the path of the cgroup of this process.
func own(h hierarchy) (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup") // cgroups(7): ID:CONTROLLERS:PATH
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && (parts[1] == "" && h.data == "" && parts[0] == "0" || h.data != "" && strings.Contains(","+parts[1]+",", ","+h.data+",")) {
			return filepath.Join(h.top, parts[2]), nil
		}
	}
	return "", fmt.Errorf("/proc/self/cgroup names no cgroup of %s", h.top)
}

// join moves this process into a cgroup.
func join(group string) error {
	return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0)
}

// mountAll replaces the mounts of the hierarchies, so that their roots are the namespace's.
func mountAll(list string) error {
	for _, line := range strings.Split(list, "\n") {
		top, rest, _ := strings.Cut(line, " ")
		fstype, data, _ := strings.Cut(rest, " ")
		if err := syscall.Unmount(top, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("cannot unmount %s: %w", top, err)
		}
		if err := syscall.Mount("none", top, fstype, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, data); err != nil {
			return fmt.Errorf("cannot mount %s: %w", top, err)
		}
	}
	return nil
}

// leave waits until what cleans up has ended, ends the rest, which is an error,
// and removes the cgroups.
func leave(hs []hierarchy) error {
	left, until := rest(hs), time.Now().Add(grace)
	for len(left) > 0 && time.Now().Before(until) {
		time.Sleep(20 * time.Millisecond) // a v1 hierarchy has no event for an end but its release agent
		left = rest(hs)
	}
	var err error
	for _, pid := range left {
		err = errors.Join(err, fmt.Errorf("the tests have left process %d: %s", pid, command(pid)))
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for until = time.Now().Add(grace); len(rest(hs)) > 0 && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
	}
	for _, h := range hs {
		if h.group != "" {
			err = errors.Join(err, remove(h.group))
		}
	}
	return err
}

// rest lists the processes in the cgroups, apart from this one.
func rest(hs []hierarchy) []int {
	seen := map[int]bool{os.Getpid(): true}
	var pids []int
	for _, h := range hs {
		if h.group == "" {
			continue
		}
		filepath.WalkDir(h.group, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil // cgroups that vanish meanwhile are empty
			}
			b, _ := os.ReadFile(path)
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

func command(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
}

// remove removes a cgroup and those below it.
func remove(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, remove(filepath.Join(group, e.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(group))
}
