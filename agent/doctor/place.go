package doctor

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/errkind"
	"golang.org/x/sys/unix"
)

// checkPlace checks the location of the store: whether programs can be executed there, and
// whether another user could replace it.
func (d *Doctor) checkPlace(add func(name, state, seen, advice string)) {
	const name = "place"
	real, err := filepath.EvalSymlinks(d.Root)
	if err != nil {
		add(name, Fail, err.Error(), errkind.Text("see that %s can be read", d.Root))
		return
	}
	seen := d.Root
	if real != filepath.Clean(d.Root) {
		seen = errkind.Text("%s, by a symbolic link %s", d.Root, real)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(real, &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		add(name, Fail, errkind.Text("%s is on a file system that is mounted noexec", seen), errkind.Text("mount it without noexec, or move the store: no application can start there"))
		return
	}
	if d.User {
		add(name, OK, seen, "")
		return
	}
	// Also by the path as given: the owner of a directory on the way can rename its entries.
	for _, path := range []string{real, d.Root} {
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			if why := othersCanChange(dir); why != "" {
				add(name, Warn, errkind.Text("%s is below %s, %s", seen, dir, why),
					errkind.Text("move the store to where only root can rename what is in it, as /var/lib/lull: that user can put other programs in its place"))
				return
			}
			if dir == "/" {
				break
			}
		}
	}
	add(name, OK, seen, "")
}

// othersCanChange returns which users other than root can rename the entries of a directory;
// "" means none.
func othersCanChange(dir string) string {
	fi, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	switch {
	case st.Uid != 0:
		return errkind.Text("which belongs to user %d", st.Uid)
	case fi.Mode().Perm()&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0:
		return errkind.Text("which everybody can write to")
	}
	return ""
}
