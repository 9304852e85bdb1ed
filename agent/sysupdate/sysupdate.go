// Package sysupdate updates the system by sets of packages, as RFC-0217 and
// RFC-0170 of Fuchsia do it, and owns the three indices that belong to systems:
// base, cache and retained.
//
// Words: an update is a package whose tree holds system.json (see agent/lib/sysmanifest). Its
// images are intermediate packages: the update's pre-refresh hook writes them
// to their destination (a boot partition, a device), and then they are no
// longer needed. Its set is the base and cache packages of the next system. A
// set is staged when all of it is resident; booted, when the machine has been
// restarted since and the set is not committed yet; committed, when it was
// confirmed to work. In effect is the booted set, or else the committed one;
// <root>/system leads to a directory of its packages by name. The factory set
// is that of the image's system.yaml; it is protected beside the others.
// Staging is tight
// when update and images had to go before the set could come.
//
// The steps of staging, each recorded before the next begins:
//
//	resolve   retained is the update; it is fetched and read
//	images    retained are update and images; unneeded packages are collected; the images are fetched
//	install   the update's pre-refresh hook runs, with LULL_IMAGES
//	set       retained are update and set, so that the images go first; the set is fetched; if
//	          there is no space, the set alone is retained, and the fetch is retried
//	staged    until the machine restarts
//
// So the disk holds what it holds now and the images, or what it holds now and
// the set, never all three. The steps may be interrupted anywhere and are
// repeated from the last recorded one; their downloads are retained, so that
// nothing is fetched twice, and a hook may run a second time.
//
// The record in state.db is authoritative; the link follows it, also after a
// crash. Only if state.db was lost, the link replaces the record: its set
// counts as committed. While a set is booted nothing is collected: the system
// to roll back to, and the one that has just started, both stay, regardless of
// the indices. Committing runs the health hooks of the base packages first. It
// is theirs, not the update's, because the update may have had to go.
//
// Concurrency: a System may be used from any goroutine. Stage returns at once,
// and its one goroutine does the work; Commit and Rollback block until they are
// done. Close ends staging where it is and waits for it. Changed is called from
// any goroutine and must not block.
package sysupdate

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
)

// Set is the packages of one system.
type Set struct {
	Update  digest.Digest   `json:"update"` // the package that brought it
	Version string          `json:"version"`
	Base    []digest.Digest `json:"base,omitempty"`
	Cache   []digest.Digest `json:"cache,omitempty"`
}

func (s *Set) all() []digest.Digest { return slices.Concat(s.Base, s.Cache) }

// The steps of staging.
const (
	StepResolve = "resolve"
	StepImages  = "images"
	StepInstall = "install"
	StepSet     = "set"
	// StepActivate is a step of updates that have an activate hook.
	StepActivate = "activate"
	stepStaged   = "staged"
)

// stage is an update on its way. A value is never changed: a step returns another.
type stage struct {
	Set
	Asked      string          `json:"asked"`          // as which it was asked for
	Name       string          `json:"name,omitempty"` // of the update, known after resolve
	Repository string          `json:"repository"`
	Images     []digest.Digest `json:"images,omitempty"`
	Step       string          `json:"step"`
	Tight      bool            `json:"tight,omitempty"`
	Keeps      bool            `json:"keeps,omitempty"` // the update has hooks that run after staging, and so it stays until the decision
	Boot       string          `json:"boot,omitempty"`  // the boot during which it was staged
}

// String is what people call it.
func (st *stage) String() string {
	if st.Version == "" {
		return st.Asked
	}
	return "system " + st.Version
}

// record is what must be remembered. At most one of Booted and Stage is there.
type record struct {
	Committed *Set   `json:"committed,omitempty"` // nil means the factory set alone
	Booted    *Set   `json:"booted,omitempty"`
	From      *stage `json:"from,omitempty"` // as which Booted was staged
	Stage     *stage `json:"stage,omitempty"`
	Left      *left  `json:"left,omitempty"`
}

// left is a set that was rolled back while the machine ran it. It is protected until the
// machine runs another one.
type left struct {
	Set
	Boot string `json:"boot"` // in which it was rolled back
}

// retained is the index that belongs to a record.
func (r *record) retained() (list []digest.Digest) {
	st := r.Stage
	switch {
	case r.Booted != nil:
		list = r.Booted.all()
		if r.From != nil && r.From.Keeps {
			list = append(list, r.From.Update)
		}
	case st == nil:
	case st.Step == StepResolve:
		list = []digest.Digest{st.Update}
	case st.Step == StepImages, st.Step == StepInstall:
		list = append(list, st.Update)
		list = append(list, st.Images...)
	case st.Tight && !st.Keeps:
		list = st.all()
	default:
		list = append(st.all(), st.Update)
	}
	return sorted(list)
}

// inEffect is the booted or the committed set; nil means the factory set.
func (r *record) inEffect() *Set {
	if r.Booted != nil {
		return r.Booted
	}
	return r.Committed
}

// leaving is the set that was rolled back and is still running, or nil.
func (r *record) leaving() *Set {
	if r.Left == nil {
		return nil
	}
	return &r.Left.Set
}

// World is what a System works with.
type World struct {
	Root       string
	BootID     string // file whose text differs in each boot; empty means the kernel's, and the start of process 1
	Machine    string // directory with the proc and etc of the machine; empty means /
	State      *state.DB
	Store      *store.Store
	Indices    *index.Indices
	Resolver   *resolve.Resolver
	RunHook    func(context.Context, services.Hook) (output string, err error)
	Repository func(name string) (resolve.Source, error)
	Collect    func(context.Context) error
	HookLimit  func(pkg string) time.Duration
	Changed    func() // the Status, or an index
	Log        *slog.Logger
}

// System is the sets of one machine.
type System struct {
	World
	boot   string
	ctx    context.Context
	cancel context.CancelFunc

	// changing is held for a decision: while staging is under way only its
	// goroutine changes the record, and Rollback ends it first.
	changing sync.Mutex
	// telling is held from changing the record to updating the indices.
	telling sync.Mutex

	mu          sync.Mutex // guards what follows
	rec         record
	factory     Set
	run         *run
	failed      error  // why staging, or settling, has stopped
	done, total int64  // bytes of the step
	running     string // version of the system that the machine runs, as far as it is known
}

// run is staging under way.
type run struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// Load reads the record and updates the indices. Nothing is changed on disk:
// see Reconcile.
func Load(w World) (*System, error) {
	s := &System{World: w}
	var err error
	if s.boot, err = w.identify(); err != nil {
		return nil, errkind.New(errkind.Failed, "cannot identify this boot: %w", err)
	}
	found, err := w.State.System(&s.rec)
	if err == nil && !found {
		s.rec.Committed, err = s.recall()
	}
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.telling.Lock()
	defer s.telling.Unlock()
	return s, s.tellLocked()
}

// Close ends the work under way and waits for it. The record stays.
func (s *System) Close() {
	s.cancel()
	s.changing.Lock()
	defer s.changing.Unlock()
	s.end()
}

// end ends staging and waits for that.
func (s *System) end() {
	s.mu.Lock()
	r := s.run
	s.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.ended
	}
}

func (s *System) record() record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// put records what is true from now on, with the retained index that belongs to it.
func (s *System) put(next record) error {
	s.telling.Lock()
	defer s.telling.Unlock()
	if err := s.State.PutSystem(next, next.retained()); err != nil {
		return errkind.New(errkind.KindOf(err), "cannot record how far the update of the system has come: %w", err)
	}
	s.mu.Lock()
	s.rec, s.failed = next, nil
	s.mu.Unlock()
	return s.tellLocked()
}

// tellLocked updates the indices by the record. A package that moves from one
// to another is always in one of them.
func (s *System) tellLocked() error {
	retained, err := s.State.Set(state.Retained)
	if err != nil {
		return err
	}
	loss, lost, err := s.State.Lost()
	if err != nil {
		return err
	}
	s.mu.Lock()
	rec, factory := s.rec, s.factory
	s.mu.Unlock()
	base, cache := rootsOf(factory.Base, ""), rootsOf(factory.Cache, "")
	for _, set := range []*Set{rec.Committed, rec.Booted, rec.leaving()} {
		if set != nil {
			base = append(base, rootsOf(set.Base, "system "+set.Version)...)
			cache = append(cache, rootsOf(set.Cache, "system "+set.Version)...)
		}
	}
	holder := ""
	if rec.Stage != nil {
		holder = "update to " + rec.Stage.String()
	}
	keep := rootsOf(retained, holder)
	if lost && loss.Retained {
		// It represents a possible former index.
		keep = append(keep, index.Root{Holder: "the system updater, because state.db was lost"})
	}
	s.Indices.SetBase(base)
	s.Indices.SetCache(cache)
	s.Indices.SetRetained(keep)
	s.Changed()
	return nil
}

func rootsOf(list []digest.Digest, holder string) (roots []index.Root) {
	for _, d := range list {
		roots = append(roots, index.Root{Package: d, Holder: holder})
	}
	return roots
}

func sorted(list []digest.Digest) []digest.Digest {
	list = slices.Clone(list)
	slices.SortFunc(list, digest.Digest.Compare)
	return slices.Compact(list)
}

// SetFactory replaces the factory set.
func (s *System) SetFactory(base, cache []digest.Digest) error {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	s.factory = Set{Base: base, Cache: cache}
	s.mu.Unlock()
	return s.tellLocked()
}

// Retain replaces the retained index for a system updater of its own; it is
// durable on return. While this package has an update the index is its alone.
func (s *System) Retain(list []digest.Digest) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	switch rec := s.record(); {
	case rec.Stage != nil:
		return errkind.New(errkind.Busy, "cannot set the retained index: it belongs to the update to %s", rec.Stage).
			WithHint("lull system status shows it, lull system rollback gives it up")
	case rec.Booted != nil:
		return errkind.New(errkind.Busy, "cannot set the retained index: system %s is booted and not committed", rec.Booted.Version).
			WithHint("lull system commit keeps it, lull system rollback goes back")
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	if err := s.State.PutSet(state.Retained, sorted(list)); err != nil {
		return err
	}
	if err := s.State.ForgetLoss(); err != nil { // it is set again
		return err
	}
	return s.tellLocked()
}

// Resolve makes a package resident that is retained: nothing else may come in
// this way, because nothing else would stay. It never enters the open index. A
// package that leaves retained meanwhile is written to its end, and may go then.
func (s *System) Resolve(ctx context.Context, pkg digest.Digest, src resolve.Source, holder string, progress func(resolve.Progress)) error {
	retained, err := s.State.Set(state.Retained)
	if err != nil {
		return err
	}
	if !slices.Contains(retained, pkg) {
		return errkind.New(errkind.Invalid, "cannot resolve package %s for a system update: it is not retained", pkg.Short()).
			WithHint("set the retained index first: what is not in it could be collected at once")
	}
	return s.Resolver.Resolve(ctx, pkg, src, holder, progress)
}

// MayCollect refuses a collection while the booted set is not committed.
func (s *System) MayCollect() error {
	rec := s.record()
	if rec.Booted == nil {
		return nil
	}
	return errkind.New(errkind.Busy, "cannot collect: system %s is booted and not committed, and the system before it must stay whole", rec.Booted.Version).
		WithHint("lull system commit keeps the new one, lull system rollback goes back; both let the other be collected")
}

// The states of a System.
const (
	Idle        = "idle"        // nothing but what is committed
	Staging     = "staging"     // the steps are under way
	Interrupted = "interrupted" // a step has failed or was cut; staging continues there
	Staged      = "staged"      // the next boot takes it
	Booted      = "booted"      // in effect, to be committed or rolled back
)

// Status is how things stand.
type Status struct {
	State     string
	Step      string // while staging or interrupted
	Committed *Set   // nil means the factory set
	Booted    *Set
	Staged    *Set   // also while it is being staged; Version is empty before it is known
	Asked     string // what was asked to be staged
	Done      int64  // bytes of this step that are here
	Total     int64  // bytes of this step, as far as it is known
	Running   string // version that the machine runs; "" means that it is not known
	Err       error  // why it is interrupted, or why the staged set is not in effect
}

// Status returns the current state.
func (s *System) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{State: Idle, Committed: s.rec.Committed, Booted: s.rec.Booted, Running: s.running, Err: s.failed}
	if g := s.rec.Stage; g != nil {
		st.Staged, st.Asked, st.Step, st.State = &g.Set, g.Asked, g.Step, Interrupted
	}
	switch {
	case s.rec.Booted != nil:
		st.State = Booted
	case st.Step == stepStaged:
		st.State, st.Step = Staged, ""
	case s.run != nil:
		st.State, st.Done, st.Total, st.Err = Staging, s.done, s.total, nil
	}
	return st
}

// fail notes why something does not go on.
func (s *System) fail(err error) error {
	if errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
		return err // the next agent has the same record
	}
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	s.Changed()
	return err
}
