package refresh

import (
	"fmt"
	"testing"
	"time"

	"github.com/lull/lull/agent/state"
)

// TestSuperseded: the revisions that a user can return to are kept.
func TestSuperseded(t *testing.T) {
	made := func(n uint32) state.Revision { return state.Revision{Number: n, Made: time.Unix(int64(n), 0)} }
	reverted := func(n uint32) state.Revision { v := made(n); v.Reverted = true; return v }
	for _, c := range []struct {
		name string
		list []state.Revision
		cur  uint32
		keep int
		want string
	}{
		{"one", []state.Revision{made(1)}, 1, 2, "[]"},
		{"the oldest goes", []state.Revision{made(1), made(2), made(3)}, 3, 2, "[1]"},
		{"none but the current", []state.Revision{made(1), made(2)}, 2, 0, "[1]"},
		{"staged ones stay", []state.Revision{made(1), made(2), {Number: 3}}, 2, 1, "[1]"},
		{"after a revert both stay", []state.Revision{made(1), reverted(2)}, 1, 2, "[]"},
		{"after the next refresh the reverted one goes", []state.Revision{made(1), reverted(2), made(3)}, 3, 2, "[2]"},
		{"with more room the oldest reverted one goes", []state.Revision{reverted(1), made(2), reverted(3), made(4)}, 4, 3, "[1]"},
	} {
		if got := fmt.Sprint(superseded(c.list, c.cur, c.keep)); got != c.want {
			t.Errorf("%s: got %s superseded, want %s", c.name, got, c.want)
		}
	}
}
