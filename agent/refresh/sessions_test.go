package refresh

import "testing"

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

// TestShut: a session that registers is given its services, unless the refresh has
// stopped those of the others and has not told them to start yet.
func TestShut(t *testing.T) {
	for _, c := range []struct {
		r    Refresh
		want bool
	}{
		{Refresh{Step: Fetch}, false},
		{Refresh{Step: Wait}, false},
		{Refresh{Step: Inhibit}, true},
		{Refresh{Step: StopServices}, true},
		{Refresh{Step: Health}, true},
		{Refresh{Step: Uninhibit}, true},
		{Refresh{Step: Finish}, false}, // told before or after, perhaps twice
		{Refresh{Step: Link, Undo: true}, true},
		{Refresh{Step: StopServices, Undo: true}, false},
		{Refresh{Step: Inhibit, Undo: true}, false},
		{Refresh{Step: Precopy, Undo: true}, false},
	} {
		if got := shut(&c.r); got != c.want {
			t.Errorf("%s, undo %v: %v", c.r.Step, c.r.Undo, got)
		}
	}
}
