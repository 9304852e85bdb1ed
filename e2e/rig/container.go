package rig

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/rig/suite"
)

// Tester is the ordinary user of a container; its systemd user manager runs
// from boot on.
const Tester = suite.Tester

// Rootfs returns a directory with a root file system of a suite, which boots
// systemd. Containers only read it.
func Rootfs(tb TB, s suite.Suite, set suite.Set) string {
	tb.Helper()
	dir, err := suite.Root(tb.Context(), tb.Logf, s, set)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return dir
}

// Container is a container with systemd as PID 1.
type Container struct {
	tb      TB
	options ContainerOptions
	leader  int // PID 1 of the container, as seen from outside
	proc    *Proc
}

// containerScript gives systemd-nspawn a /run and a cgroup of its own, so that
// nothing of it stays on the machine.
const containerScript = `set -e
for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=0755 lull-run /run
if test -n "$KEEP"; then
	mkdir -p "$KEEP/upper" "$KEEP/work" "$KEEP/root"
	mount -t overlay -o "lowerdir=$ROOTFS,upperdir=$KEEP/upper,workdir=$KEEP/work" lull-root "$KEEP/root"
fi
exec systemd-nspawn "$@"
`

// ContainerOptions choose what a container is like.
type ContainerOptions struct {
	Suite suite.Suite // default: suite.Default, or for Hybrid the last suite that has it
	Set   suite.Set   // default: suite.Base
	// Hybrid shows it the hybrid cgroup hierarchy, else it sees the unified one
	// alone.
	Hybrid bool
	// ReadOnly are directories of the host that it sees at the same places or, as
	// HOST:INSIDE, at others.
	ReadOnly []string
	// Keep is a directory for the container's changes, which another boot continues
	// with. If it is empty they are dropped.
	Keep string
	// Failures has BootContainer leave it to WaitBoot to find units that have failed.
	Failures bool
}

// Boot starts a container of the default suite with the unified cgroup hierarchy
// alone, or of the last suite that has it with the hybrid one. See
// BootContainer.
func Boot(tb TB, unified bool, ro ...string) *Container {
	tb.Helper()
	return BootContainer(tb, ContainerOptions{Hybrid: !unified, ReadOnly: ro})
}

// BootContainer starts a container and returns when its systemd has started all
// that it starts at boot.
func BootContainer(tb TB, o ContainerOptions) *Container {
	tb.Helper()
	o.Suite = cmp.Or(o.Suite, suite.For(!o.Hybrid))
	if o.Set.Name == "" {
		o.Set = suite.Base
	}
	rootfs := Rootfs(tb, o.Suite, o.Set)
	dir, err := os.MkdirTemp("", "lull-container-")
	if err != nil {
		tb.Fatalf("cannot boot a container: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	groups := containerGroups(tb, filepath.Base(dir))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
	if err != nil {
		tb.Fatalf("cannot boot a container: %v", err)
	}
	tb.Cleanup(func() { conn.Close() })

	args := []string{"--mount", "--propagation=private", "--", "sh", "-c", containerScript, "sh",
		"--directory=" + cmp.Or(kept(o.Keep), rootfs), "--machine=" + filepath.Base(dir), "--register=no", "--keep-unit",
		"--notify-ready=yes", "--boot", "--private-network", "--console=pipe", "--link-journal=no", "--resolv-conf=off",
		"--timezone=off", "--kill-signal=SIGRTMIN+3"}
	if o.Keep == "" {
		args = append(args, "--volatile=overlay")
	}
	for _, path := range o.ReadOnly {
		args = append(args, "--bind-ro="+path)
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=" + dir + "/notify", "GROUPS_TO_JOIN=" + strings.Join(groups, " "), "KEEP=" + o.Keep, "ROOTFS=" + rootfs}
	if !o.Hybrid {
		cmd.Env = append(cmd.Env, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	}
	c := &Container{tb: tb, options: o}
	c.proc = start(tb, dir, "container", cmd)
	tb.Cleanup(c.powerOff)
	c.awaitBoot(conn)
	return c
}

// kept is where a container that keeps its changes has its root.
func kept(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "root")
}

// awaitBoot reads the notifications of systemd-nspawn: its leader, and that it is ready.
func (c *Container) awaitBoot(conn *net.UnixConn) {
	c.tb.Helper()
	type report struct {
		leader int
		ready  bool
	}
	reports := make(chan report, 1)
	go func() {
		// It is read to its end, or systemd would wait for a reader: it writes at every
		// reload.
		buf := make([]byte, 4096)
		var r report
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			for line := range bytes.Lines(buf[:n]) {
				fmt.Sscanf(string(line), "X_NSPAWN_LEADER_PID=%d", &r.leader)
				r.ready = r.ready || strings.TrimSpace(string(line)) == "READY=1"
			}
			if r.ready && r.leader != 0 {
				select {
				case reports <- r:
				default:
				}
			}
		}
	}()
	select {
	case r := <-reports:
		c.leader = r.leader
		if !c.options.Failures {
			c.WaitBoot()
		}
	case <-c.proc.Done():
		c.tb.Fatalf("the container has not booted:\n%s", tail(c.proc.Log(), 20))
	case <-time.After(2 * time.Minute):
		c.tb.Fatalf("the container has not booted within two minutes:\n%s", tail(c.proc.Log(), 20))
	case <-c.tb.Context().Done():
		c.tb.Fatalf("%v", errStopped)
	}
}

// WaitBoot waits until systemd has started everything, and that nothing failed but
// hooks; see VM.
func (c *Container) WaitBoot() {
	c.tb.Helper()
	waitBoot(c.tb, c.Run("systemctl", "is-system-running", "--wait"), c.Run)
}

// enter makes a command that runs in the container's namespaces.
func (c *Container) enter(argv ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--target=%d", c.leader), "--all", "--"}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"}
	return cmd
}

// Run runs a command as root in the container, but not below its systemd.
func (c *Container) Run(argv ...string) Result {
	c.tb.Helper()
	r, err := c.Try(2*time.Minute, argv...)
	if err != nil {
		c.tb.Fatalf("cannot run %s in the container: %v", argv[0], err)
	}
	return r
}

// Try is Run for a command that may never end, as one in a container that reboots:
// before systemd ends all processes it stops them, and nsenter stops itself with its child.
func (c *Container) Try(limit time.Duration, argv ...string) (Result, error) {
	return run(c.tb.Context(), limit, c.enter(argv...))
}

// Start starts a command as Run does, that goes on.
func (c *Container) Start(argv ...string) *Command {
	c.tb.Helper()
	p := newCommand(argv)
	cmd := c.enter(argv...)
	cmd.Stdout = writer(func(b []byte) { p.print(&p.out, b) })
	cmd.Stderr = writer(func(b []byte) { p.print(&p.errOut, b) })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		c.tb.Fatalf("cannot run %s in the container: %v", argv[0], err)
	}
	p.signal = func(s syscall.Signal) {
		if !p.ended() {
			_ = syscall.Kill(-cmd.Process.Pid, s) // it may just have ended
		}
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	go func() {
		select {
		case <-over:
			p.end(cmd.ProcessState.ExitCode(), nil)
		case <-c.proc.Done():
			p.signal(syscall.SIGKILL) // nsenter may be stopped; see Try
			<-over
			p.end(-1, errOff)
		}
	}()
	c.tb.Cleanup(func() { p.signal(syscall.SIGKILL); <-p.done })
	return p
}

// writer is a function that takes what is written.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

// Service runs a command as a service of the container's systemd, as root.
func (c *Container) Service(limit time.Duration, env []string, argv ...string) Result {
	c.tb.Helper()
	return c.unit(limit, nil, env, argv)
}

// Login runs a command in a session of the ordinary user.
func (c *Container) Login(limit time.Duration, env []string, argv ...string) Result {
	c.tb.Helper()
	return c.unit(limit, []string{"--uid=" + Tester, "--property=PAMName=login", "--working-directory=/home/" + Tester}, env, argv)
}

func (c *Container) unit(limit time.Duration, flags, env, argv []string) Result {
	c.tb.Helper()
	args := append([]string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect"}, flags...)
	for _, e := range env {
		args = append(args, "--setenv="+e)
	}
	r, err := run(c.tb.Context(), limit, c.enter(append(append(args, "--"), argv...)...))
	r.Args = argv
	if err != nil {
		c.tb.Fatalf("cannot run %s in the container: %v\n%s", argv[0], err, tail(r.Text(), 40))
	}
	return r
}

// AwaitOff waits until the container has gone off by itself.
func (c *Container) AwaitOff(limit time.Duration) {
	c.tb.Helper()
	select {
	case <-c.proc.Done():
	case <-time.After(limit):
		c.tb.Fatalf("the container has not gone off within %v:\n%s", limit, tail(c.proc.Log(), 20))
	}
}

// powerOff shuts the container down in peace.
func (c *Container) powerOff() {
	if c.leader == 0 || c.proc.Ended() {
		return
	}
	c.enter("systemctl", "poweroff").Run()
	select {
	case <-c.proc.Done():
	case <-time.After(20 * time.Second):
		c.tb.Logf("the container does not power off; it is killed")
	}
}

// containerGroups makes a cgroup for the container in each hierarchy that
// systemd uses, and removes what the container has made in them at the end.
func containerGroups(tb TB, name string) []string {
	tb.Helper()
	var groups []string
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(top + "/cgroup.procs"); err != nil {
			continue
		}
		group := filepath.Join(top, name)
		if err := os.Mkdir(group, 0o755); err != nil {
			tb.Fatalf("cannot make a cgroup for a container: %v", err)
		}
		groups = append(groups, group)
	}
	tb.Cleanup(func() {
		for _, group := range groups {
			if err := removeGroup(group); err != nil {
				tb.Logf("cannot clean up: %v", err)
			}
		}
	})
	return groups
}

// removeGroup removes a cgroup and those below it, whose processes have ended;
// the kernel may take a moment to notice that.
func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the one whose group it was has removed it
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for range 100 {
		if err = syscall.Rmdir(dir); err != syscall.EBUSY {
			break
		}
		time.Sleep(10 * time.Millisecond) // no event reports when a cgroup can be removed
	}
	return err
}

// PID returns the host's number of the container's process 1.
func (c *Container) PID() int { return c.leader }

// Command makes a command that runs as root in the container's namespaces, below
// none of its services. The caller runs it.
func (c *Container) Command(argv ...string) *exec.Cmd { return c.enter(argv...) }
