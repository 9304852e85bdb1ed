package runs

import (
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/cgroup"
)

func TestMayLeave(t *testing.T) {
	unified := func(path string) []cgroup.Membership { return []cgroup.Membership{{Path: path}} }
	freezer := func(path string) []cgroup.Membership {
		return []cgroup.Membership{{Path: "/user.slice/x.service"}, {Path: path, Controllers: []string{"freezer"}}}
	}
	hybrid := []cgroup.Membership{{Path: "/"}, {Path: "/system.slice/cron.service", Controllers: []string{"name=systemd"}}}
	for _, c := range []struct {
		tracker string
		at      []cgroup.Membership
		want    string // empty if it may
	}{
		{"scope", unified("/"), ""},
		{"scope", unified("/user.slice/user-1000.slice/session-3.scope"), ""},
		{"scope", unified("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-x-7.scope"), "user@1000.service"},
		{"scope", unified("/user.slice/user-1000.slice/user@1000.service/app.slice/app-lull-a-0123456789abcdef01234567.scope"), "user@1000.service"},
		{"scope", unified("/user.slice/user-1000.slice/user-1000-lull.slice/app-lull-a-0123456789abcdef01234567.scope"), ""},
		{"scope", unified("/user.slice/user-1000.slice/user@1000.service/app.slice/confined.service"), "confined.service"},
		{"scope", unified("/system.slice/cron.service"), "cron.service"},
		{"scope", unified("/system.slice/web.service/worker"), "web.service"},
		{"scope", hybrid, "cron.service"},
		{"scope", unified("/machine.slice/machine-deb.scope/payload"), "machine-deb.scope"},
		{"scope", unified("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0a.scope/container"), "libpod-0a.scope"},
		{"scope", unified("/../../x"), "container"},
		{"scope", unified("/system.slice/run-u7.scope"), "run-u7.scope"},
		{"scope", unified("/system.slice/system-tight.slice/run-u7.scope/below"), "run-u7.scope"},
		{"scope of root's", unified("/system.slice/run-u7.scope"), ""},
		{"scope", unified("/init.scope"), ""},
		{"scope", unified("/docker/0a"), "the container docker"},
		{"scope", unified("/kubepods/burstable/pod1/0a"), "the container kubepods"},
		{"scope of root's", unified("/kubepods.slice/kubepods-burstable.slice/cri-containerd-0a.scope"), "the container"},
		{"scope", unified("/tight"), "no unit"},
		{"scope of root's", unified("/tight/more"), "no unit"},
		{"subtree", unified("/agents"), ""},
		{"subtree", unified("/system.slice/web.service"), "web.service"},
		{"subtree", unified("/docker-0a"), "docker-0a"},
		{"freezer", freezer("/"), ""},
		{"freezer", freezer("/agents"), ""},
		{"freezer", freezer("/lull.notes/0123456789abcdef.01234567"), ""},
		{"freezer", freezer("/docker/0a"), "/docker/0a"},
		{"freezer", freezer("/suspended"), "/suspended"},
	} {
		own := []cgroup.Membership{{Path: "/agents"}, {Path: "/agents", Controllers: []string{"freezer"}}}
		tracker, uid := c.tracker, uint32(1000)
		if name, ok := strings.CutSuffix(tracker, " of root's"); ok {
			tracker, uid = name, 0
		}
		got := mayLeave(tracker, uid, c.at, own)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s, %+v: %q, want %q", c.tracker, c.at, got, c.want)
		}
	}
}

// TestSliceFor: a run that the agent makes is below the slice of its caller.
func TestSliceFor(t *testing.T) {
	s := &scopeTracker{uid: theSystem}
	for _, c := range []struct{ at, want, err string }{
		{"/", "", ""},
		{"/init.scope", "", ""},
		{"/user.slice/user-1000.slice/session-3.scope", "user-1000-lull.slice", ""},
		{"/user.slice/user-1000.slice/user-1000-lull.slice/app-lull-a-0123456789abcdef01234567.scope", "user-1000-lull.slice", ""},
		{"/system.slice/x.scope", "system.slice", ""},
		{"/system.slice/system-tight.slice/x.scope", "system-tight.slice", ""},
		{"/tight.slice/tight-more.slice/x.scope", "", "tight-more.slice"},
		{"/user.slice/x.scope", "", "user.slice"},
	} {
		got, err := s.sliceFor([]cgroup.Membership{{Path: c.at}})
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %q, %v; want %q and an error with %q (empty: none)", c.at, got, err, c.want, c.err)
		}
	}
}
