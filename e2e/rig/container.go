package rig

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Tester is the ordinary user of a container; its systemd user manager runs
// from boot on.
const Tester = "tester"

// containerPackages are what the root file system of a container has beyond
// Debian's minimum: systemd with sessions, and a desktop to show notices on.
const containerPackages = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,polkitd,udev,procps," +
	"xvfb,dunst,imagemagick,xdotool,librsvg2-common,fonts-dejavu-core,libglib2.0-bin,bsdutils,util-linux"

// containerSetup is run in a new root file system, once.
const containerSetup = `set -e
useradd --create-home --uid 1000 --shell /bin/bash ` + Tester + `
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/` + Tester + `
systemctl mask getty.target console-getty.service systemd-udevd.service systemd-networkd.service systemd-timesyncd.service >/dev/null 2>&1
apt-get clean
rm -rf /var/lib/apt/lists/*
`

// Rootfs returns a folder with a root file system that boots systemd. It is
// made once by debootstrap and kept in the cache folder of whoever runs the
// tests; containers only read it.
func Rootfs(tb TB) string {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatalf("cannot keep a root file system: %v", err)
	}
	sum := sha256.Sum256([]byte(containerPackages + containerSetup))
	dir := filepath.Join(cache, "lull", "rootfs-bookworm-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		tb.Fatalf("cannot keep a root file system: %v", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		tb.Fatalf("cannot keep a root file system: %v", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		tb.Fatalf("cannot lock %s: %v", dir, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	partial := dir + ".partial"
	os.RemoveAll(partial)
	tb.Logf("making a root file system, once, in %s", dir)
	for _, argv := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + containerPackages, "bookworm", partial},
		{"chroot", partial, "sh", "-c", containerSetup},
	} {
		r, err := run(tb.Context(), 15*time.Minute, exec.Command(argv[0], argv[1:]...))
		if err != nil || r.Code != 0 {
			tb.Fatalf("cannot make a root file system; debootstrap needs to reach Debian's packages: %v\n%s", err, tail(r.Text(), 20))
		}
	}
	if err := os.Rename(partial, dir); err != nil {
		tb.Fatalf("cannot keep a root file system: %v", err)
	}
	return dir
}

// Container is a container with systemd as PID 1.
type Container struct {
	tb     TB
	leader int // PID 1 of the container, as seen from outside
	proc   *Proc
}

// containerScript gives systemd-nspawn a /run and a cgroup of its own, so that
// nothing of it stays on the machine.
const containerScript = `set -e
for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=0755 lull-run /run
exec systemd-nspawn "$@"
`

// Boot starts a container and returns when its systemd has started all that it
// starts at boot. With unified it sees only the unified cgroup hierarchy, else
// the hybrid one. Folders in ro are seen in it at the same places, read-only.
// Whatever is written in it is forgotten.
func Boot(tb TB, unified bool, ro ...string) *Container {
	tb.Helper()
	rootfs := Rootfs(tb)
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
		"--directory=" + rootfs, "--volatile=overlay", "--machine=" + filepath.Base(dir), "--register=no", "--keep-unit",
		"--notify-ready=yes", "--boot", "--private-network", "--console=pipe", "--link-journal=no", "--resolv-conf=off",
		"--timezone=off", "--kill-signal=SIGRTMIN+3"}
	for _, path := range ro {
		args = append(args, "--bind-ro="+path)
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=" + dir + "/notify", "GROUPS_TO_JOIN=" + strings.Join(groups, " ")}
	if unified {
		cmd.Env = append(cmd.Env, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	}
	c := &Container{tb: tb}
	c.proc = start(tb, dir, "container", cmd)
	tb.Cleanup(c.powerOff)
	c.awaitBoot(conn)
	return c
}

// awaitBoot reads what systemd-nspawn tells: its leader, and that it is ready.
func (c *Container) awaitBoot(conn *net.UnixConn) {
	c.tb.Helper()
	type report struct {
		leader int
		ready  bool
	}
	reports := make(chan report)
	go func() {
		defer close(reports)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			var r report
			for line := range bytes.Lines(buf[:n]) {
				fmt.Sscanf(string(line), "X_NSPAWN_LEADER_PID=%d", &r.leader)
				r.ready = r.ready || strings.TrimSpace(string(line)) == "READY=1"
			}
			select {
			case reports <- r:
			case <-c.tb.Context().Done():
				return
			}
			if r.ready {
				return
			}
		}
	}()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case r := <-reports:
			c.leader = max(c.leader, r.leader)
			if r.ready {
				if r := c.Run("systemctl", "is-system-running", "--wait"); strings.TrimSpace(r.Stdout) != "running" {
					c.tb.Fatalf("the container has booted with failures: %s\n%s", r.Stdout, c.Run("systemctl", "--failed", "--no-pager").Stdout)
				}
				return
			}
		case <-c.proc.Done():
			c.tb.Fatalf("the container has not booted:\n%s", tail(c.proc.Log(), 20))
		case <-timeout:
			c.tb.Fatalf("the container has not booted within two minutes:\n%s", tail(c.proc.Log(), 20))
		case <-c.tb.Context().Done():
			c.tb.Fatalf("%v", errStopped)
		}
	}
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
	r, err := run(c.tb.Context(), 2*time.Minute, c.enter(argv...))
	if err != nil {
		c.tb.Fatalf("cannot run %s in the container: %v", argv[0], err)
	}
	return r
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

// removeGroup removes a cgroup and those below it, in which nothing runs any
// more; the kernel may take a moment to notice that.
func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
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
		time.Sleep(10 * time.Millisecond) // nothing tells when a cgroup can be removed
	}
	return err
}
