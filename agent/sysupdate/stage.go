package sysupdate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/environment"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/sysmanifest"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/store/resolve"
)

// Update is an update to stage.
type Update struct {
	Package    digest.Digest
	Repository string
	Asked      string // as requested: a name, perhaps with a channel, or a hash
}

// Stage begins to stage an update, or goes on where the same one was interrupted;
// another one that was staged, or on its way, is dropped for it. An update that is
// staged or committed already is none to stage, and no error. Kind Busy: another
// one is under way, or the booted set is not committed.
func (s *System) Stage(u Update) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if st := s.record().Stage; st != nil && st.Step == stepStaged {
		s.end() // its goroutine is about to, with nothing more to do
	}
	s.mu.Lock()
	rec, working := s.rec, s.run != nil
	s.mu.Unlock()
	st := rec.Stage
	switch {
	case s.ctx.Err() != nil:
		return errkind.New(errkind.Interrupted, "cannot stage %s: the agent is stopping", u.Asked)
	case rec.Booted != nil:
		return errkind.New(errkind.Busy, "cannot stage %s: system %s is booted and not committed", u.Asked, rec.Booted.Version).
			WithHint("lull system commit keeps it, lull system rollback goes back")
	case st != nil && st.Update == u.Package && (working || st.Step == stepStaged):
		return nil
	case working:
		return errkind.New(errkind.Busy, "cannot stage %s: %s is being staged", u.Asked, st).
			WithHint("lull system status shows it, lull system rollback gives it up")
	case st != nil && st.Update == u.Package:
		if st.Repository == u.Repository {
			return s.begin()
		}
		next := *st
		next.Repository = u.Repository // the other one may be away
		rec.Stage = &next
		if err := s.put(rec); err != nil {
			return err
		}
		return s.begin()
	case rec.Committed != nil && rec.Committed.Update == u.Package && st == nil:
		return nil
	case st != nil && st.Keeps && st.Step != StepImages:
		return errkind.New(errkind.Busy, "cannot stage %s: hooks of %s have run", u.Asked, st).
			WithHint("lull system rollback undoes them, and gives it up")
	}
	if err := faultpoint.Hit("system.stage"); err != nil {
		return err
	}
	rec.Stage = &stage{Set: Set{Update: u.Package}, Asked: u.Asked, Repository: u.Repository, Step: StepResolve}
	if err := s.put(rec); err != nil {
		return err
	}
	return s.begin()
}

// Continue goes on where staging was interrupted. Kind NotFound: it was not.
func (s *System) Continue() error {
	st := s.record().Stage
	if st == nil {
		return errkind.New(errkind.NotFound, "cannot go on: no system update was begun").WithHint("lull system stage NAME begins one")
	}
	return s.Stage(Update{Package: st.Update, Repository: st.Repository, Asked: st.Asked})
}

// begin starts the goroutine of staging.
func (s *System) begin() error {
	if err := s.tidy(); err != nil { // of what was staged before
		return err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r := &run{cancel, make(chan struct{})}
	s.mu.Lock()
	s.run, s.failed, s.done, s.total = r, nil, 0, 0
	s.mu.Unlock()
	s.Changed()
	go func() {
		defer close(r.ended)
		defer cancel()
		err := s.work(ctx)
		st := s.record().Stage
		if err != nil {
			err = named(st, err)
			s.Log.Warn("staging an update of the system has stopped", messages.Key, messages.SystemStopped, "update", st.String(), "step", st.Step, "error", err)
		} else {
			s.Log.Info("an update of the system is staged: it takes effect at the next boot", messages.Key, messages.SystemStaged, "version", st.Version)
		}
		s.mu.Lock()
		s.run = nil
		s.mu.Unlock()
		_ = s.fail(err) // it is logged
	}()
	return nil
}

// named adds the requested name to an error.
func named(st *stage, err error) error {
	text := err.Error()
	if cause, ok := strings.CutPrefix(text, "cannot "); ok {
		text = errkind.SameSentence("could not "+cause, text)
	}
	hint := errkind.HintOf(err)
	switch {
	case hint != "":
	case errkind.Is(err, errkind.Invalid):
		hint = errkind.Text("it must be re-published; lull system rollback drops this one")
	default:
		hint = errkind.Text("lull system stage goes on where it has stopped, lull system rollback gives it up")
	}
	named := errkind.New(errkind.KindOf(err), "cannot stage %s: %s", st, text)
	named.Hint, named.Err = hint, err
	return named
}

// steps do one step each and return what is recorded behind it.
var steps = map[string]func(*System, context.Context, stage) (stage, error){
	StepResolve: (*System).doResolve,
	StepImages:  (*System).doImages,
	StepInstall: (*System).doInstall,
	StepSet:     (*System).doSet,

	StepActivate: (*System).doActivate,
}

// work does what is left to do.
func (s *System) work(ctx context.Context) error {
	for {
		rec := s.record()
		st := *rec.Stage
		if st.Step == stepStaged {
			return nil
		}
		s.progress(0, 0)
		point := "system." + st.Step
		if err := faultpoint.Hit(point + ".before"); err != nil {
			return err
		}
		next, err := steps[st.Step](s, ctx, st)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = faultpoint.Hit(point + ".after")
		}
		if err != nil {
			return err
		}
		rec.Stage = &next
		if err := s.put(rec); err != nil {
			return err
		}
	}
}

func (s *System) doResolve(ctx context.Context, st stage) (stage, error) {
	if err := s.fetch(ctx, st, []digest.Digest{st.Update}); err != nil {
		return st, err
	}
	m, err := s.manifest(st.Update)
	if err != nil {
		return st, err
	}
	l, err := s.Store.Launch(st.Update)
	if err != nil {
		return st, err
	}
	if len(m.Images) > 0 && len(l.Hooks[manifest.HookPreRefresh]) == 0 {
		return st, errkind.New(errkind.Invalid, "cannot use %s %s as a system update: it has images, and no %s hook that installs them", l.Name, l.Version, manifest.HookPreRefresh)
	}
	st.Name, st.Version, st.Images, st.Base, st.Cache = l.Name, m.Version, m.Images, m.Base, m.Cache
	st.Keeps = slices.ContainsFunc(slices.Collect(maps.Keys(l.Hooks)), manifest.IsSystemHook)
	st.Step = StepImages
	return st, nil
}

func (s *System) doImages(ctx context.Context, st stage) (stage, error) {
	if len(st.Images) > 0 {
		if err := s.collect(ctx, "system.images.collected"); err != nil {
			return st, err
		}
	}
	err := s.fetch(ctx, st, st.Images)
	st.Step = StepInstall
	return st, err
}

func (s *System) doInstall(ctx context.Context, st stage) (stage, error) {
	var images []string
	for _, pkg := range st.Images {
		images = append(images, s.Store.PackageDir(pkg))
	}
	err := s.hook(ctx, st.Update, manifest.HookPreRefresh, st.Version, "LULL_IMAGES="+strings.Join(images, ":"))
	st.Step = StepSet
	return st, err
}

// doSet fetches the set. The images are not retained any more; the update is,
// in case it is staged again, as long as there is room for it.
func (s *System) doSet(ctx context.Context, st stage) (stage, error) {
	if err := s.collect(ctx, "system.set.collected"); err != nil {
		return st, err
	}
	err := s.fetch(ctx, st, st.all())
	if errkind.Is(err, errkind.NoSpace) && !st.Tight && ctx.Err() == nil {
		s.Log.Info("there is no room for the next system: what brought it goes", "version", st.Version, "error", err)
		st.Tight = true
		rec := s.record()
		tight := st
		rec.Stage = &tight
		if err := s.put(rec); err != nil {
			return st, err
		}
		if err := s.collect(ctx, "system.set.tight"); err != nil {
			return st, err
		}
		err = s.fetch(ctx, st, st.all())
	}
	if err != nil {
		return st, err
	}
	if err := s.complete(&st.Set); err != nil {
		return st, err
	}
	if err := s.list(&st.Set); err != nil {
		return st, err
	}
	st.Step, st.Boot = stepStaged, s.boot
	if l, err := s.Store.Launch(st.Update); st.Keeps && (err != nil || len(l.Hooks[manifest.HookActivate]) > 0) {
		st.Step = StepActivate
	}
	return st, faultpoint.Hit("system.set.listed")
}

// doActivate has the machine start with the set next time.
func (s *System) doActivate(ctx context.Context, st stage) (stage, error) {
	if err := s.complete(&st.Set); err != nil {
		return st, err
	}
	err := s.hook(ctx, st.Update, manifest.HookActivate, st.Version)
	st.Step, st.Boot = stepStaged, s.boot
	return st, err
}

// collect makes room. Its failure is no reason to stop: there may be enough.
func (s *System) collect(ctx context.Context, point string) error {
	if err := s.Collect(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.Log.Warn("cannot make room for an update of the system", "error", err)
	}
	return faultpoint.Hit(point)
}

// fetch resolves retained packages, one after the other: each is parallel in itself.
func (s *System) fetch(ctx context.Context, st stage, list []digest.Digest) error {
	if len(list) == 0 {
		return nil
	}
	src, err := s.Repository(st.Repository)
	if err != nil {
		return err
	}
	var before, known int64
	for _, pkg := range list {
		err := s.Resolve(ctx, pkg, src, "update to "+st.String(), func(p resolve.Progress) {
			known = before + p.Total
			s.progress(before+p.Done, known)
		})
		if err != nil {
			return err
		}
		before = known
		if err := faultpoint.Hit("system." + st.Step + ".fetched"); err != nil {
			return err
		}
	}
	return nil
}

func (s *System) progress(done, total int64) {
	s.mu.Lock()
	s.done, s.total = done, total
	s.mu.Unlock()
	s.Changed()
}

// manifest reads the system.json of a resident update.
func (s *System) manifest(update digest.Digest) (m sysmanifest.Manifest, err error) {
	path := filepath.Join(s.Store.PackageDir(update), sysmanifest.Name)
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return m, errkind.New(errkind.Invalid, "cannot use package %s as a system update: it has no %s", update.Short(), sysmanifest.Name)
	case err != nil:
		return m, err
	case !fi.Mode().IsRegular() || fi.Size() > sysmanifest.MaxSize:
		return m, errkind.New(errkind.Invalid, "cannot use package %s as a system update: its %s is no file of at most %d bytes", update.Short(), sysmanifest.Name, sysmanifest.MaxSize)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	return sysmanifest.Parse(text)
}

// complete reports which package of a set is missing.
func (s *System) complete(set *Set) error {
	for _, pkg := range set.all() {
		if !s.Store.HasPackage(pkg) {
			return errkind.New(errkind.Failed, "cannot use system %s: package %s is not resident", set.Version, pkg.Short()).
				WithHint("lull verify --repair fetches what is broken")
		}
	}
	return nil
}

// hook runs a hook of a resident package, if it has it, as the user who owns
// its services. It has no data directory: it belongs to a system, not to an
// instance.
func (s *System) hook(ctx context.Context, pkg digest.Digest, hook, version string, env ...string) error {
	_, err := s.runHook(ctx, pkg, hook, version, env...)
	return err
}

// runHook is hook with the output, which is at most a few KiB.
func (s *System) runHook(ctx context.Context, pkg digest.Digest, hook, version string, env ...string) (string, error) {
	l, err := s.Store.Launch(pkg)
	if err != nil {
		return "", err
	}
	argv := l.Hooks[hook]
	if len(argv) == 0 {
		return "", nil
	}
	limit := s.HookLimit(l.Name)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir := s.Store.PackageDir(pkg)
	text, err := s.RunHook(ctx, services.Hook{
		Instance: l.Name, Name: "system-" + hook, Package: pkg, User: services.User(l.Services),
		Argv: append([]string{filepath.Join(dir, argv[0])}, argv[1:]...),
		Env: environment.Apply(append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
			"LULL_HOOK=" + hook, "LULL_PACKAGE_DIR=" + dir, "LULL_SYSTEM_VERSION=" + version,
		}, slices.Concat(manifest.SubpackageEnv(dir, l), env)...), l.Environment, map[string]string{manifest.PlacePackage: dir}),
	})
	s.Log.Info("a hook has run", messages.Key, messages.HookRan, "package", l.Name, "system", version, "hook", hook, "output", text, "error", err)
	switch {
	case err == nil:
		return text, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", errkind.New(errkind.Failed, "cannot use system %s: the %s hook of %s did not end within %s", version, hook, l.Name, printable.Duration(limit))
	case text != "":
		err = fmt.Errorf("%w: %s", err, text)
	}
	return "", errkind.New(errkind.Failed, "cannot use system %s: the %s hook of %s failed: %w", version, hook, l.Name, err)
}
