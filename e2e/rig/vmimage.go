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

	"github.com/lull/lull/e2e/rig/suite"
)

// kernelPackage is a suite's kernel for virtual machines; it depends on the
// current one, whose name has a version.
const kernelPackage, kernelPrefix = "linux-image-cloud-amd64", "linux-image-"

// machineModules are the drivers that a machine needs before it has a root file
// system. Of the file systems, overlay is for a machine without systemd, whose
// programs load no modules, and the others are for data disks.
var machineModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "xfs", "btrfs", "overlay"}

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
for dir in "$KERNEL/lib/modules" "$KERNEL/usr/lib/modules"; do test ! -d "$dir" || cp -a "$dir" usr/lib/; done
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

// Image makes the machine image of a suite if it is missing, and the root that it is
// made of.
func Image(tb TB, s suite.Suite) {
	tb.Helper()
	image(tb, s, suite.Base)
}

// image returns the machine image of a suite and a set of packages, which is made once and
// kept.
func image(tb TB, s suite.Suite, set suite.Set) machineImage {
	tb.Helper()
	rootfs := Rootfs(tb, s, set)
	sum := sha256.Sum256([]byte(filepath.Base(rootfs) + kernelPackage + strings.Join(machineModules, ".list ") + machineSetup))
	dir, err := suite.Keep(tb.Context(), tb.Logf, fmt.Sprintf("machine-%s-%s", s, hex.EncodeToString(sum[:6])), func(dir string) error {
		return makeImage(tb, s, machineImage{dir}, rootfs)
	})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return machineImage{dir}
}

func makeImage(tb TB, s suite.Suite, m machineImage, rootfs string) error {
	unpacked := filepath.Join(m.dir, "unpacked")
	defer os.RemoveAll(unpacked)
	if err := os.MkdirAll(m.modules(), 0o755); err != nil {
		return err
	}
	if _, err := s.Package(tb.Context(), unpacked, "amd64", kernelPackage, kernelPrefix); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(unpacked, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("the kernel's package has these kernels: %q", found)
	}
	if err := copyFile(found[0], m.kernel()); err != nil {
		return err
	}
	if err := pickModules(unpacked, m.modules()); err != nil {
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

// moduleEnds are the ends of modules' names; those of later suites are compressed.
var moduleEnds = []string{".ko", ".ko.xz"}

// pickModules copies the modules that a machine needs at first, uncompressed. For
// each of machineModules that is not built in, NAME.list has what to load for
// it, in order.
func pickModules(from, to string) error {
	files := map[string]string{} // by name; empty if built in
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, end := range moduleEnds {
			if name, ok := strings.CutSuffix(d.Name(), end); ok {
				files[strings.ReplaceAll(name, "-", "_")] = path
			}
		}
		if d.Name() == "modules.builtin" {
			b, err := os.ReadFile(path)
			for line := range strings.Lines(string(b)) {
				name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
				files[strings.ReplaceAll(name, "-", "_")] = ""
			}
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	var order []string
	copied := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("this kernel has no module %s", name)
		}
		if path == "" || slices.Contains(order, name+".ko") {
			return nil
		}
		file := filepath.Join(to, name+".ko")
		if !copied[name] {
			if err := copyModule(path, file); err != nil {
				return err
			}
			copied[name] = true
		}
		info, err := moduleInfo(file)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", path, err)
		}
		// Soft dependencies of a module are loaded before it, if they exist.
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
		return nil
	}
	for _, name := range machineModules {
		order = nil
		if err := add(name); err != nil {
			return err
		}
		if len(order) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(to, name+".list"), []byte(strings.Join(order, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyModule copies a module, which may be compressed.
func copyModule(from, to string) error {
	if !strings.HasSuffix(from, ".xz") {
		return copyFile(from, to)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("xz", "--decompress", "--stdout", from)
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot decompress %s: %w", from, err)
	}
	return out.Close()
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
