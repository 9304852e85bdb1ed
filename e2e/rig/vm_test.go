package rig_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// TestMachineBoots checks that a whole machine with systemd boots on v1, with our service,
// and that its disk remembers what was flushed. e2e/machine does much more, on v2.
func TestMachineBoots(t *testing.T) {
	require.QEMU(t)
	require.NotShort(t)
	vm := rig.StartVM(t, rig.VMOptions{CgroupV1: true})
	vm.WaitBoot()
	r := vm.Login(time.Minute, []string{"HELLO=you"}, "sh", "-c", "echo $HELLO $(id -un); cat /proc/self/cgroup")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "you "+rig.Tester+"\n") || !strings.Contains(r.Stdout, "freezer") {
		t.Errorf("in the machine: got %v, want exit status 0, output that begins with %q and %q in the output", r, "you "+rig.Tester+"\n", "freezer")
	}
	if r := vm.Run("systemctl", "is-active", "lulld.service"); r.Code != 0 {
		t.Errorf("the agent does not run: %v\n%v", r, vm.Run("journalctl", "-u", "lulld", "--no-pager"))
	}
	// The kernel writes by itself only every five minutes.
	vm.Must("sh", "-c", "mount -o remount,commit=300 / && echo old > /root/a && sync && echo new > /root/a")
	vm.Cut(disk.LoseAll, rand.New(rand.NewPCG(1, 1)))
	vm.Boot()
	vm.WaitBoot()
	if r := vm.Must("cat", "/root/a"); r.Stdout != "old\n" {
		t.Errorf("after the power cut: got %v, want output %q", r, "old\n")
	}
	vm.Poweroff()
}

// TestMinimalMachine checks that a machine without systemd has its hierarchy,
// and a data disk.
func TestMinimalMachine(t *testing.T) {
	require.QEMU(t)
	require.Program(t, "mkfs.xfs", "mkfs.btrfs")
	require.NotShort(t)
	for _, c := range []struct {
		v1   bool
		data string
		want string
	}{{false, "", "cgroup2 "}, {true, "xfs", "/dev/vdc /var/lib/lull xfs"}, {false, "btrfs", "/dev/vdc /var/lib/lull btrfs"}, {true, "ext4", "freezer cgroup "}} {
		began := time.Now()
		vm := rig.StartVM(t, rig.VMOptions{CgroupV1: c.v1, Minimal: true, Data: c.data})
		t.Logf("it has booted %v after the start", time.Since(began))
		if r := vm.Must("cat", "/proc/mounts"); !strings.Contains(r.Stdout, c.want) {
			t.Errorf("no %q: %v", c.want, r)
		}
		if r := vm.Run("sh", "-c", "cat; echo bad >&2; exit 3"); r.Code != 3 || r.Stderr != "bad\n" {
			t.Errorf("got %v, want exit status 3 and error output %q", r, "bad\n")
		}
		vm.Cut(disk.KeepAll, nil)
	}
}
