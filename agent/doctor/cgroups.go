package doctor

import (
	"fmt"
	"strings"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
)

// cgroupMode names the mounted versions of cgroups, by their paths. A machine with v1 must
// change before an upgrade of systemd: 258 refuses to boot with it.
func cgroupMode(unified, freezer string) string {
	switch {
	case unified == "":
		return errkind.Text("v1, which systemd has no more from 258 on")
	case freezer != "":
		return errkind.Text("v2 and v1, which systemd has no more from 258 on")
	}
	return "v2"
}

func (d *Doctor) checkCgroups(add func(name, state, seen, advice string)) {
	layout, err := cgroup.Mounts()
	if err == nil {
		_, err = d.Tracker.Runs()
	}
	if err != nil {
		add("cgroups", Fail, err.Error(), errkind.Text("applications count as running, and nothing is collected, as long as this is so; see that /sys/fs/cgroup is mounted and that lulld may read it"))
		return
	}
	mode := cgroupMode(layout.Unified, layout.Freezer)
	if unread, err := d.Tracker.Unread(); err == nil && len(unread) > 0 {
		var who []string
		for _, u := range unread {
			who = append(who, fmt.Sprintf("user %d (%v)", u.UID, u.Err))
		}
		add("cgroups", Warn, errkind.Text("%s; cannot read the groups of %s", mode, strings.Join(who, ", ")),
			errkind.Text("the user counts as running every application, and refreshes wait for that user until the deadline; systemctl stop user@UID.service ends it"))
		return
	}
	if d.Tracker.Name() != "scope" && !d.User {
		add("cgroups", OK, errkind.Text("%s; services that belong to users' sessions need systemd with v2", mode), "")
		return
	}
	add("cgroups", OK, mode, "")
}
