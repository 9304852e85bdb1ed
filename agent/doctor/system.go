package doctor

import (
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
