// Package current keeps the links that select the current revision of an
// instance:
//
//	<root>/current/<instance>           → ../revisions/<instance>/<rev>
//	<root>/revisions/<instance>/<rev>   → ../../packages/<hash>
//	<root>/revisions/<instance>/<rev>.from  the revision whose data it took over
//	<root>/revisions/<instance>/memory      a copy of the instance's record, in case state.db is lost
//
// The rename of the first link is the commit point of a refresh: it changes the
// package and the revision number, and so the data directory, at once. Any process
// may read the links; only the agent writes them. All methods may block for
// stable storage; two writers of one instance exclude each other by other means
// (one refresh an instance at a time).
package current

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Links are those below one root.
type Links struct{ root string }

// Open creates missing directories, and removes the remains of a crash from
// them.
func Open(root string) (Links, error) {
	l := Links{root}
	for _, d := range []string{"current", "revisions"} {
		if err := durable.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return l, err
		}
	}
	instances, err := os.ReadDir(filepath.Join(root, "revisions"))
	for _, i := range instances {
		err = errors.Join(err, durable.Tidy(filepath.Join(root, "revisions", i.Name())))
	}
	return l, errors.Join(err, durable.Tidy(filepath.Join(root, "current")))
}

func (l Links) link(instance string) string { return filepath.Join(l.root, "current", instance) }

func (l Links) revision(instance string, rev uint32) string {
	return filepath.Join(l.root, "revisions", instance, strconv.FormatUint(uint64(rev), 10))
}

// Path is the link current/<instance>, through which exported files reach the package.
func (l Links) Path(instance string) string { return l.link(instance) }

// Read returns the current revision. Kind NotFound: there is none.
func (l Links) Read(instance string) (rev uint32, pkg digest.Digest, err error) {
	target, err := os.Readlink(l.link(instance))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, pkg, errkind.New(errkind.NotFound, "cannot find %s: it is not installed", instance)
	}
	if errors.Is(err, syscall.EINVAL) {
		return 0, pkg, broken(instance, "%s is a %s, and should be a link", l.link(instance), kind(l.link(instance)))
	}
	if err != nil {
		return 0, pkg, broken(instance, "%w", err)
	}
	n, err := strconv.ParseUint(filepath.Base(target), 10, 32)
	if err != nil || n == 0 || filepath.Dir(target) != filepath.Join("..", "revisions", instance) {
		return 0, pkg, broken(instance, "%s leads to %q, which is no revision of it", l.link(instance), target)
	}
	rev = uint32(n)
	if pkg, err = l.Package(instance, rev); err != nil {
		return rev, pkg, broken(instance, "%w", err)
	}
	return rev, pkg, nil
}

// broken is the error about a link that this package has not made.
func broken(instance, format string, args ...any) error {
	return errkind.New(errkind.Failed, "cannot determine the current revision of "+instance+": "+format, args...).
		WithHint("lull verify --repair puts it right, and so does restarting lulld")
}

// kind names the type of a file in the place of another one.
func kind(path string) string {
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return "file that cannot be read"
	case fi.IsDir():
		return "folder"
	case fi.Mode()&fs.ModeSymlink != 0:
		return "link"
	}
	return "file"
}

// Package returns the package of a revision.
func (l Links) Package(instance string, rev uint32) (pkg digest.Digest, err error) {
	path := l.revision(instance, rev)
	target, err := os.Readlink(path)
	if errors.Is(err, syscall.EINVAL) {
		return pkg, fmt.Errorf("cannot read revision %d of %s: %s is a %s, and should be a link", rev, instance, path, kind(path))
	}
	if err != nil {
		return pkg, fmt.Errorf("cannot read revision %d of %s: %w", rev, instance, err)
	}
	if pkg, err = digest.Parse(filepath.Base(target)); err != nil {
		return pkg, fmt.Errorf("cannot read revision %d of %s: it leads to %q, which is no package", rev, instance, target)
	}
	return pkg, nil
}

// From returns the revision whose data a revision took over; 0 if none, or unknown.
func (l Links) From(instance string, rev uint32) uint32 {
	b, err := os.ReadFile(l.revision(instance, rev) + ".from")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil || uint32(n) == rev {
		return 0
	}
	return uint32(n)
}

// Made is when a revision was recorded, by the file system's time.
func (l Links) Made(instance string, rev uint32) time.Time {
	fi, err := os.Lstat(l.revision(instance, rev))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// aside renames a file of another type in the place of a link. Its origin is
// unknown, so it is not deleted.
func aside(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err != nil {
		return err
	}
	name := fmt.Sprintf(".aside-%s-%d", filepath.Base(path), time.Now().UnixNano())
	return durable.Rename(path, filepath.Join(filepath.Dir(path), name))
}

// Add records a revision before it may become current. Repeating it is harmless.
func (l Links) Add(instance string, rev uint32, pkg digest.Digest, from uint32) error {
	path := l.revision(instance, rev)
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := aside(path); err != nil {
		return err
	}
	if from != 0 {
		if fi, err := os.Lstat(path + ".from"); err == nil && fi.IsDir() {
			if err := aside(path + ".from"); err != nil {
				return err
			}
		}
		if err := durable.WriteFile(path+".from", []byte(strconv.FormatUint(uint64(from), 10)+"\n"), 0o644); err != nil {
			return err
		}
	}
	return durable.Symlink(filepath.Join("..", "..", "packages", pkg.String()), path)
}

// Swap makes a revision current: the commit point.
func (l Links) Swap(instance string, rev uint32) error {
	if _, err := l.Package(instance, rev); err != nil {
		return err
	}
	if err := aside(l.link(instance)); err != nil {
		return err
	}
	target := filepath.Join("..", "revisions", instance, strconv.FormatUint(uint64(rev), 10))
	return durable.Symlink(target, l.link(instance))
}

// Drop makes nothing current.
func (l Links) Drop(instance string) error {
	return errors.Join(aside(l.link(instance)), ignoreAbsent(durable.Remove(l.link(instance))))
}

// Forget removes a revision that is not current.
func (l Links) Forget(instance string, rev uint32) error {
	path := l.revision(instance, rev)
	return errors.Join(aside(path), ignoreAbsent(durable.Remove(path)), ignoreAbsent(durable.Remove(path+".from")))
}

// ForgetAll removes all links of an instance but its memory.
func (l Links) ForgetAll(instance string) error {
	if err := l.Drop(instance); err != nil {
		return err
	}
	dir := filepath.Join(l.root, "revisions", instance)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != memory {
			err = errors.Join(err, durable.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return ignoreAbsent(err)
}

const memory = "memory"

// Remember keeps text about an instance beside its revisions. Writing what is
// there already costs nothing.
func (l Links) Remember(instance string, text []byte) error {
	dir := filepath.Join(l.root, "revisions", instance)
	path := filepath.Join(dir, memory)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o600)
}

// Recall returns the last record of Remember; nil if there is no readable one.
func (l Links) Recall(instance string) []byte {
	b, err := os.ReadFile(filepath.Join(l.root, "revisions", instance, memory))
	if err != nil {
		return nil
	}
	return b
}

// Known lists all instances that have, or had, a revision.
func (l Links) Known() ([]string, error) {
	return l.names("revisions")
}

// Revisions lists the revisions that have a link.
func (l Links) Revisions(instance string) (list []uint32, err error) {
	entries, err := os.ReadDir(filepath.Join(l.root, "revisions", instance))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			list = append(list, uint32(n))
		}
	}
	return list, err
}

// Instances lists the instances with a current link, or another file in its
// place, in order.
func (l Links) Instances() (list []string, err error) { return l.names("current") }

func (l Links) names(folder string) (list []string, err error) {
	entries, err := os.ReadDir(filepath.Join(l.root, folder))
	for _, e := range entries {
		if manifest.ValidInstance(e.Name()) == nil {
			list = append(list, e.Name())
		}
	}
	return list, err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
