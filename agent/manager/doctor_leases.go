package manager

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/vacancy"
)

// fuseAdvice concerns what the agent cannot detect: the directory behind a FUSE mount, and
// other machines that have it.
const fuseAdvice = "keep the store on a local file system (ext4, XFS, btrfs, tmpfs), or let no program run from it by another path"

// checkLeases tests whether the kernel can prove that a package is unused, by leases of files
// in the store and in the run directory.
func (m *Manager) checkLeases(add func(name, state, seen, advice string)) {
	const advice = "the refreshes read /proc instead, which is slower, and can miss what starts outside of lull at that moment; " +
		"set fs.leases-enable to 1, and keep the store on a local file system (ext4, XFS, btrfs, tmpfs)"
	for _, dir := range []string{m.Runctl.Path(), filepath.Join(m.Root, "trash")} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := vacancy.Probe(dir); err != nil {
			if m.writable() != nil {
				continue // the root is read-only, which is another check
			}
			add("vacancy", checkWarn, "degraded: "+err.Error(), advice)
			return
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || dir == m.Runctl.Path() {
			continue
		}
		switch st.Type {
		case unix.OVERLAYFS_SUPER_MAGIC:
			add("vacancy", checkWarn, "degraded: "+m.Root+" is on an overlay, whose leases do not detect every use", advice)
			return
		case unix.FUSE_SUPER_MAGIC:
			add("vacancy", checkWarn, "degraded: "+m.Root+" is on FUSE, whose leases detect only uses by this mount", fuseAdvice)
			return
		}
	}
	add("vacancy", checkOK, "proved by leases of the kernel", "")
}
