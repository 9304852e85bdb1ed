// Package doctor checks the preconditions of refreshes: the kernel, the directories, the
// configuration, the repositories and what is installed. It changes nothing, and each check
// that is not ok comes with advice.
package doctor

import (
	"context"
	"os"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/sysupdate"
	"github.com/lull/lull/policy"
)

// Doctor has what is checked. Its functions may be called at any time.
type Doctor struct {
	Root     string // the store and all persistent state
	RunDir   string
	Launcher string // absolute path of lull-run
	User     bool   // rootless
	Files    Files

	Tracker      runs.Tracker
	Logind       *logind.Logind // nil if shutdown cannot be inhibited
	Runctl       *runctl.Dir
	Links        current.Links
	Store        *store.Store
	State        *state.DB
	Engine       *refresh.Engine
	Services     services.Manager
	Repositories *repositories.Set

	Policy     func() *policy.Policy
	PolicyRead func() (at time.Time, refused error) // the last reading
	SystemList func() error                         // reads system.yaml anew
	System     func() sysupdate.Status
	// SystemPackages lists the packages of the system that are not resident, and returns the
	// number of all, and why the last fetch of a missing one failed.
	SystemPackages func() (missing []index.Root, total int, failed error)

	Conditions func() conditions.State
	Collected  func() gc.Result // the last collection
	Metrics    func() Metrics
	Writable   func() error // why the root cannot be changed; nil means that it can
	Running    func() *refresh.Snapshot
	// ServiceStates returns the states of an instance's services, in their order.
	ServiceStates func(ctx context.Context, instance string, l *manifest.Launch, running *refresh.Snapshot) []string
}

// Files are the paths of the configuration.
type Files struct {
	Dir          string // of all of them
	Policy       string // policy.yaml
	Dropins      string // policy.d
	Repositories string // repos.d
}

// Metrics is the state of the metrics file.
type Metrics struct {
	Path    string // "" means that policy enables none
	Failure string // of the last write; "" means none
}

// Check is the result of one check of the doctor.
type Check struct {
	Name   string
	State  string // ok, warn or fail
	Seen   string
	Advice string
}

// The states of a Check.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// staleCheck is the time without a reading of the repositories after which the doctor warns.
const staleCheck = 7 * 24 * time.Hour

// Examine runs all checks. It asks systemd about services, for at most five seconds.
func (d *Doctor) Examine(ctx context.Context) (list []Check) {
	add := func(name, state, seen, advice string) { list = append(list, Check{name, state, seen, advice}) }

	if !d.Tracker.Polls() {
		add("tracker", OK, errkind.Text("%s, exits noticed by %s", d.Tracker.Name(), manner(d.Tracker.Events())), "")
	} else {
		add("tracker", Warn, errkind.Text("%s, exits noticed by %s", d.Tracker.Name(), manner(d.Tracker.Events())),
			errkind.Text("the kernel cannot report every exit, so lull polls; raise fs.inotify.max_user_instances or max_user_watches if inotify is short"))
	}
	d.checkCgroups(add)
	d.checkLeases(add)
	d.checkServices(ctx, add)
	if d.Logind != nil && d.Logind.Available() {
		add("logind", OK, errkind.Text("present, delays a shutdown by at most %s", d.Logind.MaxDelay()), "")
	} else {
		add("logind", Warn, errkind.Text("absent"), errkind.Text("a shutdown cannot be held off during a refresh; the refresh survives it all the same"))
	}
	d.checkPolicy(add)
	d.checkState(add)
	d.checkInstances(add)
	d.checkMarkers(add)
	d.checkRefreshes(add)
	d.checkSystem(add)
	d.checkSystemPackages(add)
	d.checkClock(add)
	d.checkConditions(add)
	d.checkLauncher(add)
	d.checkRepositories(add)
	d.checkPlace(add)
	d.checkDisk(add)
	d.checkReserve(add)
	d.checkUnread(add)
	d.checkStrays(add)
	d.checkMetrics(add)
	return list
}

// manner is how a tracker notices exits.
type manner string

// Word implements errkind.Word. Those that poll are sentences of the tracker.
func (m manner) Word() string {
	switch m {
	case "cgroup.events and inotify":
		return errkind.Mark("cgroup.events and inotify")
	case "cgroup.events of systemd's scopes and inotify":
		return errkind.Mark("cgroup.events of systemd's scopes and inotify")
	case "release agent and inotify":
		return errkind.Mark("release agent and inotify")
	}
	return string(m)
}

// serviceTimeout bounds the queries to systemd.
const serviceTimeout = 5 * time.Second

// checkServices reports the failed services.
func (d *Doctor) checkServices(ctx context.Context, add func(name, state, seen, advice string)) {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	names, err := d.Links.Instances()
	if err != nil {
		return // checkInstances reports it
	}
	failed, running := 0, d.Running()
	for _, name := range names {
		_, pkg, err := d.Links.Read(name)
		if err != nil {
			continue
		}
		l, err := d.Store.Launch(pkg)
		if err != nil {
			continue
		}
		for i, st := range d.ServiceStates(ctx, name, l, running) {
			if st == services.Failed {
				failed++
				add("services", Fail, errkind.Text("service %s of %s has failed", l.Services[i].Name, name),
					errkind.Text("the journal has its last words; lull revert %s goes back to the revision before", name))
			}
		}
	}
	if failed == 0 {
		add("services", OK, map[string]string{"systemd": errkind.Text("run by systemd"), "direct": errkind.Text("run by lulld itself")}[d.Services.Name()], "")
	}
}

// checkRefreshes reports the refreshes that wait for a person, and updates that were undone.
func (d *Doctor) checkRefreshes(add func(name, state, seen, advice string)) {
	instances, err := d.State.Instances()
	if err != nil {
		return // checkState reports it
	}
	for _, i := range instances {
		if b := i.Backoff; b != nil && b.Reason != "" && len(i.Revisions) > 0 {
			add("refreshes", Warn, errkind.Text("the update of %s to %s was undone: %s", i.Instance, b.Version, b.Reason),
				errkind.Text("it is retried at %s; lull refresh %s tries now", b.Until.Local().Format(wallclock.Layout), i.Instance))
		}
	}
	for _, r := range d.Engine.All() {
		if r.State() == plan.Waiting {
			d.checkReaders(r, add)
		}
		if r.State() != plan.Stuck {
			continue
		}
		seen := errkind.Text("%s; the revision before is in use", r.Stuck.Text)
		if r.Barred {
			seen = errkind.Text("%s; launches wait, because the revision before cannot be made current", r.Stuck.Text)
		}
		add("refreshes", Fail, seen, r.Stuck.Hint)
	}
}

func (d *Doctor) checkReserve(add func(name, state, seen, advice string)) {
	want, have, err := d.Store.Reserve()
	switch {
	case err != nil:
		add("reserve", Fail, err.Error(), errkind.Text("see that %s can be read", d.Root))
	case have < want:
		add("reserve", Warn, errkind.Text("%s of %s", humanize.Bytes(uint64(have)), humanize.Bytes(uint64(want))),
			errkind.Text("there is not enough room for it: lull gc --dry-run shows what can go; it is made again when there is, and without it a full disk cannot be collected"))
	case want == 0:
		add("reserve", OK, errkind.Text("none, as policy says"), "")
	default:
		add("reserve", OK, humanize.Bytes(uint64(have)), "")
	}
}

func (d *Doctor) checkLauncher(add func(name, state, seen, advice string)) {
	if fi, err := os.Stat(d.Launcher); err != nil || fi.Mode()&0o111 == 0 {
		add("launcher", Fail, errkind.Text("not found at %s", d.Launcher), errkind.Text("install lull-run or give --launcher to lulld"))
		return
	}
	add("launcher", OK, d.Launcher, "")
}

func (d *Doctor) checkDisk(add func(name, state, seen, advice string)) {
	disk, err := d.Store.Space()
	var blobs int
	var used int64
	if err == nil {
		blobs, used, err = d.Store.Usage()
	}
	if err != nil {
		add("disk", Fail, err.Error(), errkind.Text("see that %s is mounted and can be read", d.Root))
		return
	}
	seen := errkind.Text("%s free, %s in %d blobs", humanize.Bytes(uint64(max(disk.Free, 0))), humanize.Bytes(uint64(used)), blobs)
	if disk.Free < d.Policy().GC.Watermark.Of(disk.Total) {
		add("disk", Warn, seen, errkind.Text("less is free than gc.watermark in the policy asks for; lull gc --dry-run shows what can go"))
		return
	}
	add("disk", OK, seen, "")
}
