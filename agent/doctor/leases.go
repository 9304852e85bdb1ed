package doctor

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/vacancy"
)

// fuseAdvice concerns what the agent cannot detect: the directory behind a FUSE mount, and
// other machines that have it.
const fuseAdvice = "keep the store on a local file system (ext4, XFS, btrfs, tmpfs), or let no program run from it by another path"

// checkLeases tests whether the kernel can prove that a package is unused, by leases of files
// in the store and in the run directory.
const leasesAdvice = "the refreshes read /proc instead, which is slower, and can miss what starts outside of lull at that moment; " +
	"set fs.leases-enable to 1, and keep the store on a local file system (ext4, XFS, btrfs, tmpfs)"

func (d *Doctor) checkLeases(add func(name, state, seen, advice string)) {
	for _, dir := range []string{d.Runctl.Path(), filepath.Join(d.Root, "trash")} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := vacancy.Probe(dir); err != nil {
			if d.Writable() != nil {
				continue // the root is read-only, which is another check
			}
			add("vacancy", Warn, errkind.Text("degraded: %s", err.Error()), errkind.Text(leasesAdvice))
			return
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || dir == d.Runctl.Path() {
			continue
		}
		switch st.Type {
		case unix.OVERLAYFS_SUPER_MAGIC:
			add("vacancy", Warn, errkind.Text("degraded: %s is on an overlay, whose leases do not detect every use", d.Root), errkind.Text(leasesAdvice))
			return
		case unix.FUSE_SUPER_MAGIC:
			add("vacancy", Warn, errkind.Text("degraded: %s is on FUSE, whose leases detect only uses by this mount", d.Root), errkind.Text(fuseAdvice))
			return
		}
	}
	add("vacancy", OK, errkind.Text("proved by leases of the kernel"), "")
}
