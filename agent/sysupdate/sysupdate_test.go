package sysupdate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
)

// TestUpdate goes the whole way twice, and checks at each step which packages
// are protected and present.
func TestUpdate(t *testing.T) {
	m := newMachine(t)
	factory, shared := m.pkg("factory", "0", nil), m.pkg("shared", "1", nil)
	m.repo.Put(t, m.store, factory)
	m.factory = []digest.Digest{factory}
	m.restart()
	a := m.pkg("a", "1", nil)
	first := m.update(spec{version: "1", base: []digest.Digest{a}, cache: []digest.Digest{shared}})
	m.is(Idle, "", "")
	m.no(m.stage(first))
	m.is(Staged, "", "")
	m.restart()
	m.is(Staged, "", "") // the boot is the same
	refused(t, m.Commit(t.Context()), errkind.Busy, "cannot commit system 1: it takes effect when the machine starts again")
	m.reboot()
	m.is(Booted, "", "1")
	m.no(m.Commit(t.Context()))
	m.is(Idle, "1", "")
	m.no(m.Commit(t.Context())) // a repetition changes nothing

	out := filepath.Join(t.TempDir(), "images")
	image := m.pkg("image", "2", nil)
	b := m.pkg("b", "2", map[string]string{"health": `[ "$LULL_SYSTEM_VERSION" = 2 ] && test -e "$LULL_PACKAGE_DIR/content" && test ! -e ` + out + ".sick\n"})
	second := m.update(spec{version: "2", images: []digest.Digest{image}, base: []digest.Digest{b}, cache: []digest.Digest{shared},
		hooks: map[string]string{"pre-refresh": `cat "$LULL_IMAGES/content" > ` + out + "\n"}})
	seen := map[digest.Digest]bool{}
	m.Resolver.Parallel = 1
	m.repo.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		var want []digest.Digest
		switch seen[d] = true; d {
		case second.Package:
			want = []digest.Digest{second.Package}
		case image:
			want = []digest.Digest{second.Package, image}
		case b:
			want = []digest.Digest{second.Package, b, shared}
			m.has(false, image) // it went before the set comes
			m.has(true, second.Package, shared, a, factory)
		default:
			return nil
		}
		if got := m.roots(index.RetainedIndex); !slices.Equal(got, sorted(want)) {
			t.Errorf("retained is %v, want %v", got, want)
		}
		if got := m.roots(index.OpenIndex); len(got) > 0 {
			t.Errorf("open: got %v, want none", got)
		}
		return nil
	}
	m.no(m.stage(second))
	m.repo.Before = nil
	if !seen[second.Package] || !seen[image] || !seen[b] || m.repo.Fetches(shared) != 1 {
		t.Errorf("got fetched %v and %d fetches of %s; want %s, %s and %s, and 1", seen, m.repo.Fetches(shared), shared, second.Package, image, b)
	}
	if text, err := os.ReadFile(out); err != nil || !strings.HasPrefix(string(text), "image 2\n") {
		t.Errorf("got %q (%v) installed by the hook, want it to begin with \"image 2\\n\"", text, err)
	}
	m.is(Staged, "1", "")
	if _, err := m.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.has(true, a, b, shared, factory)

	m.reboot()
	m.is(Booted, "1", "2")
	_, err := m.collect(t.Context())
	refused(t, err, errkind.Busy, "cannot collect: system 2 is booted and not committed")
	refused(t, m.Stage(first), errkind.Busy, "cannot stage org.test.system: system 2 is booted and not committed")
	refused(t, m.Retain(nil), errkind.Busy, "system 2 is booted and not committed")
	m.no(os.WriteFile(out+".sick", nil, 0o644))
	refused(t, m.Commit(t.Context()), errkind.Failed, "cannot use system 2: the health hook of b failed")
	m.is(Idle, "1", "") // it is rolled back
	m.no(os.Remove(out + ".sick"))
	m.repo.Before = nil
	m.no(m.stage(second))
	m.reboot()
	m.is(Booted, "1", "2")
	m.no(m.Commit(t.Context()))
	m.is(Idle, "2", "")
	if got := m.roots(index.RetainedIndex); len(got) > 0 {
		t.Errorf("retained: got %v, want none", got)
	}
	if _, err := m.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.has(true, b, shared, factory)
	m.has(false, a, image, first.Package, second.Package)
	if left, err := os.ReadDir(filepath.Join(m.root, "systems")); err != nil || len(left) != 1 {
		t.Errorf("systems: got %v (%v), want one", left, err)
	}
	m.no(m.stage(second)) // it is committed already
	m.is(Idle, "2", "")
}

func TestRollback(t *testing.T) {
	m := newMachine(t)
	refused(t, m.Rollback(), errkind.NotFound, "cannot roll back: no system update")
	refused(t, m.Commit(t.Context()), errkind.NotFound, "cannot commit: there is no system update")
	refused(t, m.Continue(), errkind.NotFound, "cannot go on: no system update was begun")
	a, b := m.pkg("a", "1", nil), m.pkg("a", "2", nil)
	one, two := m.update(spec{version: "1", base: []digest.Digest{a}}), m.update(spec{version: "2", base: []digest.Digest{b}})

	m.no(m.stage(one))
	m.no(m.Rollback())
	m.is(Idle, "", "")
	m.collectAll()
	m.has(false, a)

	m.no(m.stage(one))
	m.reboot()
	m.is(Booted, "", "1")
	m.no(m.Rollback()) // to the factory set
	m.is(Idle, "", "")
	m.reboot()
	m.is(Idle, "", "")

	m.no(m.stage(one))
	m.reboot()
	m.no(m.Commit(t.Context()))
	m.no(m.stage(two))
	m.reboot()
	m.is(Booted, "1", "2")
	m.no(m.Rollback())
	m.is(Idle, "1", "")
	m.collectAll()
	m.has(true, a, b) // it runs until the machine restarts
	m.reboot()
	m.is(Idle, "1", "")
	m.collectAll()
	m.has(true, a)
	m.has(false, b)

	// Another update takes the place of a staged one.
	m.no(m.stage(two))
	three := m.update(spec{version: "3", cache: []digest.Digest{m.pkg("c", "3", nil)}})
	m.no(m.stage(three))
	m.collectAll()
	m.has(false, b)
	m.reboot()
	m.is(Booted, "1", "3")
}

func (m *machine) collectAll() {
	m.t.Helper()
	if _, err := m.collect(context.Background()); err != nil {
		m.t.Fatal(err)
	}
}

// TestUnfit: what is no update is refused by name, and can be given up.
func TestUnfit(t *testing.T) {
	m := newMachine(t)
	a, twin := m.pkg("a", "1", nil), m.pkg("a", "2", nil)
	for name, c := range map[string]struct {
		spec spec
		kind errkind.Kind
		text string
	}{
		"no hook":  {spec{version: "1", images: []digest.Digest{a}, base: []digest.Digest{a}}, errkind.Invalid, "it has images, and no pre-refresh hook that installs them"},
		"failing":  {spec{version: "1", base: []digest.Digest{a}, hooks: map[string]string{"pre-refresh": "echo no device; exit 3\n"}}, errkind.Failed, "cannot stage system 1: could not use system 1: the pre-refresh hook of org.test.system failed: exit status 3: no device"},
		"twins":    {spec{version: "1", base: []digest.Digest{a, twin}}, errkind.Invalid, "its base packages have two of the name a"},
		"manifest": {spec{text: `{"version":"1"}`}, errkind.Invalid, "cannot stage org.test.system: could not use system.json: it names no package"},
		"absent":   {spec{version: "1", base: []digest.Digest{digest.Of([]byte("nothing"))}}, errkind.Failed, "cannot stage system 1: could not"},
	} {
		t.Run(name, func(t *testing.T) {
			u := m.update(c.spec)
			refused(t, m.stage(u), c.kind, c.text)
			m.is(Interrupted, "", "")
			m.restart()
			m.is(Interrupted, "", "")
			refused(t, m.stage(u), c.kind, c.text)
			m.no(m.Rollback())
			m.is(Idle, "", "")
		})
	}
	u := Update{Package: a, Repository: "local", Asked: "a"}
	refused(t, m.stage(u), errkind.Invalid, "as a system update: it has no system.json")
}

// TestResolve: only what is retained comes in, and what leaves retained in the
// middle of being written is written whole, and goes then.
func TestResolve(t *testing.T) {
	m := newMachine(t)
	a, b := m.pkg("a", "1", nil), m.pkg("b", "1", nil)
	refused(t, m.Resolve(t.Context(), a, m.repo, "updater", nil), errkind.Invalid, "it is not retained")
	m.no(m.Retain([]digest.Digest{a}))
	m.restart() // it lasts
	refused(t, m.Resolve(t.Context(), b, m.repo, "updater", nil), errkind.Invalid, "it is not retained")
	content := digest.Of([]byte(strings.Repeat("a 1\n", 100)))
	hit := false
	m.repo.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		if d != content {
			return nil
		}
		hit = true
		if got := m.roots(index.WritingIndex); !slices.Equal(got, []digest.Digest{a}) {
			t.Errorf("writing is %v; want %v", got, []digest.Digest{a})
		}
		if got := m.roots(index.OpenIndex); len(got) > 0 {
			t.Errorf("open: got %v, want none", got)
		}
		m.no(m.Retain([]digest.Digest{b}))
		_, err := m.collect(context.Background())
		return err
	}
	m.no(m.Resolve(t.Context(), a, m.repo, "updater", nil))
	m.repo.Before = nil
	if !hit {
		t.Fatal("the content was not fetched")
	}
	m.has(true, a)
	if missing, err := m.store.Missing(a); err != nil || len(missing) > 0 {
		t.Errorf("got %v missing (%v), want nothing", missing, err)
	}
	m.collectAll()
	m.has(false, a)
	m.no(m.Resolve(t.Context(), b, m.repo, "updater", nil))
	m.collectAll()
	m.has(true, b)
	m.no(m.Retain(nil))
	m.collectAll()
	m.has(false, b)
}

// TestBusy: while an update is on its way the retained index is its alone.
func TestBusy(t *testing.T) {
	m := newMachine(t)
	a := m.pkg("a", "1", nil)
	u, other := m.update(spec{version: "1", base: []digest.Digest{a}}), m.update(spec{version: "2", base: []digest.Digest{a}})
	reached, goOn := make(chan struct{}), make(chan struct{})
	m.repo.Before = func(ctx context.Context, d digest.Digest, _ int64) error {
		if d != a {
			return nil
		}
		close(reached)
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.no(m.Stage(u))
	<-reached
	m.is(Staging, "", "")
	m.no(m.Stage(u)) // is what is done
	refused(t, m.Stage(other), errkind.Busy, "cannot stage org.test.system: system 1 is being staged")
	refused(t, m.Retain(nil), errkind.Busy, "it belongs to the update to system 1")
	refused(t, m.Commit(t.Context()), errkind.Busy, "cannot commit system 1: it is not staged yet")
	m.no(m.Rollback()) // ends it
	m.is(Idle, "", "")
	m.repo.Before = nil
	m.no(m.stage(u))
	m.is(Staged, "", "")
}

// TestSufferedSet: an incomplete staged set does not take effect.
func TestSufferedSet(t *testing.T) {
	m := newMachine(t)
	a := m.pkg("a", "1", nil)
	u := m.update(spec{version: "1", base: []digest.Digest{a}})
	m.no(m.stage(u))
	m.stop()
	dir := filepath.Join(m.root, "packages", a.String())
	m.no(errors.Join(os.Rename(dir, dir+".gone"), os.WriteFile(m.boot, []byte("second"), 0o644)))
	m.suffers = true
	m.start()
	refused(t, m.settled, errkind.Failed, "cannot stage system 1")
	m.is(Interrupted, "", "")
	refused(t, m.Status().Err, errkind.Failed, "cannot stage system 1: could not use system 1: package "+a.Short()+" is not resident")
	m.no(os.Rename(dir+".gone", dir))
	m.no(m.stage(u))
	m.is(Staged, "", "")
}

// TestStateLost: the link determines the system in effect if no record does.
func TestStateLost(t *testing.T) {
	m := newMachine(t)
	a := m.pkg("a", "1", nil)
	m.no(m.stage(m.update(spec{version: "1", base: []digest.Digest{a}})))
	m.reboot()
	m.no(m.Commit(t.Context()))
	m.stop()
	path := filepath.Join(m.root, "state.db")
	saved := state.Salvage(path)
	if saved.System == nil || !saved.Known {
		t.Errorf("saved: got system %q and retained known %v, want a system and true", saved.System, saved.Known)
	}
	m.no(os.Remove(path))
	m.start()
	m.is(Idle, "1", "")
	m.collectAll()
	m.has(true, a)
	m.no(m.stage(m.update(spec{version: "2", base: []digest.Digest{m.pkg("a", "2", nil)}})))
	m.reboot()
	m.is(Booted, "1", "2")
}

// TestLinkInTheWay: what lies where the link belongs is not touched, and nothing is
// committed that the link does not lead to.
func TestLinkInTheWay(t *testing.T) {
	m := newMachine(t)
	m.no(m.stage(m.update(spec{version: "1", base: []digest.Digest{m.pkg("a", "1", nil)}})))
	path := filepath.Join(m.root, "system")
	m.no(os.Mkdir(path, 0o755))
	m.suffers = true
	m.reboot()
	refused(t, m.settled, errkind.Failed, "as the link to the system in effect")
	if st := m.Status(); st.State != Booted || st.Err == nil {
		t.Errorf("got %+v, want state %v and an error", st, Booted)
	}
	refused(t, m.Commit(t.Context()), errkind.Failed, "as the link to the system in effect")
	m.no(os.Remove(path))
	m.no(m.Commit(t.Context()))
	m.is(Idle, "1", "")
	m.no(m.Status().Err)
}

// TestOtherRepository: an update that was interrupted goes on from another repository.
func TestOtherRepository(t *testing.T) {
	m := newMachine(t)
	a := m.pkg("a", "1", nil)
	u := m.update(spec{version: "1", base: []digest.Digest{a}})
	m.repo.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		if d == a {
			return errors.New("the repository is away")
		}
		return nil
	}
	refused(t, m.stage(u), errkind.Failed, "the repository is away")
	m.repo.Before = nil
	u.Repository = "gone"
	refused(t, m.stage(u), errkind.NotFound, `cannot stage system 1: could not find repository "gone"`)
	m.from, u.Repository = nil, "mirror"
	m.no(m.stage(u))
	if !slices.Equal(m.from, []string{"mirror"}) {
		t.Errorf("it came from %q; want from %v", m.from, []string{"mirror"})
	}
	if n := m.repo.Fetches(u.Package); n != 1 {
		t.Errorf("the update was fetched %d times, want 1", n)
	}
	m.is(Staged, "", "")
}
