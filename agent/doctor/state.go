package doctor

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// checkState checks the agent's state, and whether the agent can write it.
func (d *Doctor) checkState(add func(name, state, seen, advice string)) {
	if err := d.Writable(); err != nil {
		add("root", Fail, errkind.Text("%s cannot be written: %s", d.Root, err.Error()),
			errkind.Text("mount it for writing again; until then applications start, and nothing can be installed or refreshed"))
	} else {
		add("root", OK, d.Root, "")
	}
	loss, lost, err := d.State.Lost()
	asides := state.Asides(filepath.Join(d.Root, "state.db"))
	switch {
	case err != nil:
		add("state", Fail, err.Error(), errkind.HintOf(err))
	case lost && loss.Retained:
		add("state", Fail, errkind.Text("state.db was lost on %s (%s) and made again; holds and the retained index are unknown", loss.At.Local().Format(wallclock.Layout), loss.Cause),
			errkind.Text("nothing is collected until the system updater sets the retained index, or lull gc --retain-nothing says that there was nothing in it; hold again what should be held"))
	case len(asides) > 0:
		add("state", Warn, errkind.Text("damaged state was set aside: %s", strings.Join(asides, ", ")),
			errkind.Text("lull list shows what was made again; hold again what should be held; then the file can be deleted"))
	default:
		add("state", OK, errkind.Text("whole"), "")
	}
}

// checkInstances checks the links, packages and data of all installed instances.
func (d *Doctor) checkInstances(add func(name, state, seen, advice string)) {
	names, err := d.Links.Instances()
	if err != nil {
		add("installed", Fail, err.Error(), errkind.Text("see that %s can be read; lull verify --repair puts links right", d.Root))
		return
	}
	wrong := 0
	for _, name := range names {
		if _, busy := d.Engine.Of(name); busy {
			continue
		}
		if err := d.Engine.CheckInstance(name); err != nil {
			wrong++
			add("installed", Fail, err.Error(), errkind.HintOf(err))
		}
	}
	if wrong == 0 {
		add("installed", OK, errkind.Text("%d, all whole", len(names)), "")
	}
}

func (d *Doctor) checkMarkers(add func(name, state, seen, advice string)) {
	list, err := d.Engine.StrayMarkers()
	switch {
	case err != nil:
		add("markers", Fail, err.Error(), errkind.Text("see that %s can be read", d.RunDir))
	case len(list) > 0:
		add("markers", Warn, errkind.Text("belonging to nothing: %s", strings.Join(list, ", ")), errkind.Text("lulld removes them as soon as no launch is under way; restarting it does the same"))
	default:
		add("markers", OK, errkind.Text("each belongs to a refresh or a run"), "")
	}
}

func (d *Doctor) checkClock(add func(name, state, seen, advice string)) {
	now := time.Now()
	if policy.ClockAfter().Wrong(now) {
		add("clock", Fail, errkind.Text("it says %s, which is past", now.Local().Format(wallclock.Layout)),
			errkind.Text("set it: timedatectl set-ntp true; until then windows for postponement start over, and nothing can be held"))
		return
	}
	add("clock", OK, now.Local().Format(wallclock.Layout), "")
}
