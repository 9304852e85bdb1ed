// Package check reads what lies below the agent's root, without the agent and
// without its code but for hashes and manifests: what a boot has found.
//
// Look is a pure reader; it may take a second, because it hashes every file.
package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/powercut/ledger"
)

// Instance is the state of one on disk.
type Instance struct {
	Revision  int    // current; 0 if not installed
	Version   string // of the package that is current
	Revisions []int  // that have a link
	From      map[int]int
	Data      map[int]ledger.State // by revision, if it has any
	Wrappers  int
}

// Report has all findings.
type Report struct {
	Instances map[string]*Instance
	System    string   // version of the system in effect; empty means the factory state
	Trees     int      // packages
	Blobs     int      // in the store
	Lost      []string // broken promises about packages and data
	Left      []string // what may be there after a crash, but not once an agent has settled
}

// Version is the current version of an instance; empty if none.
func (r *Report) Version(name string) string {
	if i := r.Instances[name]; i != nil {
		return i.Version
	}
	return ""
}

type reader struct {
	root   string
	r      *Report
	hashes map[uint64]digest.Digest // by inode
	trees  map[string]*manifest.Meta
}

// Look reads everything below root, and the markers below run.
func Look(root, run string) (*Report, error) {
	x := &reader{root: root, r: &Report{Instances: map[string]*Instance{}}, hashes: map[uint64]digest.Digest{}, trees: map[string]*manifest.Meta{}}
	for _, f := range []func() error{x.blobs, x.packages, x.system, x.current, x.revisions, x.data, x.exports, func() error { return x.leftovers(run) }} {
		if err := f(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return x.r, nil
}

func (x *reader) lost(format string, args ...any) {
	x.r.Lost = append(x.r.Lost, fmt.Sprintf(format, args...))
}
func (x *reader) left(format string, args ...any) {
	x.r.Left = append(x.r.Left, fmt.Sprintf(format, args...))
}

func (x *reader) instance(name string) *Instance {
	if x.r.Instances[name] == nil {
		x.r.Instances[name] = &Instance{From: map[int]int{}, Data: map[int]ledger.State{}}
	}
	return x.r.Instances[name]
}

// hash reads a file once, however many names it has.
func (x *reader) hash(path string) (digest.Digest, fs.FileInfo, error) {
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return digest.Digest{}, fi, errors.Join(err, fs.ErrInvalid)
	}
	ino := fi.Sys().(*syscall.Stat_t).Ino
	if d, ok := x.hashes[ino]; ok {
		return d, fi, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return digest.Digest{}, fi, err
	}
	x.hashes[ino] = digest.Of(b)
	return x.hashes[ino], fi, nil
}

// blobs: a name in blobs/ means that content.
func (x *reader) blobs() error {
	paths, err := filepath.Glob(filepath.Join(x.root, "blobs", "??", "*"))
	x.r.Blobs = len(paths)
	for _, path := range paths {
		name := filepath.Base(path)
		d, fi, err := x.hash(path)
		if err != nil {
			return err
		}
		if want := strings.TrimSuffix(name, "x"); d.String() != want || (fi.Mode().Perm()&0o100 != 0) != strings.HasSuffix(name, "x") {
			x.lost("blob %s has the content of %s, mode %v, %d bytes", name, d, fi.Mode(), fi.Size())
		}
	}
	return err
}

// packages: a tree in packages/ is whole, and so are those that it contains.
func (x *reader) packages() error {
	entries, err := os.ReadDir(filepath.Join(x.root, "packages"))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			x.left("packages/%s", e.Name())
			continue
		}
		x.tree(e.Name())
	}
	x.r.Trees = len(x.trees)
	return err
}

func (x *reader) tree(name string) {
	dir := filepath.Join(x.root, "packages", name)
	path := filepath.Join(dir, manifest.Reserved, "meta.json")
	if d, _, err := x.hash(path); err != nil || d.String() != name {
		x.lost("package %s has a meta with hash %s (%v)", name, d, err)
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		x.lost("package %s: %v", name, err)
		return
	}
	m, err := manifest.Parse(b)
	if err != nil {
		x.lost("package %s: %v", name, err)
		return
	}
	x.trees[name] = m
	for _, e := range m.Entries {
		p := filepath.Join(dir, e.Path)
		switch {
		case e.IsFile():
			d, fi, err := x.hash(p)
			if err != nil || d != e.Blob || (fi.Mode().Perm()&0o100 != 0) != e.Exec {
				x.lost("package %s: %s has hash %s instead of %s (%v)", name, e.Path, d, e.Blob, err)
			}
		case e.Type == manifest.TypeSymlink:
			if to, err := os.Readlink(p); err != nil || to != e.Symlink {
				x.lost("package %s: %s leads to %q instead of %q (%v)", name, e.Path, to, e.Symlink, err)
			}
		default:
			if fi, err := os.Lstat(p); err != nil || !fi.IsDir() {
				x.lost("package %s: %s is no directory (%v)", name, e.Path, err)
			}
		}
	}
}

// current names a package that is there.
func (x *reader) current() error {
	entries, err := os.ReadDir(filepath.Join(x.root, "current"))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			x.left("current/%s", e.Name())
			continue
		}
		i := x.instance(e.Name())
		to, err := os.Readlink(filepath.Join(x.root, "current", e.Name()))
		if err != nil {
			return err
		}
		if i.Revision, err = strconv.Atoi(filepath.Base(to)); err != nil {
			x.lost("current/%s leads to %q", e.Name(), to)
			continue
		}
		link, err := os.Readlink(filepath.Join(x.root, "current", to))
		m := x.trees[filepath.Base(link)]
		if err != nil || m == nil {
			x.lost("current/%s leads to revision %d, which leads to %q: no package is there (%v)", e.Name(), i.Revision, link, err)
			continue
		}
		if i.Version = m.Version; !strings.HasPrefix(e.Name(), m.Name) {
			x.lost("current/%s leads to a package of %s", e.Name(), m.Name)
		}
	}
	return err
}

func (x *reader) revisions() error {
	entries, err := os.ReadDir(filepath.Join(x.root, "revisions"))
	for _, e := range entries {
		i := x.instance(e.Name())
		dir := filepath.Join(x.root, "revisions", e.Name())
		names, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range names {
			if f.Name() == "memory" {
				if b, err := os.ReadFile(filepath.Join(dir, f.Name())); err != nil || !json.Valid(b) {
					x.lost("revisions/%s/memory holds %q (%v)", e.Name(), b, err)
				}
				continue
			}
			base, from := strings.CutSuffix(f.Name(), ".from")
			n, err := strconv.Atoi(base)
			switch {
			case err != nil:
				x.left("revisions/%s/%s", e.Name(), f.Name())
			case from:
				b, err := os.ReadFile(filepath.Join(dir, f.Name()))
				if err != nil {
					return err
				}
				if i.From[n], err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
					x.lost("revisions/%s/%s holds %q", e.Name(), f.Name(), b)
				}
			default:
				i.Revisions = append(i.Revisions, n)
				to, err := os.Readlink(filepath.Join(dir, f.Name()))
				if err == nil && x.trees[filepath.Base(to)] == nil {
					x.left("revisions/%s/%s leads to %q, where no package is", e.Name(), f.Name(), to)
				}
			}
		}
		slices.Sort(i.Revisions)
	}
	return err
}

// data: every ledger is whole, and the current one is what belongs to its revision.
func (x *reader) data() error {
	entries, err := os.ReadDir(filepath.Join(x.root, "data"))
	for _, e := range entries {
		dir := filepath.Join(x.root, "data", e.Name())
		revisions, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		i := x.instance(e.Name())
		for _, r := range revisions {
			n, err := strconv.Atoi(r.Name())
			if r.Name() == "common" {
				if b, err := os.ReadFile(filepath.Join(dir, "common", "broken")); err == nil {
					x.lost("%s has found its data broken: %s", e.Name(), b)
				}
				continue
			} else if err != nil {
				x.left("data/%s/%s", e.Name(), r.Name())
				continue
			}
			s, err := ledger.Read(filepath.Join(dir, r.Name()))
			if err != nil {
				x.lost("data/%s/%d: %v", e.Name(), n, err)
			}
			i.Data[n] = s
		}
		x.belongs(e.Name(), i)
	}
	return err
}

// belongs checks the ledger of the current revision against the one it came from.
func (x *reader) belongs(name string, i *Instance) {
	if i.Revision == 0 {
		return
	}
	own, there := i.Data[i.Revision]
	from, fromThere := i.Data[i.From[i.Revision]]
	switch {
	case !there && fromThere && from.Ready:
		x.lost("data/%s/%d is not there, although revision %d comes from %d", name, i.Revision, i.Revision, i.From[i.Revision])
	case there && fromThere && from.Ready && !own.Ready:
		x.lost("data/%s/%d is empty, although revision %d comes from %d", name, i.Revision, i.Revision, i.From[i.Revision])
	case there && fromThere && own.Ready && own.By != i.Revision && own.Step != from.Step:
		x.lost("data/%s/%d is at step %d, and what it is a copy of at %d", name, i.Revision, own.Step, from.Step)
	}
}

// exports: every current package can be launched.
func (x *reader) exports() error {
	entries, err := os.ReadDir(filepath.Join(x.root, "exports", "bin"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(x.root, "exports", "bin", e.Name()))
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") {
			x.left("exports/bin/%s", e.Name())
			continue
		}
		_, rest, _ := strings.Cut(string(b), "\ninstance=")
		name, _, whole := strings.Cut(rest, "\n")
		if !strings.HasPrefix(string(b), "#!") || !whole || name != e.Name() && !strings.HasSuffix(name, "."+e.Name()) { // a short name is the last part
			x.lost("exports/bin/%s is %q", e.Name(), b)
		}
		i := x.instance(name)
		i.Wrappers++
		if i.Revision == 0 {
			x.left("exports/bin/%s leads nowhere", e.Name())
		}
	}
	for name, i := range x.r.Instances {
		if i.Revision != 0 && i.Wrappers == 0 {
			x.left("exports/bin/%s is missing", name)
		}
	}
	return nil
}

// leftovers are temporary files, the trash, unfinished downloads, and markers.
func (x *reader) leftovers(run string) error {
	for _, dir := range []string{"tmp", "trash", ".", "exports/share/applications", "exports/share/icons", "revisions", "data"} {
		entries, err := os.ReadDir(filepath.Join(x.root, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if dir == "trash" && len(e.Name()) == 1 && e.IsDir() { // one of the permanent directories of the trash
				inside, err := os.ReadDir(filepath.Join(x.root, dir, e.Name()))
				if err != nil || len(inside) > 0 {
					x.left("%d in trash/%s (%v)", len(inside), e.Name(), err)
				}
			} else if dir == "tmp" || dir == "trash" || strings.HasPrefix(e.Name(), ".") {
				x.left("%s/%s", dir, e.Name())
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(x.root, "repos"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".") || strings.HasSuffix(d.Name(), ".damaged")) {
			x.left("%s", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(run, "runctl"))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".inhibited") || strings.HasPrefix(e.Name(), ".") {
			b, _ := os.ReadFile(filepath.Join(run, "runctl", e.Name()))
			x.left("marker %s: %s", e.Name(), b)
		}
	}
	return err
}
