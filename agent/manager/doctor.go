package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/policy"
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
	m.checkCgroups(add)
	add("services", checkOK, "run by "+map[string]string{"systemd": "systemd", "direct": "lulld itself"}[m.services.Name()], "")
	if m.Logind != nil && m.Logind.Available() {
		add("logind", checkOK, fmt.Sprintf("present, delays a shutdown by at most %s", m.Logind.MaxDelay()), "")
	} else {
		add("logind", checkWarn, "absent", "a shutdown cannot be held off during a refresh; the refresh survives it all the same")
	}
	m.checkPolicy(add)
	m.checkState(add)
	m.checkInstances(add)
	m.checkMarkers(add)
	m.checkSystem(add)
	m.checkClock(add)
	m.checkConditions(add)
	m.checkLauncher(add)
	m.checkRepositories(add)
	m.checkDisk(add)
	m.checkReserve(add)
	m.checkMetrics(add)
	return list
}

func (m *Manager) checkCgroups(add func(name, state, seen, advice string)) {
	layout, err := cgroup.Mounts()
	if err == nil {
		_, err = m.Tracker.Runs()
	}
	if err != nil {
		add("cgroups", checkFail, err.Error(), "applications count as running, and nothing is collected, as long as this is so; "+
			"see that /sys/fs/cgroup is mounted and that lulld may read it")
		return
	}
	mode := "v2"
	switch {
	case layout.Unified == "":
		mode = "v1"
	case layout.Freezer != "":
		mode = "v1 and v2"
	}
	if m.Tracker.Name() != "scope" && !m.User {
		add("cgroups", checkOK, mode+"; services that belong to users' sessions need systemd with v2", "")
		return
	}
	add("cgroups", checkOK, mode, "")
}

// checkPolicy looks at the files as they are now.
func (m *Manager) checkPolicy(add func(name, state, seen, advice string)) {
	const check = "lull policy check lists everything that is wrong; the policy that was read before holds until lull policy reload reads a good one"
	_, err := policy.Load(m.policyFile(), m.dropins())
	refused := m.PolicyError()
	changed, cerr := m.policyChanged()
	switch {
	case err != nil:
		add("policy", checkFail, err.Error(), check)
	case refused != nil && !changed:
		add("policy", checkFail, "refused when it was read last: "+refused.Error(), check)
	case cerr != nil:
		add("policy", checkFail, cerr.Error(), "see that "+m.Conf+" can be read")
	case changed:
		add("policy", checkWarn, "files in "+m.Conf+" have changed since they were read", "lull policy reload reads them again")
	default:
		add("policy", checkOK, "as in "+m.Conf, "")
	}
}

// policyChanged says whether a file of the policy is younger than the last
// reading. One that has gone leaves a younger folder behind.
func (m *Manager) policyChanged() (bool, error) {
	read := m.policyRead.Load().at
	names, err := filepath.Glob(filepath.Join(m.dropins(), "*.yaml"))
	if err != nil {
		return false, err
	}
	for _, name := range append(names, m.policyFile(), m.dropins()) {
		fi, err := os.Stat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err == nil && fi.ModTime().After(read) {
			return true, nil
		}
	}
	return false, nil
}

func (m *Manager) checkReserve(add func(name, state, seen, advice string)) {
	want, have, err := m.store.Reserve()
	switch {
	case err != nil:
		add("reserve", checkFail, err.Error(), "see that "+m.Root+" can be read")
	case have < want:
		add("reserve", checkWarn, fmt.Sprintf("%s of %s", humanize.IBytes(uint64(have)), humanize.IBytes(uint64(want))),
			"there is not enough room for it: lull gc --dry-run shows what can go; it is made again when there is, and without it a full disk cannot be collected")
	case want == 0:
		add("reserve", checkOK, "none, as policy says", "")
	default:
		add("reserve", checkOK, humanize.IBytes(uint64(have)), "")
	}
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
		add("repositories", checkOK, fmt.Sprintf("%d, not looked into yet", len(s.Addresses)), "")
	case time.Since(s.LastCheck) > staleCheck:
		add("repositories", checkWarn, "last read "+humanize.Time(s.LastCheck), "lull refresh looks now; schedule.check in the policy says how often")
	default:
		add("repositories", checkOK, fmt.Sprintf("%d, last read %s", len(s.Addresses), humanize.Time(s.LastCheck)), "")
	}
}

func (m *Manager) checkDisk(add func(name, state, seen, advice string)) {
	s, err := m.Space()
	if err != nil {
		add("disk", checkFail, err.Error(), "see that "+m.Root+" is mounted and can be read")
		return
	}
	seen := fmt.Sprintf("%s free, %s in %d blobs", humanize.IBytes(uint64(max(s.Free, 0))), humanize.IBytes(uint64(s.Used)), s.Blobs)
	if s.Free < m.Policy().GC.Watermark.Of(s.Total) {
		add("disk", checkWarn, seen, "less is free than gc.watermark in the policy asks for; lull gc --dry-run shows what can go")
		return
	}
	add("disk", checkOK, seen, "")
}
