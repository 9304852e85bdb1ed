package userdata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
)

// Data is the data of a revision that is about to be used.
type Data struct {
	Dir string
	// Missing lists files that the copy lacks, when it is used for the first
	// time; MissingCount is their number. Base has the directories that
	// Missing names.
	Missing      []Missing
	MissingCount int
	// Note is an error that does not prevent the use of the data; nil if there was none.
	Note error
}

// Hooks are called while a launch prepares its data; each may be nil.
type Hooks struct {
	Waits    func()                  // another process works on the data
	Progress func(done, total int64) // of a copy, in bytes
}

// MakeCommon makes the directory of what all revisions share, unless it is there. An
// agent of one user's own takes over what it had shared with the system's before.
func (p Place) MakeCommon(ctx context.Context, h Hooks) (string, error) {
	common := p.Common()
	if st, err := os.Stat(common); err == nil && st.IsDir() {
		return common, nil
	}
	// XDG Base Directory: what is made on the way is the user's alone.
	if err := os.MkdirAll(p.Base, 0o700); err != nil {
		return "", unwritable(err)
	}
	if p.old != "" {
		unlock, err := p.Lock(ctx, h.Waits)
		if err != nil {
			return "", unwritable(err)
		}
		defer unlock()
		o := options("common")
		o.Progress = h.Progress
		_, err = copytree.Copy(ctx, filepath.Join(p.old, "common"), common, o)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return common, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", unwritable(err)
		}
	}
	if err := os.MkdirAll(common, 0o700); err != nil {
		return "", unwritable(err)
	}
	return common, nil
}

// Enter gives a revision its data, unless it has some, notes that it is used, and
// removes what it supersedes once it has run. For a launch.
//
// Data that is there can be used even where nothing can be written.
func (p Place) Enter(ctx context.Context, rev uint32, h Hooks) (Data, error) {
	s, err := p.scan()
	if err != nil {
		return Data{}, err
	}
	if d := s.current(rev); d != nil && s.settled(d, rev) {
		return Data{Dir: d.path()}, nil
	}
	unlock, err := p.Lock(ctx, h.Waits)
	if err != nil {
		if d := s.current(rev); d != nil {
			return Data{Dir: d.path(), Note: err}, nil
		}
		return Data{}, unwritable(err)
	}
	defer unlock()
	if s, err = p.scan(); err != nil {
		return Data{}, err
	}
	d := s.current(rev)
	if d == nil {
		if d, err = s.bring(ctx, rev, h.Progress, nil); err != nil {
			return Data{}, unwritable(err)
		}
	}
	data := Data{Dir: d.path()}
	if d.Runs == 0 {
		data.Missing, data.MissingCount = d.Missing, d.MissingCount
	}
	if p.store.ID == "" {
		return data, nil
	}
	ran := d.Runs > 0
	data.Note = s.use(d, rev)
	if ran && data.Note == nil {
		data.Note = s.prune(rev)
	}
	return data, nil
}

// settled reports whether a launch has nothing to write about its data.
func (s *state) settled(d *dir, rev uint32) bool {
	if s.store.ID == "" {
		return true
	}
	return d.recorded && s.own(d, rev) && d == s.newest() && d.Runs >= enoughRuns && len(s.superseded(rev)) == 0
}

// use notes that a launch of rev uses a directory.
func (s *state) use(d *dir, rev uint32) error {
	before := d.record
	if !s.own(d, rev) {
		d.Uses = append(d.Uses[:len(d.Uses):len(d.Uses)], Use{s.store.ID, rev})
	}
	if d.ID == "" {
		d.ID = newID()
	}
	if d != s.newest() {
		d.Counter = s.nextCounter()
	}
	d.Counter = max(d.Counter, 1)
	d.Runs = min(d.Runs+1, enoughRuns)
	if d.recorded && before.Counter == d.Counter && before.Runs == d.Runs && len(before.Uses) == len(d.Uses) {
		return nil
	}
	if err := d.write(); err != nil {
		d.record = before
		return fmt.Errorf("the use of its data cannot be noted: %w", err)
	}
	d.recorded = true
	return nil
}

// options are those of every copy to a directory: the launcher and the helper take
// over what the other has left, and so use the same names.
func options(name string) copytree.Options {
	return copytree.Options{Partial: "." + name + copytree.PartialSuffix}
}

// Migrate gives a revision the ancestor's data, unless it has some or there is none.
// With a commit function nothing appears when that returns an error; it is called
// when all is copied. The caller holds the lock.
func (p Place) Migrate(ctx context.Context, rev uint32, progress func(done, total int64), commit func() error) error {
	s, err := p.scan()
	if err != nil {
		return err
	}
	if s.current(rev) != nil || s.ancestor(rev) == nil {
		return nil
	}
	_, err = s.bring(ctx, rev, progress, commit)
	return err
}

// bring makes the directory of a revision. Its record is written first, as
// incomplete, so that a crash cannot leave a directory of an unknown owner; it
// is not used before its record is marked complete.
func (s *state) bring(ctx context.Context, rev uint32, progress func(done, total int64), commit func() error) (*dir, error) {
	if d := s.unfinished(rev); d != nil {
		return d, s.complete(d)
	}
	from := s.ancestor(rev)
	d := &dir{name: s.freeName(rev), base: s.Base, revision: rev, recorded: true}
	d.record = record{ID: newID(), Package: s.packageOf(rev), Uses: []Use{{s.store.ID, rev}}, Counter: s.nextCounter()}
	begin := func() error {
		if commit != nil {
			if err := commit(); err != nil {
				return err
			}
		}
		if s.store.ID == "" {
			return nil
		}
		if err := faultpoint.Hit("userdata.bring.record"); err != nil {
			return err
		}
		if err := d.write(); err != nil {
			return err
		}
		return faultpoint.Hit("userdata.bring.rename")
	}
	if from == nil {
		if err := begin(); err != nil {
			return nil, err
		}
		if err := durable.MkdirAll(d.path(), 0o700); err != nil {
			return nil, errkind.New(errkind.KindOf(err), "it has no place for its data: %w", err)
		}
	} else {
		d.Parent = from.ID
		o := options(d.name)
		o.Progress = progress
		o.Commit = func(st copytree.Stats) error {
			d.lacks(from, st.Lost())
			return begin()
		}
		if _, err := copytree.Copy(ctx, from.path(), d.path(), o); err != nil {
			return nil, s.explain(err, from, d)
		}
	}
	if err := faultpoint.Hit("userdata.bring.complete"); err != nil {
		return nil, err
	}
	s.dirs = append(s.dirs, d)
	return d, s.complete(d)
}

// unfinished is a directory of this revision whose record a crash has left incomplete,
// after the directory had appeared, which it does whole.
func (s *state) unfinished(rev uint32) *dir {
	for _, d := range s.dirs {
		if d.base == s.Base && !d.Complete && s.own(d, rev) {
			return d
		}
	}
	return nil
}

func (s *state) complete(d *dir) error {
	d.Complete = true
	if s.store.ID == "" {
		return nil
	}
	return d.write()
}

// lacks notes what a copy does not have of its source, and what the source did not have
// already, as long as that can still be found.
func (d *dir) lacks(from *dir, lost []copytree.Skip) {
	d.Missing, d.MissingCount = nil, 0
	for _, l := range lost {
		d.Missing = append(d.Missing, Missing{Path: l.Path, Why: l.Why, In: from.name})
	}
	d.MissingCount = len(lost)
	for _, m := range from.Missing {
		if _, err := os.Lstat(filepath.Join(from.base, m.In, m.Path)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(from.path(), m.Path)); err == nil {
			continue // re-created since
		}
		d.Missing, d.MissingCount = append(d.Missing, m), d.MissingCount+1
	}
}

// Precopy does what it can of a later Bring, while the ancestor is in use. It also
// removes what was left for revisions that never came. The caller holds the lock.
func (p Place) Precopy(ctx context.Context, rev uint32) error {
	s, err := p.scan()
	if err != nil {
		return err
	}
	name := s.freeName(rev)
	swept := p.sweep(func(n string) bool { return n == name })
	from := s.ancestor(rev)
	if from == nil || s.current(rev) != nil || s.unfinished(rev) != nil {
		return swept
	}
	d := &dir{name: name, base: p.Base}
	if _, err = copytree.Precopy(ctx, from.path(), d.path(), options(name)); err != nil {
		return errors.Join(s.explain(err, from, d), swept)
	}
	return swept
}

// explain names what could not be copied. A copy that did not fit must not stay
// and take the last of the space that the application needs to go on as it was.
func (s *state) explain(err error, from, to *dir) error {
	e := errkind.New(errkind.KindOf(err), "the data of revision %d cannot be brought over: %w", from.revision, err)
	if e.Kind != errkind.NoSpace {
		return e
	}
	if derr := copytree.Discard(to.path(), options(to.name)); derr != nil {
		return errkind.New(errkind.NoSpace, "%w, nor can what was copied be removed: %w", e, derr)
	}
	return e.WithHint("it is untouched: make room for a copy of %s, or go back with lull revert %s", from.path(), s.Instance)
}

// Sweep removes the partial directories of all revisions but one (0: of all). The
// caller holds the lock.
func (p Place) Sweep(keep uint32) error {
	if keep == 0 {
		return p.sweep(func(string) bool { return false })
	}
	s, err := p.scan()
	if err != nil {
		return err
	}
	return p.sweep(func(n string) bool { return n == s.freeName(keep) })
}

// goneSuffix marks a superseded directory that is being removed.
const goneSuffix = ".gone"

// sweep removes the remains of copies and removals, except the partial
// directories of names for which keep returns true.
func (p Place) sweep(keep func(name string) bool) error {
	entries, err := os.ReadDir(p.Base)
	if err != nil {
		return err
	}
	if terr := durable.Tidy(filepath.Join(p.Base, records)); !errors.Is(terr, fs.ErrNotExist) {
		err = terr
	}
	for _, e := range entries {
		hidden, ok := strings.CutPrefix(e.Name(), ".")
		if !ok {
			continue
		}
		if name, ok := strings.CutSuffix(hidden, goneSuffix); ok {
			if _, ok := parseName(name); ok {
				err = errors.Join(err, copytree.Discard(filepath.Join(p.Base, name), copytree.Options{Partial: e.Name()}))
			}
			continue
		}
		name, partial := strings.CutSuffix(strings.TrimSuffix(strings.TrimSuffix(hidden, ".new"), ".index"), copytree.PartialSuffix)
		if _, ok := parseName(name); !partial || !ok || keep(name) {
			continue
		}
		err = errors.Join(err, copytree.Discard(filepath.Join(p.Base, name), options(name)))
	}
	return err
}
