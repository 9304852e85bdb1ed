package runctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
)

// TetherFD is the descriptor number at which an application has its tether. It is
// above what programs and shells use by number, and always the same, so that one look
// at each process finds who has it. It is below 64, which a process's table of
// descriptors has room for from the beginning: a larger table makes the launcher wait for
// an RCU grace period, some milliseconds, because it has several threads (the kernel's
// fs/file.c, expand_fdtable), and makes every fork of the application copy more.
const TetherFD = 60

// ErrSealed is returned by OpenTether while the agent keeps launches of the package
// out by a lease (fcntl(2), F_SETLEASE).
var ErrSealed = errors.New("the package is sealed")

// Tether is a tether file.
type Tether struct {
	Instance string
	Prefix   string // the first 16 digits of the package hash
	Dev, Ino uint64
}

// TetherPath returns the path of the file that every process of an application has
// open; prefix is the first 16 digits of the package hash.
func (d *Dir) TetherPath(instance, prefix string) string {
	return d.path(instance, "."+prefix+tether)
}

// CreateTether makes the tether file of a package of an instance; one that is there
// stays, with the processes that have it open.
func (d *Dir) CreateTether(instance, prefix string) error {
	if err := check(instance); err != nil {
		return err
	}
	if !isPrefix(prefix) {
		return fmt.Errorf("internal error: %q is no beginning of a package hash", prefix)
	}
	if err := faultpoint.Hit("runctl.tether"); err != nil {
		return err
	}
	path := d.TetherPath(instance, prefix)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err == nil && st.Mode == unix.S_IFREG|0o644 {
		return nil // no open: closing it would look like the end of an application
	}
	defer d.forgetTether(path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
		if err = remove(path); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make the tether of %s: %w", instance, err)
	}
	return errors.Join(f.Chmod(0o644), f.Close())
}

// OpenTether opens the tether file for a launch. The descriptor passes on through
// exec. Error NotFound: the agent has made none; ErrSealed: a refresh is about to
// replace the package.
func (d *Dir) OpenTether(instance, prefix string) (fd int, err error) {
	if err := check(instance); err != nil {
		return -1, err
	}
	path := d.TetherPath(instance, prefix)
	for {
		// Without O_NONBLOCK the open would last until the refresh has replaced the package.
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EAGAIN:
		return -1, ErrSealed
	case errors.Is(err, fs.ErrNotExist):
		return -1, errkind.New(errkind.NotFound, "cannot find the tether of %s", instance)
	case err != nil:
		return -1, errkind.New(errkind.KindOf(err), "cannot open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return raise(fd)
}

// raise duplicates a descriptor to the number TetherFD, or the next free one, and
// where the limit of the process is lower, below that. The duplicate stays open
// across exec.
func raise(fd int) (int, error) {
	least := TetherFD
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Cur <= TetherFD {
		least = max(int(limit.Cur)-8, 3)
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, least)
	if err == unix.EMFILE || err == unix.EINVAL {
		high, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 3)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot keep the tether open: %w", err)
	}
	return high, nil
}

// Tethers lists the tether files of an instance; of all, where instance is "". It reads the
// directory, and the status of files that are new to it: only this process makes any.
func (d *Dir) Tethers(instance string) ([]Tether, error) {
	entries, err := os.ReadDir(d.ctl)
	if err != nil {
		return nil, fmt.Errorf("cannot list the run-control directory: %w", err)
	}
	var list []Tether
	for _, e := range entries {
		name, prefix, ok := ParseTether(e.Name())
		if !ok || instance != "" && name != instance {
			continue
		}
		t, err := d.tether(e.Name(), name, prefix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the tether of %s: %w", name, err)
		}
		list = append(list, t)
	}
	return list, nil
}

func (d *Dir) tether(file, instance, prefix string) (Tether, error) {
	d.tethering.Lock()
	defer d.tethering.Unlock()
	if t, known := d.tethers[file]; known {
		return t, nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(d.TetherPath(instance, prefix), &st); err != nil {
		return Tether{}, err
	}
	if d.tethers == nil {
		d.tethers = map[string]Tether{}
	}
	t := Tether{Instance: instance, Prefix: prefix, Dev: st.Dev, Ino: st.Ino}
	d.tethers[file] = t
	return t, nil
}

// forgetTether must be called after a tether file was made or removed.
func (d *Dir) forgetTether(path string) {
	d.tethering.Lock()
	defer d.tethering.Unlock()
	delete(d.tethers, filepath.Base(path))
}

// RemoveTether removes a tether file. The caller has made sure that no process has it
// open, and that current names another package.
func (d *Dir) RemoveTether(instance, prefix string) error {
	if err := check(instance); err != nil {
		return err
	}
	defer d.forgetTether(d.TetherPath(instance, prefix))
	return remove(d.TetherPath(instance, prefix))
}

// ParseTether reads lull.<instance>.<prefix>.open.
func ParseTether(name string) (instance, prefix string, ok bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return "", "", false
	}
	if rest, ok = strings.CutSuffix(rest, tether); !ok {
		return "", "", false
	}
	i := strings.LastIndexByte(rest, '.')
	if i <= 0 || !isPrefix(rest[i+1:]) {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

func isPrefix(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}
