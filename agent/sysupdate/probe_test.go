package sysupdate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

// stageNext commits version 1, stages version 2 and returns a package of each.
func stageNext(m *machine, hooks map[string]string) (old, next digest.Digest, u Update) {
	m.t.Helper()
	old, next = m.pkg("a", "1", nil), m.pkg("a", "2", map[string]string{"health": "test ! -e " + m.files + ".sick\n"})
	m.no(m.stage(m.update(spec{version: "1", base: []digest.Digest{old}})))
	m.reboot()
	m.no(m.Commit(m.t.Context()))
	u = m.update(spec{version: "2", base: []digest.Digest{next}, hooks: hooks})
	m.no(m.stage(u))
	return old, next, u
}

// TestFallBack: a slot that does not boot is not committed, and what runs is not collected.
func TestFallBack(t *testing.T) {
	m := newMachine(t)
	m.suffers = true
	m.cmdline("quiet lull.system=1 ro\n")
	old, next, u := stageNext(m, nil)
	for range 2 { // each time the boot loader falls back
		m.reboot()
		refused(t, m.settled, errkind.Failed, "system 2 is staged, but the machine has started with system 1")
		m.is(Staged, "1", "")
		m.restart()
		m.is(Staged, "1", "")
		refused(t, m.Commit(t.Context()), errkind.Busy, "cannot commit system 2")
	}
	m.collectAll()
	m.has(true, old, next)
	m.cmdline("lull.system=1 lull.system=2\n") // the last one counts
	m.reboot()
	m.no(m.settled)
	m.is(Booted, "1", "2")
	if got := m.Status().Running; got != "2" {
		t.Errorf("it runs %q, want 2", got)
	}
	// It worked once, and then it does not.
	m.cmdline("lull.system=1")
	m.reboot()
	refused(t, m.settled, errkind.Failed, "the machine has started with system 1")
	m.is(Staged, "1", "")
	m.no(m.Rollback())
	m.collectAll()
	m.has(true, old)
	m.has(false, next, u.Package)
}

// TestWhichBooted: the sources of the version, in their order.
func TestWhichBooted(t *testing.T) {
	m := newMachine(t)
	for _, c := range []struct{ what, cmdline, etc, usr, want string }{
		{"nothing", "", "", "", ""},
		{"no value", "root=/dev/vda1 quiet\n", "NAME=x\n", "", ""},
		{"command line", "a lull.system=2026.11 b\n", "IMAGE_VERSION=7\n", "", "2026.11"},
		{"os-release", "a\n", "NAME=x\nIMAGE_VERSION=\"7\"\n", "IMAGE_VERSION=8\n", "7"},
		{"vendor's", "a\n", "", "ID=x\nIMAGE_VERSION=8\n", "8"},
		{"malformed", "lull.system=../x\n", "", "", ""},
		{"long", "lull.system=2 " + strings.Repeat("x", maxFile), "", "", ""},
	} {
		m.write("proc/cmdline", c.cmdline)
		m.write("etc/os-release", c.etc)
		m.write("usr/lib/os-release", c.usr)
		if got := m.probe(nil); got != c.want || m.Status().Running != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	// A container has the command line of its host.
	m.cmdline("lull.system=9\n")
	m.write("etc/os-release", "IMAGE_VERSION=7\n")
	m.write("run/systemd/container", "systemd-nspawn\n")
	if got := m.probe(nil); got != "7" {
		t.Errorf("in a container: %q, want 7", got)
	}
}

// TestSystemHooks: the hooks of an update run in their order, and a rollback undoes them.
func TestSystemHooks(t *testing.T) {
	m := newMachine(t)
	m.suffers = true
	log := filepath.Join(t.TempDir(), "log")
	hooks := map[string]string{"booted": "cat " + log + ".runs\n"}
	for _, h := range []string{"pre-refresh", "activate", "commit", "rollback"} {
		hooks[h] = "test ! -e " + log + "." + h + " && echo $LULL_HOOK $LULL_SYSTEM_VERSION >> " + log + "\n"
	}
	runs := func(version string) { m.no(os.WriteFile(log+".runs", []byte(version+"\n"), 0o644)) }
	ran := func(want ...string) {
		t.Helper()
		text, _ := os.ReadFile(log)
		if got := strings.TrimSpace(string(text)); got != strings.Join(want, "\n") {
			t.Errorf("ran:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
		}
		os.Remove(log)
	}
	runs("1")
	old, next, u := stageNext(m, hooks)
	ran("pre-refresh 2", "activate 2")
	other := m.update(spec{version: "3", base: []digest.Digest{old}})
	refused(t, m.Stage(other), errkind.Busy, "hooks of system 2 have run")
	m.no(m.Rollback())
	ran("rollback 2")
	m.collectAll()
	m.has(false, next, u.Package)

	// The hooks stay, also when there was no room.
	m.no(m.stage(u))
	ran("pre-refresh 2", "activate 2")
	m.collectAll()
	m.has(true, u.Package)
	m.reboot()
	m.is(Staged, "1", "")
	runs("2")
	m.reboot()
	m.is(Booted, "1", "2")

	// A rollback whose hook fails has not happened.
	m.no(os.WriteFile(log+".rollback", nil, 0o644))
	if err := m.Rollback(); !errkind.Is(err, errkind.Failed) || !strings.Contains(err.Error(), "the rollback hook of org.test.system failed") {
		t.Errorf("got %v; want an error of kind %v and %q in the error", err, errkind.Failed, "the rollback hook of org.test.system failed")
	}
	m.is(Booted, "1", "2")
	m.no(os.Remove(log + ".rollback"))

	// Neither has a commit whose hook fails.
	m.no(os.WriteFile(log+".commit", nil, 0o644))
	if err := m.Commit(t.Context()); err == nil {
		t.Error("it is committed")
	}
	m.is(Booted, "1", "2")
	m.no(os.Remove(log + ".commit"))

	// A system that is not healthy is rolled back, and stays whole as long as it runs.
	m.no(os.WriteFile(m.files+".sick", nil, 0o644))
	refused(t, m.Commit(t.Context()), errkind.Failed, "the health hook of a failed: exit status 1; it is rolled back to system 1")
	ran("rollback 2")
	m.is(Idle, "1", "")
	m.restart()
	m.collectAll()
	m.has(true, old, next)
	m.reboot() // into the same again: the boot loader does not obey
	m.cmdline("lull.system=2")
	m.reboot()
	m.collectAll()
	m.has(true, old)
	m.no(os.Remove(m.files + ".sick"))
	m.cmdline("lull.system=1")
	m.reboot()
	m.collectAll()
	m.has(true, old)
	m.has(false, next, u.Package)

	// And now it works.
	m.no(m.stage(u))
	m.cmdline("")
	m.reboot()
	m.is(Booted, "1", "2")
	m.no(m.Commit(t.Context()))
	ran("pre-refresh 2", "activate 2", "commit 2")
	m.is(Idle, "2", "")
	m.collectAll()
	m.has(true, next)
	m.has(false, old, u.Package)
}

// TestActivateFails: staging goes on there.
func TestActivateFails(t *testing.T) {
	m := newMachine(t)
	broken := filepath.Join(t.TempDir(), "broken")
	m.no(os.WriteFile(broken, nil, 0o644))
	u := m.update(spec{version: "1", base: []digest.Digest{m.pkg("a", "1", nil)}, hooks: map[string]string{"activate": "test ! -e " + broken + "\n"}})
	refused(t, m.stage(u), errkind.Failed, "the activate hook of org.test.system failed")
	m.is(Interrupted, "", "")
	if step := m.Status().Step; step != StepActivate {
		t.Errorf("it is at %s, want %v", step, StepActivate)
	}
	m.reboot()
	m.is(Interrupted, "", "")
	m.no(os.Remove(broken))
	m.no(m.Continue())
	m.no(wait(m.System))
	m.is(Staged, "", "")
}

// TestBootOfContainer: a new process 1 is another boot, with the same kernel.
func TestBootOfContainer(t *testing.T) {
	const child = "LULL_TEST_BOOT"
	var w World
	here, err := w.identify()
	if os.Getenv(child) != "" {
		if err == nil {
			_, err = os.Stdout.WriteString(here)
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	require.Root(t) // for a process namespace
	again, err := w.identify()
	if err != nil || again != here {
		t.Errorf("got boot %q (%v) the second time, want %q", again, err, here)
	}
	// As process 1 of a namespace, with a /proc that shows it. systemd-nspawn hides the
	// kernel's number of the boot behind the container's; so does this if it runs in one.
	id := filepath.Join(t.TempDir(), "boot_id")
	cmd := exec.Command("sh", "-c", `cat /proc/sys/kernel/random/boot_id > "$1" && mount -t proc proc /proc && mount --bind "$1" /proc/sys/kernel/random/boot_id &&
exec "$0" -test.run='^TestBootOfContainer$'`, os.Args[0], id)
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.Output()
	kernel, start, _ := strings.Cut(here, bootSeparator)
	otherKernel, otherStart, _ := strings.Cut(string(out), bootSeparator)
	if err != nil || otherKernel != kernel || otherStart == "" || otherStart == start {
		t.Errorf("got boot %q of a container (%v), want kernel %q and another start than %q", out, err, kernel, start)
	}
	s := &System{boot: here}
	if !s.thisBoot(here) || !s.thisBoot(kernel) || s.thisBoot(string(out)) || s.thisBoot("") {
		t.Error("boots are confused")
	}
}
