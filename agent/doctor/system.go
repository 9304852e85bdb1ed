package doctor

import (
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/sysupdate"
)

// checkSystem checks system updates.
func (d *Doctor) checkSystem(add func(name, state, seen, advice string)) {
	switch st := d.System(); {
	case st.State == sysupdate.Booted && st.Running != "" && st.Running != st.Booted.Version:
		add("system", Warn, errkind.Text("system %s is in effect, and the machine runs system %s", st.Booted.Version, st.Running), errkind.Text("lull system rollback goes back"))
	case st.State == sysupdate.Booted:
		add("system", Warn, errkind.Text("system %s is booted and not committed; nothing is collected", st.Booted.Version),
			errkind.Text("lull system commit keeps it, lull system rollback goes back"))
	case st.Err != nil:
		add("system", Warn, st.Err.Error(), errkind.HintOf(st.Err))
	case st.State == sysupdate.Interrupted:
		add("system", Warn, errkind.Text("staging %s was interrupted", st.Asked),
			errkind.Text("lull system stage goes on where it has stopped, lull system rollback gives it up"))
	case st.Committed != nil && st.Running != "" && st.Running != st.Committed.Version:
		add("system", Warn, errkind.Text("system %s is committed, and the machine runs system %s", st.Committed.Version, st.Running),
			errkind.Text("restart the machine; lull system status shows the systems"))
	case st.Committed != nil:
		add("system", OK, errkind.Text("system %s is committed", st.Committed.Version), "")
	}
}

// maxMissing is the number of missing packages of the system that are named.
const maxMissing = 3

// checkSystemPackages checks that the packages of the base and the cache index are resident.
func (d *Doctor) checkSystemPackages(add func(name, state, seen, advice string)) {
	missing, total, failed := d.SystemPackages()
	if len(missing) == 0 {
		if total > 0 {
			add("system packages", OK, errkind.Text("%d, all present", total), "")
		}
		return
	}
	var names []string
	for _, r := range missing[:min(len(missing), maxMissing)] {
		names = append(names, r.Index+" "+r.Package.Short())
	}
	if len(missing) > maxMissing {
		names = append(names, "…")
	}
	seen := errkind.Text("%d of %d are missing: %s", len(missing), total, strings.Join(names, ", "))
	if failed != nil {
		seen = errkind.Text("%d of %d are missing: %s; %s", len(missing), total, strings.Join(names, ", "), failed.Error())
	}
	add("system packages", Fail, seen, errkind.Text("they are fetched when the repositories are read; lull policy reload tries now"))
}

// checkMetrics checks that the metrics are written.
func (d *Doctor) checkMetrics(add func(name, state, seen, advice string)) {
	m := d.Metrics()
	switch {
	case m.Path == "":
	case m.Failure != "":
		add("metrics", Warn, m.Failure, errkind.Text("metrics.textfile in the policy names the file; its directory must exist, and no symbolic link on the way to it"))
	default:
		add("metrics", OK, errkind.Text("written to %s", m.Path), "")
	}
}
