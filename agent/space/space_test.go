package space

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/policy"
)

func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := policy.Defaults()
	p.GC.Watermark = policy.Watermark{}
	return New(Config{Store: s, Indices: index.New(), Policy: func() *policy.Policy { return p }, Log: slog.New(slog.DiscardHandler),
		MayCollect: func() error { return nil },
		Collected:  func(context.Context, gc.Result, time.Time, error) {}})
}

// TestTidy: the collector runs by itself only if something has lost its protection.
func TestTidy(t *testing.T) {
	k := newKeeper(t)
	list := storetest.Metas(t, k.Store, "p", 2)
	k.Indices.SetBase(rootsOf(list))
	tidy := func(what string, runs bool) {
		t.Helper()
		_, before := k.Last()
		if err := k.tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, at := k.Last(); at.After(before) != runs {
			t.Errorf("%s: collected is %v, want %v", what, at.After(before), runs)
		}
	}
	tidy("the start", true)
	tidy("nothing", false)
	k.Indices.Lease(list[0], "client", 1).Close()
	k.Indices.SetInstalled([]index.Root{{Package: list[1], Holder: "org.example.notes"}})
	tidy("a lease of what is a root, and an installation", false)
	k.Indices.SetBase(rootsOf(list[1:]))
	tidy("one root less", true)
	if k.Store.Has(store.MetaKey(list[0])) || !k.Store.Has(store.MetaKey(list[1])) {
		t.Error("the wrong package was removed")
	}
	tidy("nothing again", false)
}

// TestRefused: while nothing may be collected, nothing is, and the reason is the error.
func TestRefused(t *testing.T) {
	k := newKeeper(t)
	list := storetest.Metas(t, k.Store, "p", 1)
	why := errors.New("the retained index is unknown")
	k.MayCollect = func() error { return why }
	for _, free := range []int64{0, 1 << 20} {
		if _, err := k.Collect(t.Context(), free); !errors.Is(err, why) {
			t.Errorf("collecting %d bytes: error %v, want %v", free, err, why)
		}
	}
	if !k.Store.Has(store.MetaKey(list[0])) {
		t.Error("a package was removed")
	}
	if _, at := k.Last(); !at.IsZero() {
		t.Errorf("the last collection was at %v, want none", at)
	}
}

// TestUndisturbed: a collection that is requested meanwhile waits.
func TestUndisturbed(t *testing.T) {
	k := newKeeper(t)
	storetest.Metas(t, k.Store, "p", 1)
	requested := make(chan struct{})
	k.MayCollect = func() error { close(requested); return nil }
	var over atomic.Bool
	k.Collected = func(context.Context, gc.Result, time.Time, error) {
		if !over.Load() {
			t.Error("something was collected meanwhile")
		}
	}
	done := make(chan error, 1)
	k.Undisturbed(func() {
		go func() {
			_, err := k.Collect(t.Context(), 0)
			done <- err
		}()
		<-requested
		for range 1000 { // time enough for a collection of one package
			runtime.Gosched()
		}
		over.Store(true)
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func rootsOf(list []digest.Digest) (roots []index.Root) {
	for _, d := range list {
		roots = append(roots, index.Root{Package: d})
	}
	return roots
}
