package doctor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// checkPlace checks the location of the store: whether programs can be executed there, and
// whether another user could replace it.
func (d *Doctor) checkPlace(add func(name, state, seen, advice string)) {
	const name = "place"
	real, err := filepath.EvalSymlinks(d.Root)
	if err != nil {
		add(name, Fail, err.Error(), "see that "+d.Root+" can be read")
		return
	}
	seen := d.Root
	if real != filepath.Clean(d.Root) {
		seen = fmt.Sprintf("%s, by a symbolic link %s", d.Root, real)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(real, &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		add(name, Fail, seen+" is on a file system that is mounted noexec", "mount it without noexec, or move the store: no application can start there")
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
				add(name, Warn, fmt.Sprintf("%s is below %s, %s", seen, dir, why),
					"move the store to where only root can rename what is in it, as /var/lib/lull: that user can put other programs in its place")
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
		return fmt.Sprintf("which belongs to user %d", st.Uid)
	case fi.Mode().Perm()&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0:
		return "which everybody can write to"
	}
	return ""
}
