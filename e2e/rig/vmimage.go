package rig

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// kernelPackage is Debian's kernel for virtual machines; it names the current
// one among those it depends on.
const kernelPackage = "linux-image-cloud-amd64"

// machineModules are the drivers that a machine needs before it has a root file
// system; the file systems are for data disks.
var machineModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "xfs", "btrfs"}

// machineSetup makes a machine's root file system ($IMAGE) of a container's
// ($ROOTFS), which it leaves alone, and of the modules of a kernel ($KERNEL).
const machineSetup = `set -e
mount -t tmpfs -o mode=0755 lull-image /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$ROOTFS",upperdir=/mnt/upper,workdir=/mnt/work lull-image /mnt/root
cd /mnt/root
rm -f etc/systemd/system/systemd-udevd.service etc/fstab
echo machine > etc/hostname
echo 0123456789abcdef0123456789abcdef > etc/machine-id
for unit in kmod-static-nodes.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
	ln -sf /dev/null etc/systemd/system/$unit
done
mkdir -p var/log/journal var/lib/lull
cp -a "$KERNEL/lib/modules" usr/lib/
depmod -b "$PWD" "$(ls usr/lib/modules)"
truncate -s 1500M "$IMAGE"
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d . "$IMAGE"
`

// machineImage is what all machines start from; they only read it.
type machineImage struct {
	dir string
}

func (m machineImage) kernel() string  { return filepath.Join(m.dir, "vmlinuz") }
func (m machineImage) root() string    { return filepath.Join(m.dir, "root.img") }
func (m machineImage) modules() string { return filepath.Join(m.dir, "modules") }

// image returns the machine image, which is made once and kept in the cache
// folder of whoever runs the tests.
func image(tb TB) machineImage {
	tb.Helper()
	rootfs := Rootfs(tb)
	sum := sha256.Sum256([]byte(filepath.Base(rootfs) + kernelPackage + strings.Join(machineModules, ".list ") + machineSetup))
	dir := filepath.Join(filepath.Dir(rootfs), "machine-"+hex.EncodeToString(sum[:6]))
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		tb.Fatalf("cannot keep a machine image: %v", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		tb.Fatalf("cannot lock %s: %v", dir, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return machineImage{dir}
	}
	partial := dir + ".partial"
	os.RemoveAll(partial)
	tb.Logf("making a machine image, once, in %s", dir)
	if err := makeImage(tb, machineImage{partial}, rootfs); err != nil {
		os.RemoveAll(partial)
		tb.Fatalf("cannot make a machine image: %v", err)
	}
	if err := os.Rename(partial, dir); err != nil {
		tb.Fatalf("cannot keep a machine image: %v", err)
	}
	return machineImage{dir}
}

func makeImage(tb TB, m machineImage, rootfs string) error {
	unpacked := filepath.Join(m.dir, "unpacked")
	defer os.RemoveAll(unpacked)
	if err := os.MkdirAll(m.modules(), 0o755); err != nil {
		return err
	}
	if err := fetchKernel(tb, unpacked); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(unpacked, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("the kernel's package has these kernels: %q", found)
	}
	if err := copyFile(found[0], m.kernel()); err != nil {
		return err
	}
	if err := pickModules(filepath.Join(unpacked, "lib/modules"), m.modules()); err != nil {
		return err
	}
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "--", "sh", "-c", machineSetup)
	cmd.Env = append(os.Environ(), "ROOTFS="+rootfs, "KERNEL="+unpacked, "IMAGE="+m.root(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return must(tb, 5*time.Minute, cmd)
}

// must runs a command that has to succeed.
func must(tb TB, limit time.Duration, cmd *exec.Cmd) error {
	r, err := run(tb.Context(), limit, cmd)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s has failed with status %d", r.Args[0], r.Code)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(r.Text(), 20))
	}
	return nil
}

// fetchKernel downloads the current kernel and unpacks it into dir.
func fetchKernel(tb TB, dir string) error {
	depends := func() (string, error) {
		r, err := run(tb.Context(), time.Minute, exec.Command("apt-cache", "depends", kernelPackage))
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(r.Stdout) {
			if _, name, ok := strings.Cut(line, "Depends: linux-image-"); ok {
				return "linux-image-" + strings.TrimSpace(name), nil
			}
		}
		return "", fmt.Errorf("apt knows no %s\n%s", kernelPackage, tail(r.Text(), 20))
	}
	name, err := depends()
	if err != nil {
		if err := must(tb, 5*time.Minute, exec.Command("apt-get", "update", "-qq")); err != nil {
			return err
		}
		if name, err = depends(); err != nil {
			return err
		}
	}
	download := exec.Command("apt-get", "download", "-qq", name)
	download.Dir = filepath.Dir(dir)
	if err := must(tb, 10*time.Minute, download); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download has left %q", debs)
	}
	defer os.Remove(debs[0])
	return must(tb, 5*time.Minute, exec.Command("dpkg", "-x", debs[0], dir))
}

// pickModules copies the modules that a machine needs at first. For each of
// machineModules, NAME.list has what to load for it, in order.
func pickModules(from, to string) error {
	files := map[string]string{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); err == nil && ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	var order []string
	copied := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if slices.Contains(order, name+".ko") {
			return nil
		}
		path := files[name]
		if path == "" {
			return fmt.Errorf("this kernel has no module %s", name)
		}
		info, err := moduleInfo(path)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", path, err)
		}
		// What a module asks for softly it wants loaded before it, if it is there.
		for _, soft := range strings.Fields(strings.ReplaceAll(info["softdep"], "pre:", "")) {
			if files[strings.ReplaceAll(soft, "-", "_")] != "" {
				if err := add(soft); err != nil {
					return err
				}
			}
		}
		for _, dep := range strings.FieldsFunc(info["depends"], func(r rune) bool { return r == ',' }) {
			if err := add(dep); err != nil {
				return err
			}
		}
		order = append(order, name+".ko")
		if copied[name] {
			return nil
		}
		copied[name] = true
		return copyFile(path, filepath.Join(to, name+".ko"))
	}
	for _, name := range machineModules {
		order = nil
		if err := add(name); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name+".list"), []byte(strings.Join(order, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// moduleInfo reads what modinfo(8) shows.
func moduleInfo(path string) (map[string]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("not a module")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for _, item := range bytes.Split(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(item), "="); ok {
			info[k] = strings.TrimSpace(info[k] + " " + v)
		}
	}
	return info, nil
}

// writeInitrd writes the first root file system of a machine: a cpio archive
// ("newc", see the kernel's buffer-format.rst) with our program and the modules.
func writeInitrd(to, program, modules string) error {
	var b bytes.Buffer
	count := 0
	add := func(name string, mode uint32, data []byte) {
		count++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.Write(data)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	add("init", syscall.S_IFREG|0o755, init)
	for _, dir := range []string{"dev", "modules", "proc", "programs", "sys", "sysroot"} {
		add(dir, syscall.S_IFDIR|0o755, nil)
	}
	entries, err := os.ReadDir(modules)
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(modules, e.Name()))
		if err != nil {
			return err
		}
		add("modules/"+e.Name(), syscall.S_IFREG|0o644, data)
	}
	add("TRAILER!!!", 0, nil)
	return os.WriteFile(to, b.Bytes(), 0o644)
}
