package gc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Strays scans /proc for processes that use one of the packages: by their executable,
// their mappings, their open files, their working or root directory, their command line,
// or a mount in their namespace. They count as roots of the open index.
//
// Unread are the processes that cannot be read, beyond their command line: those of other
// users if we are not root or lack CAP_SYS_PTRACE, those of a user namespace above ours,
// and those of users for any other reason. They keep no package. Such a failure for a
// process of root yields a root without a package, because its use is in doubt.
func Strays(ctx context.Context, s *store.Store, pkgs []digest.Digest) (strays []index.Root, unread []Unread, err error) {
	root, err := filepath.EvalSymlinks(s.Root())
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return nil, nil, &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	l := procScanner{
		prefix: root + "/packages/",
		device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		dev:    st.Dev,
		inodes: map[uint64]digest.Digest{},
		wanted: map[digest.Digest]bool{},
		seen:   map[string]bool{},
	}
	for _, pkg := range pkgs {
		l.wanted[pkg] = true
		if err := unix.Stat(l.prefix+pkg.String(), &st); err == nil {
			l.inodes[st.Ino] = pkg
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		l.process(pid)
	}
	slices.SortFunc(l.found, func(a, b index.Root) int {
		return cmp.Or(a.Package.Compare(b.Package), cmp.Compare(a.PID, b.PID))
	})
	return l.found, l.unread, nil
}

type procScanner struct {
	prefix string                   // of the path of every package
	device string                   // major:minor of the store
	dev    uint64                   // the same
	inodes map[uint64]digest.Digest // of the directories of packages
	wanted map[digest.Digest]bool
	seen   map[string]bool // mount namespaces
	found  []index.Root
	unread []Unread
}

// Unread is a process that cannot be read.
type Unread struct {
	PID     int
	UID     uint32
	Command string
	Err     error
}

// maxNamedUnread bounds how many processes a text names.
const maxNamedUnread = 8

// UnreadNames names processes: "process 12 (cat, user 1000) and 3 more".
func UnreadNames(list []Unread) string {
	var names []string
	for _, u := range list[:min(len(list), maxNamedUnread)] {
		names = append(names, fmt.Sprintf("process %d (%s, user %d)", u.PID, u.Command, u.UID))
	}
	text := strings.Join(names, ", ")
	if more := len(list) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// process reads one process. A process that ends meanwhile uses no package any more.
func (l *procScanner) process(pid int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	used := map[digest.Digest]bool{}
	user, known := l.user(dir)
	err := errors.Join(
		l.link(dir+"exe", used), l.link(dir+"cwd", used), l.link(dir+"root", used),
		l.descriptors(dir+"fd", used), l.texts(dir+"maps", used), l.texts(dir+"cmdline", used), l.namespace(dir, used),
	)
	comm, _ := os.ReadFile(dir + "comm")
	name := strings.TrimSpace(string(comm))
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrPermission), user > 0:
		// A user's unreadable process keeps no package of others: its mapped and open
		// files outlive their names, and losing a working directory harms only that user.
		l.unread = append(l.unread, Unread{pid, user, name, err})
	default:
		l.found = append(l.found, index.Root{Index: index.OpenIndex, Holder: fmt.Sprintf("process %d (%v)", pid, err), PID: pid})
	}
	if len(used) == 0 {
		return
	}
	holder := "stray process " + name
	if known {
		holder += " of user " + accounts.Name(user)
	}
	if exe, err := os.Readlink(dir + "exe"); err == nil {
		holder += ", executing " + strings.TrimSuffix(exe, " (deleted)")
	}
	for pkg := range used {
		l.found = append(l.found, index.Root{Index: index.OpenIndex, Package: pkg, Holder: holder, PID: pid})
	}
}

// gone drops the errors of a process that has ended, or that never had the requested
// entry, such as a kernel thread.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// path records the package that contains a path.
func (l *procScanner) path(path string, used map[digest.Digest]bool) {
	rest, ok := strings.CutPrefix(path, l.prefix)
	if !ok || len(rest) < 2*digest.Size {
		return
	}
	if pkg, err := digest.Parse(rest[:2*digest.Size]); err == nil && l.wanted[pkg] {
		used[pkg] = true
	}
}

func (l *procScanner) link(path string, used map[digest.Digest]bool) error {
	target, err := os.Readlink(path)
	l.path(target, used)
	if errors.Is(err, unix.ENAMETOOLONG) {
		err = l.above(path, used)
	}
	return gone(err)
}

// maxAbove limits the number of steps up from a directory. A directory in a package needs
// fewer: a path there has less than PATH_MAX bytes.
const maxAbove = unix.PathMax

// above finds the package that contains a directory whose path is too long to be read. It
// goes up from parent to parent until it reaches a package's directory. Any other file
// with such a path is not in a package, where paths are shorter.
func (l *procScanner) above(path string, used map[digest.Digest]bool) error {
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { unix.Close(at) }()
	var last [2]uint64
	for range maxAbove {
		// Without a sync: a user may serve the file system, and need not respond.
		var st unix.Statx_t
		if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE, &st); err != nil {
			return &fs.PathError{Op: "statx", Path: path, Err: err}
		}
		dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
		if dev != l.dev || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		if pkg, ok := l.inodes[st.Ino]; ok {
			used[pkg] = true
			return nil
		}
		if last == [2]uint64{dev, st.Ino} {
			return nil // the root
		}
		last = [2]uint64{dev, st.Ino}
		up, err := unix.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path + "/..", Err: err}
		}
		unix.Close(at)
		at = up
	}
	return nil
}

// user returns the real user of a process. known is false if it cannot be read. The owner of the
// directory in /proc does not serve: it is root for a process that cannot be dumped.
func (l *procScanner) user(dir string) (user uint32, known bool) {
	b, err := os.ReadFile(dir + "status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			uid, _, _ := strings.Cut(strings.TrimSpace(rest), "\t")
			if n, err := strconv.ParseUint(uid, 10, 32); err == nil {
				return uint32(n), true
			}
		}
	}
	return 0, false
}

func (l *procScanner) descriptors(dir string, used map[digest.Digest]bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return gone(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, l.link(dir+"/"+name, used))
	}
	return gone(err)
}

// texts reads the mappings, proc_pid_maps(5), or the command line. Both have paths among
// other text.
func (l *procScanner) texts(path string, used map[digest.Digest]bool) error {
	b, err := os.ReadFile(path)
	for {
		i := bytes.Index(b, []byte(l.prefix))
		if i < 0 {
			return gone(err)
		}
		b = b[i:]
		l.path(string(b[:min(len(b), len(l.prefix)+2*digest.Size)]), used)
		b = b[len(l.prefix):]
	}
}

// namespace reads the mounts of the process, proc_pid_mountinfo(5). A package
// that is mounted elsewhere appears in the fourth field, the root of the mount within its
// file system, or among the options of an overlay. It is reported once for each namespace, with the first process in it.
func (l *procScanner) namespace(dir string, used map[digest.Digest]bool) error {
	ns, err := os.Readlink(dir + "ns/mnt")
	if err != nil || l.seen[ns] {
		return gone(err)
	}
	b, err := os.ReadFile(dir + "mountinfo")
	if err != nil {
		return gone(err)
	}
	l.seen[ns] = true
	for line := range strings.Lines(string(b)) {
		if _, overlay, ok := strings.Cut(line, " - overlay "); ok {
			for rest := overlay; ; {
				if _, rest, ok = strings.Cut(rest, l.prefix); !ok {
					break
				}
				l.path(l.prefix+rest, used)
			}
		}
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[2] != l.device {
			continue
		}
		_, rest, ok := strings.Cut(fields[3], "/packages/")
		if !ok || len(rest) < 2*digest.Size {
			continue
		}
		if pkg, err := digest.Parse(rest[:2*digest.Size]); err == nil && l.wanted[pkg] {
			used[pkg] = true
		}
	}
	return nil
}
