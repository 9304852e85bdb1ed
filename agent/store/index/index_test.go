package index

import (
	"slices"
	"sync"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
)

func pkg(s string) digest.Digest { return digest.Of([]byte(s)) }

func key(s string) store.Key { return store.Key{Digest: pkg(s)} }

func TestSnapshot(t *testing.T) {
	x := New()
	x.SetInstalled([]Root{{Package: pkg("i"), Holder: "org.x"}})
	x.SetRetained([]Root{{Package: pkg("r")}})
	x.SetCache([]Root{{Package: pkg("c")}})
	x.SetBase([]Root{{Index: "nonsense", Package: pkg("b")}})
	w := x.BeginWriting(pkg("w"), "install")
	l := x.Lease(pkg("l"), "client", 12)
	x.AddProvider(func() []Root { return []Root{{Package: pkg("run"), Holder: "org.x", PID: 13}} })
	var got []Root
	for _, r := range x.Snapshot() {
		r.writing = nil
		got = append(got, r)
	}
	want := []Root{
		{Index: BaseIndex, Package: pkg("b")}, {Index: CacheIndex, Package: pkg("c")}, {Index: RetainedIndex, Package: pkg("r")},
		{Index: InstalledIndex, Package: pkg("i"), Holder: "org.x"}, {Index: WritingIndex, Package: pkg("w"), Holder: "install"},
		{Index: OpenIndex, Package: pkg("l"), Holder: "client", PID: 12}, {Index: OpenIndex, Package: pkg("run"), Holder: "org.x", PID: 13},
	}
	slices.SortFunc(want[5:], compare)
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if open := x.Of(OpenIndex); len(open) != 2 {
		t.Errorf("Of(open): got %v, want 2 of them", open)
	}
	w.End()
	w.End()
	l.Close()
	l.Close()
	x.SetBase(nil)
	if left := x.Snapshot(); len(left) != 4 {
		t.Errorf("left: %v", left)
	}
}

func TestProtects(t *testing.T) {
	x := New()
	check := func(when string, want ...string) {
		t.Helper()
		for _, k := range []string{"p", "q", "a", "b"} {
			if got := x.Protects(key(k)); got != slices.Contains(want, k) {
				t.Errorf("%s: Protects(%s) is %v; want %v", when, k, got, slices.Contains(want, k))
			}
		}
	}
	check("empty")
	one := x.BeginWriting(pkg("p"), "one")
	two := x.BeginWriting(pkg("p"), "two")
	one.Add(key("a"), key("a"), key("b"))
	two.Add(key("a"))
	check("two resolves", "p", "a", "b")
	for _, r := range x.Of(WritingIndex) {
		if !r.Wants(key("a")) || r.Wants(key("b")) != (r.Holder == "one") || len(r.Wanted()) < 2 {
			t.Errorf("%s wants %v", r.Holder, r.Wanted())
		}
	}
	one.End()
	one.Add(key("b"))
	check("one ended", "p", "a")
	l := x.Lease(pkg("q"), "c", 1)
	two.End()
	check("leased", "q")
	l.Close()
	check("closed")
	if len(x.held)+len(x.writing)+len(x.leases) != 0 {
		t.Errorf("something is left: %+v", x)
	}
}

// TestGeneration: every change that could protect something makes a mark stale.
func TestGeneration(t *testing.T) {
	x := New()
	var w *Writing
	var l *Lease
	for _, c := range []struct {
		what  string
		do    func()
		stale bool
	}{
		{"nothing", func() {}, false},
		{"begin", func() { w = x.BeginWriting(pkg("p"), "") }, true},
		{"add", func() { w.Add(key("a")) }, false}, // Check itself covers it
		{"end", func() { w.End() }, true},
		{"end again", func() { w.End() }, false},
		{"lease", func() { l = x.Lease(pkg("p"), "", 0) }, true},
		{"another lease of it", func() { x.Lease(pkg("p"), "", 0).Close() }, false},
		{"close", func() { l.Close() }, false}, // nothing more has to stay
		{"close again", func() { l.Close() }, false},
		{"lease again", func() { l = x.Lease(pkg("p"), "", 0) }, true},
		{"close once more", func() { l.Close() }, false},
		{"retain", func() { x.SetRetained([]Root{{Package: pkg("p")}}) }, true},
		{"retain the same", func() { x.SetRetained([]Root{{Package: pkg("p")}}) }, false},
		{"begin of what is retained", func() { w = x.BeginWriting(pkg("p"), "") }, false},
		{"end of what was there", func() { w.End() }, false},
		{"begin of what is retained again", func() { w = x.BeginWriting(pkg("p"), "") }, false},
		{"add to it", func() { w.Add(key("a")) }, false},
		{"end of what was not all there", func() { w.End() }, true},
		{"lease of what is retained", func() { x.Lease(pkg("p"), "", 0).Close() }, false},
		{"retain nothing", func() { x.SetRetained(nil) }, true},
		{"lease of what was retained", func() { x.Lease(pkg("p"), "", 0).Close() }, true},
		{"install", func() { x.SetInstalled([]Root{{Package: pkg("p")}}) }, true},
		{"run", func() { x.Changed(OpenIndex) }, true},
		{"provider", func() { x.AddProvider(func() []Root { return nil }) }, true},
	} {
		_, generation := x.SnapshotAt()
		c.do()
		if _, stale := x.Check(generation, key("z")); stale != c.stale {
			t.Errorf("%s: stale is %v, want %v", c.what, stale, c.stale)
		}
	}
}

// TestOnChange: callbacks and providers may call back.
func TestOnChange(t *testing.T) {
	x := New()
	var told []string
	x.OnChange(func(index string) {
		x.Snapshot()
		told = append(told, index)
	})
	x.AddProvider(func() []Root { x.Protects(key("a")); return nil })
	x.SetBase([]Root{{Package: pkg("b")}})
	x.SetBase([]Root{{Package: pkg("b")}})
	w := x.BeginWriting(pkg("w"), "")
	w.Add(key("a"))
	w.End()
	x.Lease(pkg("l"), "", 0).Close()
	if want := []string{OpenIndex, BaseIndex, WritingIndex, WritingIndex, OpenIndex, OpenIndex}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestConcurrent(t *testing.T) {
	x := New()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				w := x.BeginWriting(pkg("p"), "h")
				w.Add(key("a"))
				l := x.Lease(pkg("p"), "h", i)
				if !x.Protects(key("a")) {
					t.Error("not protected")
				}
				for _, r := range x.Snapshot() {
					r.Wants(key("a"))
				}
				w.End()
				l.Close()
			}
		})
	}
	all.Wait()
	if x.Protects(key("a")) || len(x.Snapshot()) != 0 {
		t.Error("something is left")
	}
}
