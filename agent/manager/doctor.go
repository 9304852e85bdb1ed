package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/policy"
)

// Check is the result of one check of the doctor.
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

// staleCheck is the time without a reading of the repositories after which the doctor warns.
const staleCheck = 7 * 24 * time.Hour

// Doctor checks the preconditions of refreshes.
func (m *Manager) Doctor() (list []Check) {
	add := func(name, state, seen, advice string) { list = append(list, Check{name, state, seen, advice}) }

	if !m.Tracker.Polls() {
		add("tracker", checkOK, m.Tracker.Name()+", exits noticed by "+m.Tracker.Events(), "")
	} else {
		add("tracker", checkWarn, m.Tracker.Name()+", exits noticed by "+m.Tracker.Events(),
			"the kernel cannot tell lull of every exit, so it has to look; raise fs.inotify.max_user_instances or max_user_watches if inotify is short")
	}
	m.checkCgroups(add)
	m.checkLeases(add)
	m.checkServices(add)
	if m.Logind != nil && m.Logind.Available() {
		add("logind", checkOK, fmt.Sprintf("present, delays a shutdown by at most %s", m.Logind.MaxDelay()), "")
	} else {
		add("logind", checkWarn, "absent", "a shutdown cannot be held off during a refresh; the refresh survives it all the same")
	}
	m.checkPolicy(add)
	m.checkState(add)
	m.checkInstances(add)
	m.checkMarkers(add)
	m.checkRefreshes(add)
	m.checkSystem(add)
	m.checkClock(add)
	m.checkConditions(add)
	m.checkLauncher(add)
	m.checkRepositories(add)
	m.checkPlace(add)
	m.checkDisk(add)
	m.checkReserve(add)
	m.checkUnread(add)
	m.checkStrays(add)
	m.checkMetrics(add)
	return list
}

// cgroupMode names the mounted versions of cgroups, by their paths. A machine with v1 must
// change before an upgrade of systemd: 258 refuses to boot with it.
func cgroupMode(unified, freezer string) string {
	const gone = ", which systemd has no more from 258 on"
	switch {
	case unified == "":
		return "v1" + gone
	case freezer != "":
		return "v2 and v1" + gone
	}
	return "v2"
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
	mode := cgroupMode(layout.Unified, layout.Freezer)
	if unread, err := m.Tracker.Unread(); err == nil && len(unread) > 0 {
		var who []string
		for _, u := range unread {
			who = append(who, fmt.Sprintf("user %d (%v)", u.UID, u.Err))
		}
		add("cgroups", checkWarn, mode+"; cannot read the groups of "+strings.Join(who, ", "),
			"the user counts as running every application, and refreshes wait for that user until the deadline; systemctl stop user@UID.service ends it")
		return
	}
	if m.Tracker.Name() != "scope" && !m.User {
		add("cgroups", checkOK, mode+"; services that belong to users' sessions need systemd with v2", "")
		return
	}
	add("cgroups", checkOK, mode, "")
}

// checkPolicy checks the present files.
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
	if _, err := parseSystem(m.systemFile()); err != nil {
		add("system list", checkFail, err.Error(), "mend it; what was read before holds until lull policy reload reads a good one, and where nothing was, nothing is collected")
	}
}

// policyChanged reports whether a policy file is younger than the last reading. A removed
// file leaves a younger directory behind.
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

// serviceTimeout bounds the queries to systemd.
const serviceTimeout = 5 * time.Second

// checkServices reports the failed services.
func (m *Manager) checkServices(add func(name, state, seen, advice string)) {
	ctx, cancel := context.WithTimeout(m.ctx, serviceTimeout)
	defer cancel()
	names, err := m.links.Instances()
	if err != nil {
		return // checkInstances reports it
	}
	failed, running := 0, m.Running()
	for _, name := range names {
		_, pkg, err := m.links.Read(name)
		if err != nil {
			continue
		}
		l, err := m.store.Launch(pkg)
		if err != nil {
			continue
		}
		for i, st := range m.ServiceStates(ctx, name, l, running) {
			if st == services.Failed {
				failed++
				add("services", checkFail, fmt.Sprintf("service %s of %s has failed", l.Services[i].Name, name),
					fmt.Sprintf("the journal has its last words; lull revert %s goes back to the revision before", name))
			}
		}
	}
	if failed == 0 {
		add("services", checkOK, "run by "+map[string]string{"systemd": "systemd", "direct": "lulld itself"}[m.services.Name()], "")
	}
}

// checkRefreshes reports the refreshes that wait for a person, and updates that were undone.
func (m *Manager) checkRefreshes(add func(name, state, seen, advice string)) {
	instances, err := m.state.Instances()
	if err != nil {
		return // checkState reports it
	}
	for _, i := range instances {
		if b := i.Backoff; b != nil && b.Reason != "" && len(i.Revisions) > 0 {
			add("refreshes", checkWarn, fmt.Sprintf("the update of %s to %s was undone: %s", i.Instance, b.Version, b.Reason),
				fmt.Sprintf("it is tried again at %s; lull refresh %s tries now", b.Until.Local().Format(clockTime), i.Instance))
		}
	}
	for _, r := range m.engine.All() {
		if r.State() == plan.Waiting {
			m.checkReaders(r, add)
		}
		if r.State() != plan.Stuck {
			continue
		}
		seen := r.Stuck.Text + "; the revision before is in use"
		if r.Barred {
			seen = r.Stuck.Text + "; launches wait, because the revision before cannot be made current"
		}
		add("refreshes", checkFail, seen, r.Stuck.Hint)
	}
}

func (m *Manager) checkReserve(add func(name, state, seen, advice string)) {
	want, have, err := m.store.Reserve()
	switch {
	case err != nil:
		add("reserve", checkFail, err.Error(), "see that "+m.Root+" can be read")
	case have < want:
		add("reserve", checkWarn, fmt.Sprintf("%s of %s", humanize.Bytes(uint64(have)), humanize.Bytes(uint64(want))),
			"there is not enough room for it: lull gc --dry-run shows what can go; it is made again when there is, and without it a full disk cannot be collected")
	case want == 0:
		add("reserve", checkOK, "none, as policy says", "")
	default:
		add("reserve", checkOK, humanize.Bytes(uint64(have)), "")
	}
}

func (m *Manager) checkLauncher(add func(name, state, seen, advice string)) {
	if fi, err := os.Stat(m.Launcher); err != nil || fi.Mode()&0o111 == 0 {
		add("launcher", checkFail, "not found at "+m.Launcher, "install lull-run or give --launcher to lulld")
		return
	}
	add("launcher", checkOK, m.Launcher, "")
}

func (m *Manager) checkDisk(add func(name, state, seen, advice string)) {
	s, err := m.Space()
	if err != nil {
		add("disk", checkFail, err.Error(), "see that "+m.Root+" is mounted and can be read")
		return
	}
	seen := fmt.Sprintf("%s free, %s in %d blobs", humanize.Bytes(uint64(max(s.Free, 0))), humanize.Bytes(uint64(s.Used)), s.Blobs)
	if s.Free < m.Policy().GC.Watermark.Of(s.Total) {
		add("disk", checkWarn, seen, "less is free than gc.watermark in the policy asks for; lull gc --dry-run shows what can go")
		return
	}
	add("disk", checkOK, seen, "")
}
