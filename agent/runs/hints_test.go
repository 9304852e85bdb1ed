package runs

import (
	"testing"
	"testing/synctest"
)

func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHints()
		for range 100 {
			h.give("a")
			h.give("b")
		}
		synctest.Wait()
		// The reader is slow: one of the two may be on its way, no more.
		got := map[string]int{}
		drain := func() {
			for {
				synctest.Wait()
				select {
				case name := <-h.out:
					got[name]++
				default:
					return
				}
			}
		}
		drain()
		if got["a"] < 1 || got["b"] < 1 || got["a"]+got["b"] > 3 {
			t.Errorf("got %v, want a and b at least once and three in all at most", got)
		}
		clear(got)
		h.give("a")
		h.give("")
		h.give("b")
		drain()
		if got[""] != 1 || got["b"] != 0 {
			t.Errorf("got %v, want all at once", got)
		}
		h.give("a")
		drain()
		if got["a"] < 1 {
			t.Errorf("got %v, want a at least once", got)
		}
		h.give("z")
		h.close()
		if _, ok := <-h.out; ok {
			t.Error("open after close")
		}
	})
}
