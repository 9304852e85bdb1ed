package manager

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

// checkState checks the agent's state, and whether the agent can write it.
func (m *Manager) checkState(add func(name, state, seen, advice string)) {
	if err := m.writable(); err != nil {
		add("root", checkFail, m.Root+" cannot be written: "+err.Error(),
			"mount it for writing again; until then applications start, and nothing can be installed or refreshed")
	} else {
		add("root", checkOK, m.Root, "")
	}
	loss, lost, err := m.state.Lost()
	asides := state.Asides(filepath.Join(m.Root, "state.db"))
	switch {
	case err != nil:
		add("state", checkFail, err.Error(), errkind.HintOf(err))
	case lost && loss.Retained:
		add("state", checkFail, fmt.Sprintf("state.db was lost on %s (%s) and made again; holds and the retained index are unknown", loss.At.Local().Format(clockTime), loss.Cause),
			"nothing is collected until the system updater sets the retained index, or lull gc --retain-nothing says that there was nothing in it; hold again what should be held")
	case len(asides) > 0:
		add("state", checkWarn, "damaged state was set aside: "+strings.Join(asides, ", "),
			"lull list shows what was made again; hold again what should be held; then the file can be deleted")
	default:
		add("state", checkOK, "whole", "")
	}
}

// checkInstances checks the links, packages and data of all installed instances.
func (m *Manager) checkInstances(add func(name, state, seen, advice string)) {
	names, err := m.links.Instances()
	if err != nil {
		add("installed", checkFail, err.Error(), "see that "+m.Root+" can be read; lull verify --repair puts links right")
		return
	}
	wrong := 0
	for _, name := range names {
		if _, busy := m.engine.Of(name); busy {
			continue
		}
		if err := m.engine.CheckInstance(name); err != nil {
			wrong++
			add("installed", checkFail, err.Error(), errkind.HintOf(err))
		}
	}
	if wrong == 0 {
		add("installed", checkOK, fmt.Sprintf("%d, all whole", len(names)), "")
	}
}

func (m *Manager) checkMarkers(add func(name, state, seen, advice string)) {
	list, err := m.engine.StrayMarkers()
	switch {
	case err != nil:
		add("markers", checkFail, err.Error(), "see that "+m.RunDir+" can be read")
	case len(list) > 0:
		add("markers", checkWarn, "belonging to nothing: "+strings.Join(list, ", "), "lulld removes them as soon as no launch is under way; restarting it does the same")
	default:
		add("markers", checkOK, "each belongs to a refresh or a run", "")
	}
}

func (m *Manager) checkClock(add func(name, state, seen, advice string)) {
	now := time.Now()
	if policy.ClockAfter().Wrong(now) {
		add("clock", checkFail, "it says "+now.Local().Format(clockTime)+", which is past",
			"set it: timedatectl set-ntp true; until then windows for postponement begin anew, and nothing can be held")
		return
	}
	add("clock", checkOK, now.Local().Format(clockTime), "")
}
