// Package current keeps the links that say which revision of an instance is in
// use:
//
//	<root>/current/<instance>           → ../revisions/<instance>/<rev>
//	<root>/revisions/<instance>/<rev>   → ../../packages/<hash>
//	<root>/revisions/<instance>/<rev>.from  the revision whose data it took over
//
// The rename of the first link is the commit point of a refresh: it changes the
// package and the revision number, and so the data folder, at once. Everybody
// may read the links; only the agent writes them. All methods may block for
// stable storage; two writers of one instance exclude each other by other means
// (one refresh an instance at a time).
package current

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/problem"
)

// Links are those below one root.
type Links struct{ root string }

// Open makes the folders where they are missing.
func Open(root string) (Links, error) {
	l := Links{root}
	for _, d := range []string{"current", "revisions"} {
		if err := durable.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l Links) link(instance string) string { return filepath.Join(l.root, "current", instance) }

func (l Links) revision(instance string, rev uint32) string {
	return filepath.Join(l.root, "revisions", instance, strconv.FormatUint(uint64(rev), 10))
}

// Path is the link current/<instance>, through which exported files reach the package.
func (l Links) Path(instance string) string { return l.link(instance) }

// Read says what is current. Kind NotFound: nothing is.
func (l Links) Read(instance string) (rev uint32, pkg digest.Digest, err error) {
	target, err := os.Readlink(l.link(instance))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, pkg, problem.New(problem.NotFound, "cannot find %s: it is not installed", instance)
	}
	if err != nil {
		return 0, pkg, fmt.Errorf("cannot read what is current of %s: %w", instance, err)
	}
	n, err := strconv.ParseUint(filepath.Base(target), 10, 32)
	if err != nil || filepath.Dir(target) != filepath.Join("..", "revisions", instance) {
		return 0, pkg, fmt.Errorf("cannot understand the link %s: it leads to %q", l.link(instance), target)
	}
	rev = uint32(n)
	pkg, err = l.Package(instance, rev)
	return rev, pkg, err
}

// Package says which package a revision is.
func (l Links) Package(instance string, rev uint32) (pkg digest.Digest, err error) {
	target, err := os.Readlink(l.revision(instance, rev))
	if err != nil {
		return pkg, fmt.Errorf("cannot read revision %d of %s: %w", rev, instance, err)
	}
	return digest.Parse(filepath.Base(target))
}

// Add records a revision before it may become current. Doing it again is harmless.
func (l Links) Add(instance string, rev uint32, pkg digest.Digest, from uint32) error {
	path := l.revision(instance, rev)
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if from != 0 {
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
	target := filepath.Join("..", "revisions", instance, strconv.FormatUint(uint64(rev), 10))
	return durable.Symlink(target, l.link(instance))
}

// Drop makes nothing current.
func (l Links) Drop(instance string) error { return ignoreAbsent(durable.Remove(l.link(instance))) }

// Forget removes a revision that is not current.
func (l Links) Forget(instance string, rev uint32) error {
	path := l.revision(instance, rev)
	return errors.Join(ignoreAbsent(durable.Remove(path)), ignoreAbsent(durable.Remove(path+".from")))
}

// ForgetAll removes all that is known of an instance.
func (l Links) ForgetAll(instance string) error {
	if err := l.Drop(instance); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(l.root, "revisions", instance))
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

// Instances lists those of which something is current, in order.
func (l Links) Instances() (list []string, err error) {
	entries, err := os.ReadDir(filepath.Join(l.root, "current"))
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 && !strings.HasPrefix(e.Name(), ".") {
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
