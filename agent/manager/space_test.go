package manager

import (
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// TestTidy: the collector runs by itself only if something has lost its protection.
func TestTidy(t *testing.T) {
	m := newManager(t, "gc: {reserve: 0, watermark: 0}\n")
	list := storetest.Metas(t, m.store, "p", 2)
	m.indices.SetBase(rootsOf(list))
	tidy := func(what string, runs bool) {
		t.Helper()
		_, before := m.LastCollection()
		if err := m.tidy(); err != nil {
			t.Fatal(err)
		}
		if _, at := m.LastCollection(); at.After(before) != runs {
			t.Errorf("%s: collected is %v", what, at.After(before))
		}
	}
	tidy("the start", true)
	tidy("nothing", false)
	m.indices.Lease(list[0], "client", 1).Close()
	m.indices.SetInstalled([]index.Root{{Package: list[1], Holder: "org.example.notes"}})
	tidy("a lease of what is a root, and an installation", false)
	m.indices.SetBase(rootsOf(list[1:]))
	tidy("one root less", true)
	if m.store.Has(store.MetaKey(list[0])) || !m.store.Has(store.MetaKey(list[1])) {
		t.Error("it was not the right one that went")
	}
	tidy("nothing again", false)
}

func rootsOf(list []digest.Digest) (roots []index.Root) {
	for _, d := range list {
		roots = append(roots, index.Root{Package: d})
	}
	return roots
}
