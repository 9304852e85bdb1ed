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

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/store"
)

// Strays looks through /proc for processes that use one of the packages: by
// their executable, what they have mapped or opened, their working or root
// folder, their command line, or a mount in their namespace. They count as
// roots of the open index.
//
// Unseen is how many processes the kernel keeps us from looking into, beyond
// their command line: those of others if we are not root or lack
// CAP_SYS_PTRACE, and those of a user namespace above ours. Any other failure
// is doubt, a root without a package.
func Strays(ctx context.Context, s *store.Store, pkgs []digest.Digest) (strays []index.Root, unseen int, err error) {
	root, err := filepath.EvalSymlinks(s.Root())
	if err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return nil, 0, &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	l := lookout{
		prefix: root + "/packages/",
		device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		wanted: map[digest.Digest]bool{},
		seen:   map[string]bool{},
	}
	for _, pkg := range pkgs {
		l.wanted[pkg] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		l.process(pid)
	}
	slices.SortFunc(l.found, func(a, b index.Root) int {
		return cmp.Or(a.Package.Compare(b.Package), cmp.Compare(a.PID, b.PID))
	})
	return l.found, l.unseen, nil
}

type lookout struct {
	prefix string // of the path of every package
	device string // major:minor of the store
	wanted map[digest.Digest]bool
	seen   map[string]bool // mount namespaces
	found  []index.Root
	unseen int
}

// process looks at one. One that ends meanwhile uses nothing any more.
func (l *lookout) process(pid int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	used := map[digest.Digest]bool{}
	err := errors.Join(
		l.link(dir+"exe", used), l.link(dir+"cwd", used), l.link(dir+"root", used),
		l.descriptors(dir+"fd", used), l.texts(dir+"maps", used), l.texts(dir+"cmdline", used), l.namespace(dir, used),
	)
	name, _ := os.ReadFile(dir + "comm")
	holder := fmt.Sprintf("stray process %s", strings.TrimSpace(string(name)))
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrPermission):
		l.unseen++
	default:
		l.found = append(l.found, index.Root{Index: index.OpenIndex, Holder: fmt.Sprintf("process %d (%v)", pid, err), PID: pid})
	}
	for pkg := range used {
		l.found = append(l.found, index.Root{Index: index.OpenIndex, Package: pkg, Holder: holder, PID: pid})
	}
}

// gone leaves out the errors of a process that has ended, or that never had
// what was asked for, as threads of the kernel.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// path notes the package that a path lies in.
func (l *lookout) path(path string, used map[digest.Digest]bool) {
	rest, ok := strings.CutPrefix(path, l.prefix)
	if !ok || len(rest) < 2*digest.Size {
		return
	}
	if pkg, err := digest.Parse(rest[:2*digest.Size]); err == nil && l.wanted[pkg] {
		used[pkg] = true
	}
}

func (l *lookout) link(path string, used map[digest.Digest]bool) error {
	target, err := os.Readlink(path)
	l.path(target, used)
	return gone(err)
}

func (l *lookout) descriptors(dir string, used map[digest.Digest]bool) error {
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

// texts reads what is mapped, proc_pid_maps(5), or the command line: paths
// among other text.
func (l *lookout) texts(path string, used map[digest.Digest]bool) error {
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
// that is mounted elsewhere shows in the fourth field, the root of the mount
// within its file system. It is reported once for each namespace, with the
// first process in it.
func (l *lookout) namespace(dir string, used map[digest.Digest]bool) error {
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
