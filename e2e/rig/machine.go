package rig

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// namespace is a mount namespace with a /run of its own. It lives as long as
// a process that waits for its standard input to be closed, which the death
// of the rig does too.
type namespace struct{ holder *Proc }

// file names the namespace for nsenter.
func (n *namespace) file() string { return fmt.Sprintf("/proc/%d/ns/mnt", n.holder.PID) }

// namespaceScript mounts a fresh /run, with the journal's files in the world's
// directory ($1), and a machine id if there is none ($2), as in a container
// image.
const namespaceScript = `set -e
mount -t tmpfs -o mode=0755 lull-run /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/systemd/seats /run/systemd/users \
	/run/systemd/sessions /run/systemd/inhibit /run/systemd/shutdown /run/log /run/lock
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToWall=no\nRateLimitBurst=0\n' > /run/systemd/journald.conf.d/lull.conf
mount --bind "$1" /run/log
test -z "$2" || mount --bind "$2" /etc/machine-id
echo READY
exec cat
`

// startMachine starts the namespace and in it a real journald, and a real
// logind that serves on the world's bus. logind may not reboot the machine.
func (w *World) startMachine() {
	w.Helper()
	journal := w.folder("journal", 0o755)
	id := ""
	if b, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(b))) != 32 {
		id = w.Path("machine-id")
		if err := os.WriteFile(id, []byte("0123456789abcdef0123456789abcdef\n"), 0o444); err != nil {
			w.Fatalf("cannot set up a machine: %v", err)
		}
	}
	r, wr, err := os.Pipe()
	if err != nil {
		w.Fatalf("cannot set up a machine: %v", err)
	}
	var stdin io.WriteCloser
	holder := w.Admin.StartWith(func(c *exec.Cmd) {
		c.Stdout = wr
		stdin, err = c.StdinPipe()
	}, "unshare", "--mount", "--propagation=private", "--", "sh", "-c", namespaceScript, "sh", journal, id)
	wr.Close()
	if err != nil {
		w.Fatalf("cannot set up a machine: %v", err)
	}
	if _, err := readLine(w.Context(), r, holder, 20*time.Second); err != nil {
		w.Fatalf("cannot set up a mount namespace: %v", err)
	}
	w.Cleanup(func() { stdin.Close() })
	w.ns = &namespace{holder: holder}
	w.startNotify("systemd-journald", "/lib/systemd/systemd-journald")
	if folders, _ := filepath.Glob(w.Path("journal", "journal", "*")); len(folders) > 0 {
		w.Watch(folders...)
	}
	w.startNotify("systemd-logind", "setpriv", "--bounding-set=-sys_boot", "--inh-caps=-sys_boot", "/lib/systemd/systemd-logind")
}

// startNotify starts a daemon that reports by sd_notify when it is ready.
func (w *World) startNotify(name string, argv ...string) *Proc {
	w.Helper()
	path := w.Path(name + ".notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		w.Fatalf("cannot start %s: %v", name, err)
	}
	cmd := w.Admin.Command(argv[0], argv[1:]...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "SYSTEMD_LOG_TARGET=console")
	p := start(w, w.Path("log"), name, cmd)
	ready := make(chan struct{})
	go func() {
		buf := make([]byte, 4096)
		for told := false; ; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if !told && bytes.Contains(append([]byte("\n"), buf[:n]...), []byte("\nREADY=1")) {
				told = true
				close(ready)
			}
		}
	}()
	w.Cleanup(func() { conn.Close() })
	select {
	case <-ready:
	case <-p.Done():
		w.Fatalf("%s ended before it was ready:\n%s", name, tail(p.Log(), 20))
	case <-w.Context().Done():
		w.Fatalf("%v", errStopped)
	case <-time.After(20 * time.Second):
		w.Fatalf("%s is not ready after 20 s:\n%s", name, tail(p.Log(), 20))
	}
	return p
}

// LogindBus is the address of the bus on which logind serves, "system" for
// the machine's own, or empty if the world has none.
func (w *World) LogindBus() string {
	if w.ns == nil && w.logind != "system" {
		return ""
	}
	return w.logind
}

// Inhibitors returns what `systemd-inhibit --list` prints.
func (w *World) Inhibitors() string {
	w.Helper()
	return w.Admin.Must("systemd-inhibit", "--list", "--no-pager", "--no-legend").Stdout
}

// Journal returns the messages of the journal that match (FIELD=VALUE).
func (w *World) Journal(match ...string) string {
	w.Helper()
	args := []string{"--no-pager", "--quiet", "-o", "cat"}
	if w.ns != nil {
		args = append(args, "-D", w.Path("journal", "journal"))
	}
	if w.ns == nil {
		args = append(args, "--since=-10min")
	}
	r := w.Admin.Run("journalctl", append(args, match...)...)
	return r.Stdout
}

// HasJournal reports whether the world's messages can be read back.
func (w *World) HasJournal() bool { return w.ns != nil || Booted() }

// sweep ends processes that lull has started and that have outlived the agent:
// services, and children of applications. They are found by their environment,
// which names directories of this world.
func (w *World) sweep() {
	if Booted() {
		w.sweepUnits()
	}
	mark := []byte(w.Dir + "/")
	groups := map[string]bool{}
	defer func() {
		for group := range groups {
			if removeGroup(group) == nil {
				syscall.Rmdir(filepath.Dir(group)) // of the instance, if it was the last
			}
		}
	}()
	for range 20 {
		left := 0
		for _, pid := range processesWith(mark) {
			left++
			for _, group := range groupsOf(pid) {
				groups[group] = true
			}
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
				p.Release()
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond) // they are no children of ours: their end makes no event
	}
	w.Logf("cannot end all processes of %s", w.Dir)
}

// sweepUnits ends the services that lull has started through systemd: if their
// processes were killed, systemd would only restart them.
func (w *World) sweepUnits() {
	systemctl := []string{"systemctl", "--no-pager", "--no-legend"}
	if w.Rootless {
		systemctl = append(systemctl, "--user")
	}
	call := func(args ...string) string {
		cmd := exec.Command(systemctl[0], append(systemctl[1:], args...)...)
		cmd.Env = os.Environ() // the user's manager is found through it
		out, _ := cmd.Output()
		return string(out)
	}
	for line := range strings.Lines(call("list-units", "--all", "--plain", "lull-*.service")) {
		unit, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if unit != "" && strings.Contains(call("show", "--property=ExecStart,Environment", unit), w.Dir+"/") {
			call("stop", unit)
			call("reset-failed", unit)
		}
	}
}

// groupsOf lists the cgroups of a process that are lull's.
func groupsOf(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	var groups []string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/lull") {
			continue
		}
		for _, top := range []string{"freezer", "unified", ""} {
			if dir := filepath.Join("/sys/fs/cgroup", top, f[2]); (top == "freezer") == (f[1] == "freezer") {
				if _, err := os.Stat(dir); err == nil {
					groups = append(groups, dir)
				}
			}
		}
	}
	return groups
}

// processesWith lists the processes that carry mark in a LULL_ variable of
// their environment, but for ourselves.
func processesWith(mark []byte) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var pid int
		fmt.Sscanf(file, "/proc/%d/", &pid)
		for _, v := range bytes.Split(env, []byte{0}) {
			if bytes.HasPrefix(v, []byte("LULL_")) && bytes.Contains(v, mark) && pid != os.Getpid() {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
