// Package require checks the needs of a test: root, a program, a cgroup
// hierarchy. If one is missing, the test skips with the reason, so that a
// workstation can run what it is able to; with CI=true in the environment it
// fails instead, so that nothing goes untested unnoticed.
//
// Tests of any package may import it; it imports the standard library only.
// Every function may be called from any test and any number of them at a time.
package require

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// CI reports whether a missing need is a failure.
func CI() bool { return os.Getenv("CI") == "true" }

// Missing ends the test because of what this machine lacks: a skip on a
// workstation, a failure where CI=true.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if CI() {
		t.Fatalf("this machine must run every test (CI=true): "+format, args...)
	}
	t.Skipf(format, args...)
}

// Root needs uid 0.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// NotShort keeps a long test out of `go test -short`.
func NotShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: left out by -short")
	}
}

// Program needs every named program in PATH (or in the directories of the system
// administrator, which an ordinary user's PATH may lack) and returns the path
// of the first.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	first := ""
	for _, name := range names {
		path, err := Find(name)
		if err != nil {
			Missing(t, "needs the program %s (make deps installs it)", name)
		}
		if first == "" {
			first = path
		}
	}
	return first
}

// Find finds a program as Program does.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/systemd", "/lib/systemd"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

// File needs a file or directory to exist.
func File(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, "needs %s: %v", path, err)
	}
}

// Setting needs root and a setting of the kernel, a file below /proc/sys, that can be changed.
// In most containers /proc/sys is read-only.
func Setting(t testing.TB, path string) {
	t.Helper()
	Root(t)
	const readOnly = 1 // ST_RDONLY of statfs(2), which package syscall does not have
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil || st.Flags&readOnly != 0 {
		Missing(t, "needs to change a setting of the kernel, %s, which is read-only here (error %v)", path, err)
	}
}

// Loop needs root and a device that mounts a file as a file system. Most containers have none.
func Loop(t testing.TB) {
	t.Helper()
	Root(t)
	if err := writable("/dev/loop-control"); err != nil {
		Missing(t, "needs loop devices: %v", err)
	}
}

// Freezer needs root and a writable cgroup v1 freezer hierarchy; it returns
// its mount point.
func Freezer(t testing.TB) string {
	t.Helper()
	Root(t)
	dir := mounted("cgroup", "freezer")
	if dir == "" {
		Missing(t, "needs a cgroup v1 freezer hierarchy")
	}
	if err := writable(filepath.Join(dir, "cgroup.procs")); err != nil {
		Missing(t, "needs to make cgroups: %v", err)
	}
	return dir
}

// ReleaseAgent is Freezer where a release agent can be registered: not in a cgroup
// namespace. Tests that register one take turns: Lock(t, "freezer").
func ReleaseAgent(t testing.TB) string {
	t.Helper()
	dir := Freezer(t)
	if err := writable(filepath.Join(dir, "release_agent")); err != nil {
		Missing(t, "needs to register a release agent: %v", err)
	}
	return dir
}

// Unified needs root and a writable cgroup v2 hierarchy; it returns its mount
// point.
func Unified(t testing.TB) string {
	t.Helper()
	Root(t)
	dir := mounted("cgroup2", "")
	if dir == "" {
		Missing(t, "needs a cgroup v2 hierarchy")
	}
	if err := writable(filepath.Join(dir, "cgroup.procs")); err != nil {
		Missing(t, "needs to make cgroups: %v", err)
	}
	return dir
}

// Cgroups needs root and a hierarchy of cgroups that can be written: a v1 freezer or v2.
func Cgroups(t testing.TB) {
	t.Helper()
	if mounted("cgroup", "freezer") != "" {
		Freezer(t)
		return
	}
	Unified(t)
}

// Systemd needs systemd as PID 1.
func Systemd(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		Missing(t, "needs systemd as PID 1")
	}
}

// Container needs what it takes to boot systemd in a container.
func Container(t testing.TB) {
	t.Helper()
	Root(t)
	Program(t, "systemd-nspawn", "debootstrap", "nsenter")
}

// QEMU needs what it takes to make and emulate a whole machine.
func QEMU(t testing.TB) {
	t.Helper()
	Container(t)
	Program(t, "qemu-system-x86_64", "apt-get", "dpkg", "depmod", "mkfs.ext4", "unshare", "systemctl")
}

// Lock makes the tests that change one thing of the whole machine (the
// freezer's release agent, say) take turns, across packages and processes. It
// waits for its turn and unlocks when the test ends. It does not nest.
func Lock(t testing.TB, name string) {
	t.Helper()
	path := filepath.Join(os.TempDir(), "lull-test-"+name+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("cannot take turns: %v", err)
	}
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		f.Close()
		t.Fatalf("cannot take turns with %s: %v", path, err)
	}
	t.Cleanup(func() { f.Close() })
}

// mounted finds the mount point of a file system type with a super option.
func mounted(fstype, option string) string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 || r[0] != fstype || l[3] != "/" {
			continue
		}
		if option == "" || strings.Contains(","+r[2]+",", ","+option+",") {
			return l[4]
		}
	}
	return ""
}

// writable returns why a file cannot be written; it does not touch it.
func writable(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return f.Close()
}
