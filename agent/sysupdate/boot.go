package sysupdate

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
)

// The places below the root.
const (
	linkName = "system"  // leads to the directory of the set in effect
	setsDir  = "systems" // <update's hash>/: system.json, base/<name>, cache/<name>
	setFile  = "system.json"
)

// Reconcile brings the disk in line with the record, before the agent serves
// requests: a set that was staged in an earlier boot is in effect now, the
// link leads there, and directories of dropped sets are removed.
func (s *System) Reconcile() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	err := s.reconcile()
	if err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *System) reconcile() error {
	rec := s.record()
	if _, lost, err := s.State.Lost(); err != nil {
		return err
	} else if lost && (rec.Stage != nil || rec.Booted != nil) {
		// The record was saved, and has the retained index.
		if err := s.put(rec); err != nil {
			return err
		}
	}
	err := s.follow()
	return errors.Join(err, s.tidyLink(), s.link(), s.tidy())
}

// tidyLink removes what a crash has left of a link that was being made.
func (s *System) tidyLink() error {
	left, err := filepath.Glob(filepath.Join(s.Root, durable.TempPrefix+linkName+"-*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// take puts the staged set into effect. One that has suffered since goes back to
// being fetched.
func (s *System) take(rec record) error {
	if err := faultpoint.Hit("system.boot.before"); err != nil {
		return err
	}
	st := *rec.Stage
	if err := s.complete(&st.Set); err != nil {
		st.Step = StepSet
		rec.Stage = &st
		return errors.Join(named(&st, err), s.put(rec))
	}
	set := st.Set
	if err := s.put(record{Committed: rec.Committed, Booted: &set, From: &st, Left: rec.Left}); err != nil {
		return err
	}
	s.Log.Warn("the machine has started with a new system; nothing is collected until it is committed or rolled back", messages.Key, messages.SystemBooted, "version", set.Version)
	return faultpoint.Hit("system.boot.recorded")
}

// Commit keeps the booted set for good, if the health hooks of its base
// packages pass. Committing a committed set is no error. Kind NotFound: there
// is nothing to commit; Busy: it is not booted yet.
func (s *System) Commit(ctx context.Context) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	rec := s.record()
	switch st := rec.Stage; {
	case rec.Booted != nil:
	case st != nil && st.Step == stepStaged:
		return errkind.New(errkind.Busy, "cannot commit %s: it takes effect when the machine starts again", st).
			WithHint("restart the machine first, or drop it with lull system rollback")
	case st != nil:
		return errkind.New(errkind.Busy, "cannot commit %s: it is not staged yet", st).WithHint("lull system status shows how far it is")
	case rec.Committed != nil:
		return nil
	default:
		return errkind.New(errkind.NotFound, "cannot commit: there is no system update").WithHint("lull system stage NAME begins one")
	}
	if running := s.Status().Running; running != "" && running != rec.Booted.Version {
		return errkind.New(errkind.Busy, "cannot commit system %s: the machine runs system %s", rec.Booted.Version, running).
			WithHint("lull system rollback goes back to %s", rec.before())
	}
	err := s.link() // if the start of the agent could not
	if err == nil {
		err = s.complete(rec.Booted)
	}
	if err != nil {
		return err
	}
	if err := s.healthy(ctx, &rec); err != nil {
		if ctx.Err() != nil || s.ctx.Err() != nil {
			return err // the hook was stopped, not the system found to be broken
		}
		return s.giveUp(rec, err)
	}
	if err := s.ofUpdate(ctx, rec.From, manifest.HookCommit); err != nil {
		return err
	}
	if err := faultpoint.Hit("system.commit.checked"); err != nil {
		return err
	}
	if err := s.put(record{Committed: rec.Booted, Left: rec.Left}); err != nil {
		return err
	}
	s.Log.Info("the system is committed", messages.Key, messages.SystemCommitted, "version", rec.Booted.Version)
	if err := faultpoint.Hit("system.commit.recorded"); err != nil {
		return err
	}
	return s.tidy()
}

// healthy checks whether the booted set works.
func (s *System) healthy(ctx context.Context, rec *record) error {
	for _, pkg := range rec.Booted.Base {
		if err := s.hook(ctx, pkg, manifest.HookHealth, rec.Booted.Version); err != nil {
			return err
		}
	}
	return nil
}

// giveUp rolls a set back that does not work.
func (s *System) giveUp(rec record, cause error) error {
	if err := s.rollBack(rec); err != nil {
		return errkind.New(errkind.Failed, "%w; %w", cause, err).WithHint("lull system rollback retries it")
	}
	return errkind.New(errkind.Failed, "%w; it is rolled back to %s", cause, rec.before()).WithHint("restart the machine, which runs %s until then", rec.Booted.Version)
}

// before is what people call the system that is kept beside the booted one.
func (r *record) before() string {
	if r.Committed == nil {
		return "what the machine came with"
	}
	return "system " + r.Committed.Version
}

// ofUpdate runs a hook of an update that is resident.
func (s *System) ofUpdate(ctx context.Context, st *stage, hook string) error {
	if st == nil || !st.Keeps || !s.Store.HasPackage(st.Update) {
		return nil
	}
	return s.hook(ctx, st.Update, hook, st.Version)
}

// Rollback gives up what is not committed: a set on its way or staged is dropped, a
// booted one gives way to the committed one. The update's rollback hook undoes what its
// other hooks did; if it fails, nothing changes. Kind NotFound: there is neither.
func (s *System) Rollback() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.end()
	rec := s.record()
	if rec.Stage == nil && rec.Booted == nil {
		if err := s.link(); err != nil {
			return err
		}
		return errkind.New(errkind.NotFound, "cannot roll back: no system update is staged, or booted and not committed").
			WithHint("what is committed stays; lull system stage brings another version, also an older one")
	}
	return s.rollBack(rec)
}

func (s *System) rollBack(rec record) error {
	st := rec.From
	if rec.Stage != nil && rec.Stage.Step != StepResolve && rec.Stage.Step != StepImages {
		st = rec.Stage // its pre-refresh hook has run, or begun to
	}
	if err := s.ofUpdate(s.ctx, st, manifest.HookRollback); err != nil {
		return err
	}
	next := record{Committed: rec.Committed, Left: rec.Left}
	if rec.Booted != nil {
		next.Left = &left{*rec.Booted, s.boot}
	}
	if err := s.put(next); err != nil {
		return err
	}
	s.Log.Info("an update of the system was rolled back", messages.Key, messages.SystemRolledBack)
	if err := faultpoint.Hit("system.rollback.recorded"); err != nil {
		return err
	}
	if err := s.link(); err != nil {
		return err
	}
	if err := faultpoint.Hit("system.rollback.linked"); err != nil {
		return err
	}
	return s.tidy()
}

func (s *System) setPath(update digest.Digest) string {
	return filepath.Join(s.Root, setsDir, update.String())
}

// list makes the directory of a set, whose packages are resident: complete, or not at all.
func (s *System) list(set *Set) error {
	dir := s.setPath(set.Update)
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), durable.TempPrefix)
	if err == nil {
		err = s.fill(temp, set)
	}
	if err == nil {
		err = durable.SyncFS(temp)
	}
	if err == nil {
		err = durable.Rename(temp, dir)
	}
	if err != nil && temp != "" {
		err = errors.Join(err, os.RemoveAll(temp))
	}
	return err
}

func (s *System) fill(dir string, set *Set) error {
	text, err := json.MarshalIndent(set, "", "  ")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, setFile), append(text, '\n'), 0o644)
	}
	for _, part := range []struct {
		name string
		list []digest.Digest
	}{{"base", set.Base}, {"cache", set.Cache}} {
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, part.name), 0o755)
		}
		for _, pkg := range part.list {
			if err != nil {
				return err
			}
			var l *manifest.Launch
			if l, err = s.Store.Launch(pkg); err != nil {
				return err
			}
			err = os.Symlink(filepath.Join("../../../packages", pkg.String()), filepath.Join(dir, part.name, l.Name))
			if errors.Is(err, fs.ErrExist) {
				return errkind.New(errkind.Invalid, "cannot use system %s: its %s packages have two of the name %s", set.Version, part.name, l.Name)
			}
		}
	}
	return err
}

// link has <root>/system lead to the set in effect; there is none for the factory set.
func (s *System) link() error {
	rec := s.record()
	path := filepath.Join(s.Root, linkName)
	have, err := os.Readlink(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.Failed, "cannot use %s as the link to the system in effect: %w", path, err).WithHint("remove it; lulld makes a new one")
	}
	set := rec.inEffect()
	if set == nil {
		if have == "" {
			return nil
		}
		return durable.Remove(path)
	}
	if err := s.list(set); err != nil {
		return err
	}
	want := filepath.Join(setsDir, set.Update.String())
	if have == want {
		return nil
	}
	return durable.Symlink(want, path)
}

// recall reads the set in effect from the link, if no record has it.
func (s *System) recall() (*Set, error) {
	dir, err := os.Readlink(filepath.Join(s.Root, linkName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(filepath.Join(s.Root, setsDir, filepath.Base(dir), setFile))
	}
	set := &Set{}
	if err == nil {
		err = json.Unmarshal(text, set)
	}
	if err != nil {
		return nil, errkind.New(errkind.Failed, "cannot determine the system in effect: state.db was lost, and %s cannot be used: %w", filepath.Join(s.Root, linkName), err).
			WithHint("remove that link: then only what system.yaml names is protected")
	}
	s.Log.Warn("state.db was lost: the system in effect counts as committed", messages.Key, messages.SystemCommitted, "version", set.Version)
	return set, nil
}

// tidy removes the directories of dropped sets, and the remains of a crash.
func (s *System) tidy() error {
	rec := s.record()
	keep := map[string]bool{}
	for _, set := range []*Set{rec.Committed, rec.Booted} {
		if set != nil {
			keep[set.Update.String()] = true
		}
	}
	if rec.Stage != nil && (rec.Stage.Step == stepStaged || rec.Stage.Step == StepActivate) {
		keep[rec.Stage.Update.String()] = true
	}
	entries, err := os.ReadDir(filepath.Join(s.Root, setsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			err = errors.Join(err, durable.RemoveAll(filepath.Join(s.Root, setsDir, e.Name())))
		}
	}
	return err
}
