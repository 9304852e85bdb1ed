package rig

import (
	"cmp"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/rig/disk"
	"github.com/lull/lull/e2e/rig/suite"
)

// Within these a machine has to do things; emulation on a busy host is slow.
const (
	bootLimit = 6 * time.Minute
	vmLimit   = 8 * time.Minute
)

// VMOptions choose what a machine is like.
type VMOptions struct {
	Suite    suite.Suite // default: suite.Default, or with CgroupV1 the last suite that has it
	Set      suite.Set   // what it has beyond the base; default: suite.Base
	CgroupV1 bool        // the machine has cgroup v1 hierarchies only, else v2 only
	Minimal  bool        // process 1 is a program of the rig that only mounts and runs commands, else it is systemd
	Tags     string      // build tags of lull's binaries
	Bare     bool        // nothing of lull is there: a package will be installed

	// Files are copied into the machine before its system starts, besides the
	// files that `make install` installs, if it is not bare: paths in it →
	// files or directories here.
	Files map[string]string
	// Data is the file system of a disk of its own for /var/lib/lull: ext4, xfs,
	// btrfs. Without it, that directory is on the root file system, which is ext4.
	Data     string
	DataSize int64  // bytes; default 512 MiB
	Slots    *Slots // a disk with two root partitions, instead of the suite's image
	Memory   int    // MiB; default 512, or 1024 with systemd
	CPUs     int    // default 1; more take turns, see arguments
}

// VM is a whole machine, emulated by QEMU. Its disks last as long as it does,
// through boots and power cuts.
type VM struct {
	tb     TB
	opts   VMOptions
	dir    string
	img    machineImage
	disks  []*vmDisk
	listen *net.UnixListener
	boots  int

	proc *Proc
	life life // of proc
	link *vmLink
}

// life is a TB for one process of many: only what the last one needs is cleaned
// up at the end.
type life struct {
	TB
	end func()
}

func (l *life) Cleanup(f func()) { l.end = f }

type vmDisk struct {
	*disk.Disk
	server *disk.Server
	socket string
}

// StartVM makes a machine and switches it on. It returns as soon as the machine
// runs commands, which with systemd is early in its boot: WaitBoot waits for the
// rest.
func StartVM(tb TB, opts VMOptions) *VM {
	tb.Helper()
	setDefaults(&opts)
	dir, err := os.MkdirTemp("", "lull-vm-")
	if err == nil {
		built.Lock()
		err = removeWithUs(dir)
		built.Unlock()
	}
	if err != nil {
		tb.Fatalf("cannot make a machine: %v", err)
	}
	vm := &VM{tb: tb, opts: opts, dir: dir, img: image(tb, opts.Suite, opts.Set), life: life{TB: tb}}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	GoBuild(tb, "./e2e/rig/guest", vm.path("guest"), nil)
	err = writeInitrd(vm.path("initrd"), vm.path("guest"), vm.img.modules())
	if err == nil {
		vm.listen, err = net.ListenUnix("unix", &net.UnixAddr{Name: vm.path("link"), Net: "unix"})
	}
	if err != nil {
		tb.Fatalf("cannot make a machine: %v", err)
	}
	tb.Cleanup(func() { vm.listen.Close() })
	vm.programs()
	root := vm.img.root()
	if opts.Slots != nil {
		root = vm.path("slots.img")
		if err := vm.slotDisk(opts.Slots); err != nil {
			tb.Fatalf("cannot make a disk: %v", err)
		}
	}
	vm.addDisk("root", root, 0)
	if opts.Data != "" {
		vm.format(opts.Data, opts.DataSize)
		vm.addDisk("data", vm.path("data.img"), 0)
	}
	tb.Cleanup(func() {
		if vm.life.end != nil {
			vm.life.end()
		}
	})
	vm.Boot()
	return vm
}

func setDefaults(o *VMOptions) {
	def := func(p *int, minimal, full int) {
		if *p == 0 && o.Minimal {
			*p = minimal
		} else if *p == 0 {
			*p = full
		}
	}
	o.Suite = cmp.Or(o.Suite, suite.For(!o.CgroupV1))
	if o.Set.Name == "" {
		o.Set = suite.Base
	}
	def(&o.Memory, 512, 1024)
	o.CPUs = cmp.Or(o.CPUs, 1)
	if o.DataSize == 0 {
		o.DataSize = 512 << 20
	}
}

func (vm *VM) path(name string) string { return filepath.Join(vm.dir, name) }

// programs makes the disk with the programs under test.
func (vm *VM) programs() {
	vm.tb.Helper()
	tree := vm.path("tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		vm.tb.Fatalf("cannot make a machine: %v", err)
	}
	var err error
	if !vm.opts.Bare && vm.opts.Slots == nil {
		err = install(vm.tb, tree, vm.opts.Tags)
	}
	units, _ := filepath.Glob(filepath.Join(tree, "usr/lib/systemd/system/*.service"))
	for _, unit := range units {
		if err == nil {
			err = must(vm.tb, time.Minute, exec.Command("systemctl", "--root="+tree, "enable", "--quiet", filepath.Base(unit)))
		}
	}
	for to, from := range vm.opts.Files {
		to = filepath.Join(tree, to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = must(vm.tb, time.Minute, exec.Command("cp", "-a", "--no-preserve=ownership", "--no-target-directory", from, to))
		}
	}
	size := int64(8 << 20)
	if err == nil {
		err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
			if err == nil {
				var st fs.FileInfo
				if st, err = d.Info(); err == nil {
					size += st.Size()*17/16 + 8<<10
				}
			}
			return err
		})
	}
	if err == nil {
		stamp := fmt.Sprintf("%016x\n", rand.Uint64())
		err = os.WriteFile(filepath.Join(tree, ".stamp"), []byte(stamp), 0o644)
	}
	if err == nil {
		err = vm.mkfs("programs.img", size, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", tree)
	}
	if err != nil {
		vm.tb.Fatalf("cannot bring programs into a machine: %v", err)
	}
	os.RemoveAll(tree)
}

// format makes an empty data disk.
func (vm *VM) format(fstype string, size int64) {
	vm.tb.Helper()
	force := map[string][]string{"ext4": {"-q", "-F"}, "xfs": {"-q", "-f"}, "btrfs": {"-q", "-f"}}[fstype]
	if err := vm.mkfs("data.img", size, "mkfs."+fstype, force...); err != nil {
		vm.tb.Fatalf("cannot make a data disk: %v", err)
	}
}

func (vm *VM) mkfs(name string, size int64, program string, args ...string) error {
	f, err := os.Create(vm.path(name))
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		return err
	}
	cmd := exec.Command(program, append(args, vm.path(name))...)
	if cmd.Err != nil {
		cmd = exec.Command("/usr/sbin/"+program, append(args, vm.path(name))...)
	}
	return must(vm.tb, 2*time.Minute, cmd)
}

func (vm *VM) addDisk(name, base string, size int64) {
	vm.tb.Helper()
	d, err := disk.Open(base, size)
	if err != nil {
		vm.tb.Fatalf("cannot make a disk: %v", err)
	}
	v := &vmDisk{Disk: d, socket: vm.path(name + ".nbd")}
	if v.server, err = disk.Serve(d, v.socket); err != nil {
		vm.tb.Fatalf("cannot serve a disk: %v", err)
	}
	vm.tb.Cleanup(func() {
		v.server.Close()
		d.Close()
	})
	vm.disks = append(vm.disks, v)
}

// Disk is the disk with /var/lib/lull.
func (vm *VM) Disk() *disk.Disk { return vm.disks[len(vm.disks)-1].Disk }

// Boot switches a machine on that is off, and returns when it runs commands.
func (vm *VM) Boot() {
	vm.tb.Helper()
	if err := vm.TryBoot(); err != nil {
		vm.tb.Fatalf("%v", err)
	}
}

// TryBoot is Boot that returns an error if the machine does not boot.
func (vm *VM) TryBoot() error {
	vm.tb.Helper()
	if vm.proc != nil && !vm.proc.Ended() {
		return fmt.Errorf("the machine is on")
	}
	options := ""
	if vm.opts.Slots != nil {
		var err error
		if options, err = vm.loader(); err != nil {
			return err
		}
	}
	vm.boots++
	vm.proc = start(&vm.life, vm.dir, "qemu", exec.Command("qemu-system-x86_64", vm.arguments(options)...))
	link, err := vm.accept()
	if err != nil {
		return fmt.Errorf("the machine does not boot: %w; its console:\n%s%s", err, lastWords(vm.Console()), tail(vm.proc.Log(), 10))
	}
	vm.link = link
	return nil
}

// arguments starts QEMU with all CPUs of the machine in one thread. Emulation
// with a thread for each CPU of a machine, which is QEMU's default, loses code
// that the kernel patches: one CPU replaces an int3 by the final instruction
// while another translates the page, and the stale int3 is executed after the
// kernel has forgotten it ("Oops: int3", then "Fatal exception in interrupt").
// QEMU 7.2, that of Debian 12, does so on a busy host in some boots of a hundred.
//
// The CPUs have no CMPXCHG16B, which the kernel uses to take memory from its caches.
// QEMU before 8.0 computes the flags of that instruction from a stale state when it
// follows arithmetic, so that an interrupt right after it saves part of a pointer as
// the flags, and the return from the interrupt is a general protection fault
// ("Oops" in kmem_cache_alloc with EFLAGS 04fa7242). Without it the kernel takes a lock.
func (vm *VM) arguments(options string) []string {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-machine", "q35,hpet=off", "-accel", "tcg,thread=single", "-cpu", "qemu64,+rdrand,-cx16", "-m", strconv.Itoa(vm.opts.Memory), "-smp", strconv.Itoa(vm.opts.CPUs),
		"-kernel", vm.img.kernel(), "-initrd", vm.path("initrd"), "-append", strings.TrimSpace(vm.kernelOptions() + " " + options),
		"-serial", "file:" + vm.console(), "-qmp", "unix:" + vm.path("qmp") + ",server=on,wait=off",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=link,path=" + vm.path("link"), "-device", "virtserialport,chardev=link,name=" + vmPort,
	}
	block := func(name, backend, more string) {
		args = append(args, "-blockdev", backend+",node-name="+name+more, "-device", "virtio-blk-pci,physical_block_size=4096,serial="+name+",drive="+name)
	}
	nbd := func(name string, d *vmDisk) { block(name, "driver=nbd,server.type=unix,server.path="+d.socket, "") }
	nbd("root", vm.disks[0])
	block("programs", "driver=file,filename="+vm.path("programs.img"), ",read-only=on")
	if vm.opts.Data != "" {
		nbd("data", vm.disks[1])
	}
	return args
}

func (vm *VM) kernelOptions() string {
	options := []string{"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "rw", "nokaslr", "mitigations=off", "tsc=reliable", "no_timer_check"}
	version := "2"
	if vm.opts.CgroupV1 {
		version = "1"
		options = append(options, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
	}
	if vm.opts.Minimal {
		options = append(options, "lull.minimal", "lull.cgroup="+version)
	}
	if vm.opts.Data != "" {
		options = append(options, "lull.data="+vm.opts.Data)
	}
	return strings.Join(options, " ")
}

func (vm *VM) console() string { return vm.path(fmt.Sprintf("console-%d", vm.boots)) }

// lastWords returns the part of a console that explains the end of a machine: all
// from the kernel's first complaint, or the last 40 lines.
func lastWords(console string) string {
	if at := crash.FindStringIndex(console); at != nil {
		return console[at[0]:]
	}
	return tail(console, 40)
}

// crash matches the error of the rig's own process 1, and the first line of the kernel's
// report of an oops, a failed check or a panic.
var crash = regexp.MustCompile(`(?m)^.*(?:guest: |Oops: |BUG: |kernel BUG at |general protection fault|Kernel panic - ).*$`)

// Console is what the machine has printed since it was last switched on.
func (vm *VM) Console() string {
	b, _ := os.ReadFile(vm.console())
	return string(b)
}

// WaitBoot waits until systemd has started everything, and that nothing
// failed. A failing hook is the business of its refresh, and its unit is gone
// in a moment.
func (vm *VM) WaitBoot() {
	vm.tb.Helper()
	if vm.opts.Minimal {
		return
	}
	waitBoot(vm.tb, vm.RunWithin(bootLimit, "systemctl", "is-system-running", "--wait"), vm.Run)
}

// waitBoot checks how a boot has ended, where run runs a command.
func waitBoot(tb TB, state Result, run func(argv ...string) Result) {
	tb.Helper()
	switch strings.TrimSpace(state.Stdout) {
	case "running":
		return
	case "degraded":
		failed := strings.TrimSpace(run("systemctl", "list-units", "--failed", "--plain", "--no-legend").Stdout)
		if !slices.ContainsFunc(strings.Split(failed, "\n"), func(l string) bool { return l != "" && !strings.HasPrefix(l, "lull_hook-") }) {
			return
		}
	}
	tb.Fatalf("it has booted with failures: %s\n%s%s", state.Text(),
		run("sh", "-c", "systemctl list-units --failed --plain --no-legend | while read -r unit rest; do journalctl -b --no-pager -n 20 -u $unit; done").Stdout,
		run("journalctl", "-b", "-p", "warning", "--no-pager", "-n", "40").Stdout)
}

// Cut cuts the power: data that the machine's kernel has not written is gone,
// and unflushed writes of the disks meet their fate. It returns the number of
// these for the disk with /var/lib/lull.
func (vm *VM) Cut(fate disk.Fate, rng *rand.Rand) (pending int) {
	for _, d := range vm.disks {
		d.PowerOff() // requests under way do not count
	}
	vm.proc.Kill()
	return vm.afterwards(fate, rng)
}

func (vm *VM) afterwards(fate disk.Fate, rng *rand.Rand) (pending int) {
	if vm.link != nil {
		vm.link.close()
	}
	for _, d := range vm.disks {
		pending = d.PowerOn(fate, rng)
	}
	return pending
}

// WaitExit waits until the machine has powered itself off, or wants to reboot,
// which is the same here: Boot switches it on.
func (vm *VM) WaitExit(limit time.Duration) error {
	if _, err := vm.proc.Wait(vm.tb.Context(), limit); err != nil {
		return fmt.Errorf("the machine is still on: %w; its console:\n%s", err, lastWords(vm.Console()))
	}
	vm.afterwards(disk.KeepAll, nil)
	return nil
}

// Poweroff shuts the machine down in peace.
func (vm *VM) Poweroff() {
	vm.tb.Helper()
	if vm.opts.Minimal {
		vm.Run("sync")
		vm.Start("sh", "-c", "echo o > /proc/sysrq-trigger")
	} else {
		vm.Start("systemctl", "poweroff")
	}
	if err := vm.WaitExit(bootLimit); err != nil {
		vm.tb.Fatalf("%v", err)
	}
}

// Stopped reports whether the machine is off.
func (vm *VM) Stopped() bool { return vm.proc.Ended() }

// Pause stops the emulation, and Resume lets it go on: the machine sees a clock
// that jumps.
func (vm *VM) Pause() { vm.proc.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (vm *VM) Resume() { vm.proc.Signal(syscall.SIGCONT) }
