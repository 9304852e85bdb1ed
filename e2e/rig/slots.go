package rig

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/lull/lull/e2e/rig/suite"
)

// Slots give a machine a disk with two root partitions, os-a and os-b, and the partitions
// boot and state. VM.TryBoot is its boot loader: on the partition boot, the file next names
// the slot (a or b) for this start alone and is removed, the file default names the slot for
// all other starts, and os-SLOT.conf is added to the kernel's command line, which has to have
// root=PARTLABEL=NAME. Such a machine sees VMOptions.Files below /srv, and nothing is copied
// into its root file system.
type Slots struct {
	A    string            // image of the root file system in os-a, see SlotImage
	Size int64             // of each slot, in bytes
	Boot map[string]string // the files on boot at first: name → text
}

// The other partitions' sizes, in bytes.
const (
	bootSize  = 8 << 20
	stateSize = 1 << 30
)

// slotSetup makes a root file system ($IMAGE, of $SIZE bytes) of the few files of a container's
// ($ROOTFS) that start systemd and the bus, of the files below $INSTALLED and those below $FILES.
const slotSetup = `set -e
mount -t tmpfs -o mode=0755 lull-slot /mnt
cd "$ROOTFS"
{
	for p in init sh dash bash env cat ls dd sync mv rm mkdir cp echo test true false grep sed sleep mount umount systemctl \
		journalctl udevadm dbus-daemon stat uname systemd-tmpfiles systemd-sysusers systemd-run blkid; do
		for dir in usr/bin usr/sbin; do test ! -e $dir/$p || echo $dir/$p; done
	done
	find etc usr/lib/systemd usr/lib/tmpfiles.d usr/lib/sysusers.d usr/lib/udev/rules.d usr/share/dbus-1 usr/lib/x86_64-linux-gnu/systemd \
		usr/lib/x86_64-linux-gnu/libkmod.so* usr/lib/x86_64-linux-gnu/libnss_* usr/lib/udev/*_id usr/lib/os-release -type f -o -type l
} > /mnt/list
for p in $(cat /mnt/list); do test ! -x $p || echo /$p; done > /mnt/programs
chroot . ldd $(cat /mnt/programs) 2>/dev/null | sed -n 's/^\t\(.* => \)\?\/\([^ ]*\) (0x.*/\2/p' | sort -u > /mnt/libraries
mkdir -p /mnt/root/usr
for dir in bin sbin lib lib64; do cp -a $dir /mnt/root/; mkdir -p /mnt/root/usr/$dir; done
sed 's/^lib/usr\/lib/' /mnt/libraries | while read -r p; do echo $p; readlink -f $p; done | sed "s,^$ROOTFS/,," | sort -u >> /mnt/list
tar -c -T /mnt/list | tar -x -C /mnt/root
cd /mnt/root
mkdir -p boot dev proc run srv sys tmp root home mnt var/lib/lull var/log/journal var/tmp
chmod 1777 tmp var/tmp
rm -f etc/systemd/system/systemd-udevd.service etc/fstab
printf 'PARTLABEL=%s %s ext4 defaults 0 0\n' boot /boot state /var/lib/lull > etc/fstab
echo machine > etc/hostname
echo 0123456789abcdef0123456789abcdef > etc/machine-id
for unit in getty.target console-getty.service kmod-static-nodes.service systemd-modules-load.service systemd-logind.service ldconfig.service systemd-hwdb-update.service \
	proc-sys-fs-binfmt_misc.automount dpkg-db-backup.timer apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
	ln -sf /dev/null etc/systemd/system/$unit
done
cp -a --no-preserve=ownership "$INSTALLED/." "$FILES/." .
for unit in usr/lib/systemd/system/lull*.service; do systemctl --root="$PWD" enable --quiet ${unit##*/}; done
systemctl --root="$PWD" add-requires --quiet boot-complete.target lulld.service
truncate -s "$SIZE" "$IMAGE"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d . "$IMAGE"
`

// SlotImage writes the image of a root file system for a machine with Slots: systemd, the bus,
// lull, whose agent has to start well, and files, path → text.
func SlotImage(tb TB, to string, size int64, files map[string]string) {
	tb.Helper()
	tree, err := os.MkdirTemp("", "lull-slot-")
	if err != nil {
		tb.Fatalf("cannot make an image: %v", err)
	}
	defer os.RemoveAll(tree)
	for path, text := range files {
		path = filepath.Join(tree, path)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	}
	if err == nil {
		cmd := exec.Command("unshare", "--mount", "--propagation=private", "--", "sh", "-c", slotSetup)
		cmd.Env = append(os.Environ(), "ROOTFS="+Rootfs(tb, suite.For(true), suite.Base), "INSTALLED="+Installed(tb, ""), "FILES="+tree,
			"IMAGE="+to, fmt.Sprintf("SIZE=%d", size))
		err = must(tb, 5*time.Minute, cmd)
	}
	if err != nil {
		tb.Fatalf("cannot make an image: %v", err)
	}
}

// partition is a part of a disk, with the content of a file, if there is one.
type partition struct {
	name, from string
	size       int64 // bytes, a multiple of alignment
}

// alignment is where partitions begin, in bytes.
const alignment = 1 << 20

// slotDisk makes the disk. The first partition, boot, begins at alignment.
func (vm *VM) slotDisk(s *Slots) error {
	boot := vm.path("boot")
	err := os.Mkdir(boot, 0o755)
	for name, text := range s.Boot {
		if err == nil {
			err = os.WriteFile(filepath.Join(boot, name), []byte(text), 0o644)
		}
	}
	if err == nil {
		err = vm.mkfs("boot.img", bootSize, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", boot)
	}
	if err == nil {
		err = vm.mkfs("state.img", stateSize, "mkfs.ext4", "-q", "-F")
	}
	if err != nil {
		return err
	}
	return writeDisk(vm.path("slots.img"), []partition{
		{"boot", vm.path("boot.img"), bootSize}, {"os-a", s.A, s.Size}, {"os-b", "", s.Size}, {"state", vm.path("state.img"), stateSize},
	})
}

// writeDisk writes a disk with a GUID partition table (UEFI specification, chapter 5), without
// the second table at its end.
func writeDisk(to string, parts []partition) error {
	const sector, entries, entrySize = 512, 128, 128
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	le := binary.LittleEndian
	table := make([]byte, entries*entrySize)
	at := int64(alignment)
	for i, p := range parts {
		e := table[i*entrySize:]
		copy(e, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4") // data of Linux
		copy(e[16:], fmt.Sprintf("lull partition %d", i))
		le.PutUint64(e[32:], uint64(at/sector))
		le.PutUint64(e[40:], uint64((at+p.size)/sector-1))
		for j, unit := range utf16.Encode([]rune(p.name)) {
			le.PutUint16(e[56+2*j:], unit)
		}
		if p.from != "" {
			if err := copyAt(f, at, p.from); err != nil {
				return err
			}
		}
		at += p.size
	}
	size := at + alignment
	if err := f.Truncate(size); err != nil {
		return err
	}
	header := make([]byte, 2*sector)
	copy(header[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00") // all of the disk is a GPT's
	le.PutUint32(header[446+12:], uint32(size/sector-1))
	copy(header[510:], "\x55\xaa")
	gpt := header[sector:]
	copy(gpt, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le.PutUint64(gpt[24:], 1)
	le.PutUint64(gpt[32:], uint64(size/sector-1))
	le.PutUint64(gpt[40:], alignment/sector)
	le.PutUint64(gpt[48:], uint64(at/sector-1))
	copy(gpt[56:], "lull test disk..")
	le.PutUint64(gpt[72:], 2)
	le.PutUint32(gpt[80:], entries)
	le.PutUint32(gpt[84:], entrySize)
	le.PutUint32(gpt[88:], crc32.ChecksumIEEE(table))
	le.PutUint32(gpt[16:], crc32.ChecksumIEEE(gpt[:92]))
	if _, err := f.WriteAt(append(header, table...), 0); err != nil {
		return err
	}
	return f.Close()
}

// copyAt copies a file without its zeros.
func copyAt(to *os.File, at int64, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
}

// loader is the boot loader of Slots. It returns what it adds to the kernel's command line.
func (vm *VM) loader() (string, error) {
	d, image := vm.disks[0].Disk, vm.path("boot.img")
	content := make([]byte, bootSize)
	if _, err := d.ReadAt(content, alignment); err != nil {
		return "", err
	}
	if err := os.WriteFile(image, content, 0o600); err != nil {
		return "", err
	}
	debugfs := func(args ...string) (string, error) {
		cmd := exec.Command("debugfs", append(args, image)...)
		if cmd.Err != nil {
			cmd = exec.Command("/usr/sbin/debugfs", append(args, image)...)
		}
		out, err := cmd.Output() // of a missing file there is none
		return strings.TrimSpace(string(out)), err
	}
	slot, err := debugfs("-R", "cat /next")
	if err == nil && slot == "" {
		slot, err = debugfs("-R", "cat /default")
	} else if err == nil {
		_, err = debugfs("-w", "-R", "rm /next")
		if err == nil {
			content, err = os.ReadFile(image)
		}
		if err == nil {
			err = d.Change(content, alignment)
		}
	}
	if err != nil {
		return "", fmt.Errorf("the boot loader: %w", err)
	}
	options, err := debugfs("-R", "cat /os-"+slot+".conf")
	if err == nil && !strings.Contains(options, "root=") {
		err = fmt.Errorf("the boot loader has no root for slot %q: %q", slot, options)
	}
	return options, err
}
