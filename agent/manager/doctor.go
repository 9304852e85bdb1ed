package manager

import (
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
)

// Check is one thing that the doctor has looked at.
type Check struct {
	Name   string
	State  string // ok, warn or fail
	Seen   string
	Advice string
}

// The states of a Check.
const (
	checkOK   = "ok"
	checkWarn = "warn"
	checkFail = "fail"
)

// staleCheck is after how long without a look into the repositories the doctor worries.
const staleCheck = 7 * 24 * time.Hour

// Doctor checks what refreshes depend on.
func (m *Manager) Doctor() (list []Check) {
	add := func(name, state, seen, advice string) { list = append(list, Check{name, state, seen, advice}) }

	if !m.Tracker.Polls() {
		add("tracker", checkOK, m.Tracker.Name()+", exits noticed by "+m.Tracker.Events(), "")
	} else {
		add("tracker", checkWarn, m.Tracker.Name()+", exits noticed by "+m.Tracker.Events(),
			"the kernel cannot tell lull of every exit, so it has to look; raise fs.inotify.max_user_instances or max_user_watches if inotify is short")
	}
	if _, err := m.Tracker.Runs(); err != nil {
		add("cgroups", checkFail, err.Error(), "applications count as running as long as this is so")
	} else {
		add("cgroups", checkOK, "readable", "")
	}
	add("services", checkOK, "run by "+map[string]string{"systemd": "systemd", "direct": "lulld itself"}[m.services.Name()], "")
	if m.Logind != nil && m.Logind.Available() {
		add("logind", checkOK, fmt.Sprintf("present, delays a shutdown by at most %s", m.Logind.MaxDelay()), "")
	} else {
		add("logind", checkWarn, "absent", "a shutdown cannot be held off during a refresh; the refresh survives it all the same")
	}
	m.checkState(add)
	m.checkInstances(add)
	m.checkMarkers(add)
	m.checkSystem(add)
	m.checkClock(add)
	m.checkConditions(add)
	m.checkLauncher(add)
	m.checkRepositories(add)
	m.checkDisk(add)
	m.checkMetrics(add)
	return list
}

func (m *Manager) checkLauncher(add func(name, state, seen, advice string)) {
	if fi, err := os.Stat(m.Launcher); err != nil || fi.Mode()&0o111 == 0 {
		add("launcher", checkFail, "not found at "+m.Launcher, "install lull-run or give --launcher to lulld")
		return
	}
	add("launcher", checkOK, m.Launcher, "")
}

func (m *Manager) checkRepositories(add func(name, state, seen, advice string)) {
	s := m.Repositories()
	switch {
	case len(s.Addresses) == 0:
		add("repositories", checkWarn, "none", "lull repo add NAME ADDRESS adds one")
	case s.LastError != "":
		add("repositories", checkFail, s.LastError, "lull refresh looks again; updates do not arrive until this works")
	case s.LastCheck.IsZero():
		add("repositories", checkOK, fmt.Sprintf("%d, not looked into since lulld started", len(s.Addresses)), "")
	case time.Since(s.LastCheck) > staleCheck:
		add("repositories", checkWarn, "last read "+humanize.Time(s.LastCheck), "lull refresh looks now; schedule.check in the policy says how often")
	default:
		add("repositories", checkOK, fmt.Sprintf("%d, last read %s", len(s.Addresses), humanize.Time(s.LastCheck)), "")
	}
}

func (m *Manager) checkDisk(add func(name, state, seen, advice string)) {
	s, err := m.Space()
	if err != nil {
		add("disk", checkFail, err.Error(), "")
		return
	}
	seen := fmt.Sprintf("%s free, %s in %d blobs", humanize.IBytes(uint64(max(s.Free, 0))), humanize.IBytes(uint64(s.Used)), s.Blobs)
	if s.Free < m.Policy().GC.Watermark.Of(s.Total) {
		add("disk", checkWarn, seen, "less is free than gc.watermark in the policy asks for; lull gc --dry-run shows what can go")
		return
	}
	add("disk", checkOK, seen, "")
}
