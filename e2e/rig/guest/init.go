package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sysroot = "/sysroot"
	// Where the program stays after the root file system has changed, and the
	// units of full machines: /run is in memory and the boot loader's by right.
	runProgram = "/run/lull-guest"
	runUnits   = "/run/systemd/system"
)

// The service is there before everything else and is not stopped at a shutdown.
const unit = `[Unit]
Description=Runs commands for the tests
DefaultDependencies=no
[Service]
ExecStart=` + runProgram + ` serve
OOMScoreAdjust=-900
TasksMax=infinity
[Install]
WantedBy=sysinit.target
`

// initialize is process 1 of a machine that has just been switched on. Only an
// error returns.
func initialize() error {
	for _, m := range []struct{ fstype, target, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
	} {
		if err := mount(m.fstype, m.fstype, m.target, 0, m.options); err != nil {
			return err
		}
	}
	options, err := commandLine()
	if err != nil {
		return err
	}
	modules := []string{"virtio_pci", "virtio_blk", "virtio_console", options["lull.data"]}
	if _, minimal := options["lull.minimal"]; minimal {
		modules = append(modules, "overlay")
	}
	for _, name := range modules {
		if err := loadModule(name); err != nil {
			return err
		}
	}
	slot, slots := strings.CutPrefix(options["root"], "PARTLABEL=")
	root := "/dev/vda"
	if slots {
		root, err = awaitPartition(slot)
	} else {
		err = awaitDevice(root)
	}
	if err != nil {
		return err
	}
	if err := mount(root, "ext4", sysroot, 0, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "tmpfs", sysroot+"/run", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	if slots {
		err = mountFiles()
	} else {
		err = bringPrograms()
	}
	if err != nil {
		return err
	}
	if fstype := options["lull.data"]; fstype != "" {
		dir := sysroot + "/var/lib/lull"
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := awaitDevice("/dev/vdc"); err != nil {
			return err
		}
		if err := mount("/dev/vdc", fstype, dir, 0, ""); err != nil {
			return err
		}
	}
	if err := stay(); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := syscall.Mount(dir, sysroot+dir, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cannot move %s: %w", dir, err)
		}
	}
	if err := os.Chdir(sysroot); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot switch to the root file system: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if _, minimal := options["lull.minimal"]; !minimal {
		return syscall.Exec("/sbin/init", []string{"/sbin/init"}, []string{"TERM=dumb"})
	}
	if err := mountCgroup(options["lull.cgroup"]); err != nil {
		return err
	}
	return reap()
}

func mount(source, fstype, target string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(source, target, fstype, flags, options); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", source, target, err)
	}
	return nil
}

// loadModule loads a module and its dependencies. One without a list is built in.
func loadModule(name string) error {
	list, err := os.ReadFile("/modules/" + name + ".list")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, file := range strings.Fields(string(list)) {
		f, err := os.Open("/modules/" + file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot load %s: %w", file, err)
		}
	}
	return nil
}

// commandLine returns the kernel's parameters.
func commandLine() (map[string]string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	options := map[string]string{}
	for _, f := range strings.Fields(string(b)) {
		k, v, _ := strings.Cut(f, "=")
		options[k] = v
	}
	return options, nil
}

// awaitDevice waits until the kernel has made a device node.
func awaitDevice(path string) error {
	return await(path, func() bool { _, err := os.Stat(path); return err == nil })
}

// awaitPartition waits for the partition with a name in the partition table, and returns its
// device node.
func awaitPartition(label string) (node string, err error) {
	err = await("partition "+label, func() bool {
		files, _ := filepath.Glob("/sys/class/block/*/uevent")
		for _, file := range files {
			b, _ := os.ReadFile(file)
			if strings.Contains(string(b), "\nPARTNAME="+label+"\n") {
				node = "/dev/" + filepath.Base(filepath.Dir(file))
				_, err := os.Stat(node)
				return err == nil
			}
		}
		return false
	})
	return node, err
}

// await waits for what a new device node makes true.
func await(what string, there func() bool) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, "/dev", unix.IN_CREATE); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for end := time.Now().Add(30 * time.Second); ; {
		if there() {
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("%s does not appear", what)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return err
		}
		if _, err := unix.Read(fd, buf); err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
	}
}

// bringPrograms copies the tree on the second disk into the root file system,
// unless this very tree is there already.
func bringPrograms() error {
	if err := awaitDevice("/dev/vdb"); err != nil {
		return err
	}
	if err := mount("/dev/vdb", "ext4", "/programs", syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	want, err := os.ReadFile("/programs/.stamp")
	if err != nil {
		return err
	}
	stamp := sysroot + "/.programs"
	if have, _ := os.ReadFile(stamp); !bytes.Equal(have, want) {
		if err := copyTree("/programs", sysroot); err != nil {
			return err
		}
		syscall.Sync()
		if err := os.WriteFile(stamp, want, 0o644); err != nil {
			return err
		}
		syscall.Sync()
	}
	return syscall.Unmount("/programs", 0)
}

// mountFiles shows the tree on the second disk below /srv.
func mountFiles() error {
	if err := awaitDevice("/dev/vdb"); err != nil {
		return err
	}
	return mount("/dev/vdb", "ext4", sysroot+"/srv", syscall.MS_RDONLY, "")
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." || rel == ".stamp" || rel == "lost+found" {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			if err := os.Mkdir(target, info.Mode().Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, b, info.Mode().Perm()); err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode())
	})
}

// stay puts this program where it survives the change of the root.
func stay() error {
	b, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	if err := os.WriteFile(sysroot+runProgram, b, 0o755); err != nil {
		return err
	}
	wants := sysroot + runUnits + "/sysinit.target.wants"
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(sysroot+runUnits+"/lull-guest.service", []byte(unit), 0o644); err != nil {
		return err
	}
	return os.Symlink("../lull-guest.service", wants+"/lull-guest.service")
}

// mountCgroup makes a minimal machine's one hierarchy.
func mountCgroup(version string) error {
	if version == "2" {
		return mount("cgroup2", "cgroup2", "/sys/fs/cgroup", 0, "")
	}
	if err := mount("tmpfs", "tmpfs", "/sys/fs/cgroup", 0, "mode=0755"); err != nil {
		return err
	}
	return mount("cgroup", "cgroup", "/sys/fs/cgroup/freezer", 0, "freezer")
}

// reap serves in a child, because process 1 has to reap all orphans.
func reap() error {
	for _, m := range []struct{ fstype, target string }{{"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"}, {"tmpfs", "/tmp"}} {
		if err := mount(m.fstype, m.fstype, m.target, 0, ""); err != nil {
			return err
		}
	}
	cmd := exec.Command(runProgram, "serve")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if pid == cmd.Process.Pid {
			return fmt.Errorf("the server of the rig has ended: %v", status)
		}
	}
}
