package userdata

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/faultpoint"
)

// superseded lists the directories that nothing needs while rev is in use: those of
// this store alone, of revisions that it does not keep any more. Never among
// them are the newest copy, the newest complete one, directories with files
// that a copy lacks, and the ancestor of a revision that is kept and has no
// data of its own yet.
func (s *state) superseded(rev uint32) (list []*dir) {
	cur := s.current(rev)
	if cur == nil || s.store.ID == "" {
		return nil
	}
	needed := []*dir{cur, s.newest(), s.newestWhole()}
	lacking := map[string]bool{}
	for _, d := range s.dirs {
		for _, m := range d.Missing {
			lacking[m.In] = true
		}
	}
	for _, kept := range s.kept() {
		if s.dataOf(kept) == nil {
			needed = append(needed, s.ancestor(kept))
		}
	}
	for _, d := range s.dirs {
		if d.base != s.Base || d.foreign || slices.Contains(needed, d) || lacking[d.name] {
			continue
		}
		if !slices.ContainsFunc(d.Uses, func(u Use) bool { return u.Store != s.store.ID || s.keeps(u.Revision) }) {
			list = append(list, d)
		}
	}
	return list
}

// kept lists the revisions that the store keeps.
func (p Place) kept() (list []uint32) {
	entries, err := os.ReadDir(filepath.Join(p.Root, "revisions", p.Instance))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil && n > 0 {
			list = append(list, uint32(n))
		}
	}
	return list
}

// Prune removes what the data of rev supersedes, if that has been used before. The
// caller holds the lock.
func (p Place) Prune(rev uint32) error {
	s, err := p.scan()
	if err != nil {
		return err
	}
	if d := s.current(rev); d == nil || d.Runs == 0 {
		return nil
	}
	return s.prune(rev)
}

func (s *state) prune(rev uint32) error {
	list := s.superseded(rev)
	if len(list) == 0 {
		return nil
	}
	busy, err := processes()
	if err != nil {
		return fmt.Errorf("superseded data stays, because it is not sure that no process uses it: %w", err)
	}
	for _, d := range list {
		if !busy.use(d) {
			err = errors.Join(err, s.remove(d))
		}
	}
	return err
}

// remove deletes a directory and then its record. A crash between leaves a directory
// that Sweep removes, or a record of nothing.
func (s *state) remove(d *dir) error {
	gone := "." + d.name + goneSuffix
	if err := faultpoint.Hit("userdata.prune.rename"); err != nil {
		return err
	}
	if err := durable.Rename(d.path(), filepath.Join(d.base, gone)); err != nil {
		return fmt.Errorf("superseded data cannot be removed: %w", err)
	}
	if err := faultpoint.Hit("userdata.prune.remove"); err != nil {
		return err
	}
	if err := copytree.Discard(d.path(), copytree.Options{Partial: gone}); err != nil {
		return fmt.Errorf("superseded data cannot be removed: %w", err)
	}
	if err := faultpoint.Hit("userdata.prune.record"); err != nil {
		return err
	}
	s.dirs = slices.DeleteFunc(s.dirs, func(o *dir) bool { return o == d })
	return d.removeRecord()
}

// usage is the data that processes of the machine use: by the environment,
// which children inherit in any group or namespace, and by the control group,
// which also shows processes whose environment cannot be read.
type usage struct {
	dirs   map[string]bool // LULL_USER_DATA
	groups []string
}

func (u usage) use(d *dir) bool {
	if u.dirs[d.path()] {
		return true
	}
	// A run carries the first digits of its package's hash (agent/lib/runname).
	if len(d.Package) < runDigits {
		return false
	}
	return slices.ContainsFunc(u.groups, func(g string) bool { return strings.Contains(g, d.Package[:runDigits]) })
}

const runDigits = 16

func processes() (u usage, err error) {
	u.dirs = map[string]bool{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u, err
	}
	self := strconv.Itoa(os.Getpid())
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 32); err != nil || e.Name() == self {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil && strings.Contains(string(b), "lull") {
			u.groups = append(u.groups, string(b))
		}
		b, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has ended, or is another user's, or must not be read
		}
		for v := range strings.SplitSeq(string(b), "\x00") {
			if path, ok := strings.CutPrefix(v, "LULL_USER_DATA="); ok {
				u.dirs[path] = true
			}
		}
	}
	return u, nil
}
