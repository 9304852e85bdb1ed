package runs

import "testing"

// TestNames: a process that has no number here is not reported as root's.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		p    Process
		want string
	}{
		{Process{7, 1000, "notes"}, "notes (pid 7, uid 1000)"},
		{Unseen, "something that cannot be seen from here"},
		{Process{0, 1000, unreadCommand}, "perhaps a process in groups that cannot be read (uid 1000)"},
		{Process{0, 1000, ""}, "a process of another PID namespace (uid 1000)"},
	} {
		if got := c.p.String(); got != c.want {
			t.Errorf("%+v is %q, want %q", c.p, got, c.want)
		}
	}
}
