package refresh

import (
	"github.com/lull/lull/agent/refresh/plan"
	"testing"
)

func TestManagerOf(t *testing.T) {
	for path, want := range map[string]int{
		"/user.slice/user-1000.slice/user@1000.service/app.slice/lull-a-b.service": 1000,
		"/x/user.slice/user-0.slice/user@0.service/lull-a-b.service":               0,
		"/system.slice/lull-a-b.service":                                           -1,
		"/user.slice/user-1000.slice/user@x.service/lull-a-b.service":              -1,
		"/user.slice/user-1000.slice/user@99999999999.service/lull-a-b.service":    -1,
		"/user.slice/user-1000.slice/session-1.scope":                              -1,
		"": -1,
	} {
		uid, ok := managerOf(path)
		if ok != (want >= 0) || ok && int(uid) != want {
			t.Errorf("managerOf(%q) = %d %v, want %d", path, uid, ok, want)
		}
	}
}

// TestShut: a session that registers is given its services, unless the refresh has stopped
// those of the others and has not notified them to start yet.
func TestShut(t *testing.T) {
	for _, c := range []struct {
		r    plan.Refresh
		want bool
	}{
		{plan.Refresh{Step: plan.Fetch}, false},
		{plan.Refresh{Step: plan.Wait}, false},
		{plan.Refresh{Step: plan.Inhibit}, true},
		{plan.Refresh{Step: plan.StopServices}, true},
		{plan.Refresh{Step: plan.Health}, true},
		{plan.Refresh{Step: plan.Uninhibit}, true},
		{plan.Refresh{Step: plan.Finish}, false}, // notified before or after, perhaps twice
		{plan.Refresh{Step: plan.Link, Undo: true}, true},
		{plan.Refresh{Step: plan.StopServices, Undo: true}, false},
		{plan.Refresh{Step: plan.Inhibit, Undo: true}, false},
		{plan.Refresh{Step: plan.Precopy, Undo: true}, false},
	} {
		if got := shut(&c.r); got != c.want {
			t.Errorf("%s, undo %v: %v, want %v", c.r.Step, c.r.Undo, got, c.want)
		}
	}
}
