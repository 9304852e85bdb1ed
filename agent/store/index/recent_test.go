package index

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/digest"
)

func recent(x *Indices) (list []digest.Digest) {
	for _, r := range x.Of(RecentIndex) {
		list = append(list, r.Package)
	}
	return list
}

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := New()
		use := func(names ...string) {
			for _, n := range names {
				x.Lease(pkg(n), "client", 1).Close()
				time.Sleep(time.Minute)
			}
		}
		want := func(names ...string) {
			t.Helper()
			var list []digest.Digest
			for _, n := range names {
				list = append(list, pkg(n))
			}
			if got := recent(x); !slices.Equal(got, list) {
				t.Errorf("got %v, want %v", got, names)
			}
		}
		use("a")
		want() // it is off
		x.KeepRecent(time.Hour)
		use("a", "b", "c", "a")
		want("b", "c", "a")
		if roots := Firm(x.Snapshot()); len(roots) != 0 {
			t.Errorf("these are firm: got %v, want 0 roots", roots)
		}
		time.Sleep(57 * time.Minute)
		want("c", "a") // b was left an hour ago
		_, generation := x.SnapshotAt()
		x.Evict(pkg("c"), pkg("b"))
		want("a")
		if _, stale := x.Check(generation, key("z")); !stale {
			t.Error("an eviction changes nothing")
		}
		use("b")
		x.Evict()
		want()
		use("d")
		x.KeepRecent(0)
		want()
	})
}

// A package that is no longer recent has lost its protection, also by the mere passing of time.
func TestRecentLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := New()
		x.KeepRecent(time.Hour)
		left := x.ReleaseCount()
		grown := func(what string, want bool) {
			t.Helper()
			now := x.ReleaseCount()
			if (now > left) != want {
				t.Errorf("%s: ReleaseCount goes from %d to %d, want it to grow: %v", what, left, now, want)
			}
			left = now
		}
		grown("nothing", false)
		x.Lease(pkg("a"), "client", 1).Close()
		left = x.ReleaseCount()
		time.Sleep(59 * time.Minute)
		grown("an hour is not over", false)
		time.Sleep(time.Minute)
		grown("an hour is over", true)
		x.SetInstalled([]Root{{Package: pkg("a")}})
		grown("one more root", false)
		x.Lease(pkg("a"), "client", 1).Close()
		grown("a lease of what is a root", false)
		x.Evict(pkg("a"))
		grown("an eviction", true)
	})
}
