package machine_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

// limit is how long anything may take in an emulated machine on a busy host.
const limit = 8 * time.Minute

// app is a package for tests: the sample's programs, a health hook whose
// result is in a file, and maybe a service. The end of the service and the
// hook wait at a gate, if there is one.
type app struct {
	name  string
	grace time.Duration // the stop timeout of its service; 0 if it has none
}

var apps = []app{
	{name: "org.lull.slow", grace: 10 * time.Second}, // a critical section that takes a moment
	{name: "org.lull.heavy", grace: 5 * time.Minute}, // one that may take longer than logind waits
	{name: asleep, grace: 5 * time.Minute},
	{name: "org.lull.plain"},
	{name: "org.lull.well"},
	{name: "org.lull.sick"},
	{name: "org.lull.hung"},
}

// versions are published one after the other.
var versions = []string{"1.0", "2.0", "3.0", "4.0", "5.0"}

const serve = `#!/bin/sh
gate=/run/gate/$LULL_INSTANCE.stop
trap 'kill $child; wait $child; test ! -p $gate || read word < $gate; exit 0' TERM
"$LULL_PACKAGE_DIR/bin/notes-sync" & child=$!
wait $child
`

const health = `#!/bin/sh
how=well
gate=/run/gate/$LULL_INSTANCE.health
test ! -p $gate || read word < $gate
test ! -e /etc/healthy/$LULL_INSTANCE || read how < /etc/healthy/$LULL_INSTANCE
echo "$LULL_INSTANCE revision $LULL_REVISION is $how"
case "$how" in
sick) exit 1 ;;
hung) exec sleep 1000 ;;
esac
exit 0
`

// write makes the directories of all versions of all apps, in apps/.
func write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, v := range versions {
		programs := filepath.Join(dir, "programs", v)
		sample.Programs(t, programs, v, "")
		for _, a := range apps {
			text := fmt.Sprintf("name: %s\nversion: %q\nsummary: For tests\napps: [{name: notes, command: [bin/notes]}]\n"+
				"hooks: {health: [bin/health]}\ndata: {versioned: true}\n", a.name, v)
			if a.grace > 0 {
				text += fmt.Sprintf("services: [{name: sync, scope: system, command: [bin/serve], stop-timeout: %v}]\n", a.grace)
			}
			bin := filepath.Join(dir, "apps", a.name+"-"+v, "bin")
			must(t, os.MkdirAll(bin, 0o755))
			must(t, os.WriteFile(filepath.Join(bin, "..", "lull.yaml"), []byte(text), 0o644))
			must(t, os.WriteFile(filepath.Join(bin, "health"), []byte(health), 0o755))
			must(t, os.WriteFile(filepath.Join(bin, "serve"), []byte(serve), 0o755))
			for _, p := range []string{"notes", "notes-sync"} {
				must(t, os.Link(filepath.Join(programs, p), filepath.Join(bin, p)))
			}
		}
		notes := filepath.Join(dir, "apps", sample.Name+"-"+v)
		sample.Files(t, notes, v)
		must(t, os.Mkdir(filepath.Join(notes, "bin"), 0o755))
		for _, p := range []string{"notes", "notes-sync"} {
			must(t, os.Link(filepath.Join(programs, p), filepath.Join(notes, "bin", p)))
		}
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is what a scene is played on: a whole machine, or a container.
type machine interface {
	Run(argv ...string) rig.Result
	RunWithin(limit time.Duration, argv ...string) rig.Result
	Start(argv ...string) *rig.Command
	Boot()
	WaitBoot()
	WaitExit(limit time.Duration) error
	Poweroff()
}

// scene is a machine with all apps installed.
type scene struct {
	*testing.T
	machine
	vm      *rig.VM // nil for a container
	v1      bool
	pace    pace
	version map[string]int // the index of the version that was published last
}

// pace is how long things may take, in the words of a policy. Emulation on a busy host is slow.
type pace struct {
	hung string // a hook that hangs
	boot string // lull-boot.service; shorter
}

// start makes the machine, with lull's packages. The policy leaves out what would disturb.
func start(t *testing.T, pace pace, packages map[string]string, make func(files map[string]string) machine) *scene {
	t.Helper()
	files := write(t)
	conf := filepath.Join(files, "policy.yaml")
	must(t, os.WriteFile(conf, []byte("defaults: {hook-time-limit: 10m}\nschedule: {check: 31d}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"+
		"packages: {org.lull.hung: {hook-time-limit: "+pace.hung+"}, org.lull.well: {at-deadline: side-by-side}}\n"), 0o644))
	// Five seconds, which is what logind waits by itself, can be short on a busy host.
	logind := filepath.Join(files, "logind.conf")
	must(t, os.WriteFile(logind, []byte("[Login]\nInhibitDelayMaxSec=60\n"), 0o644))
	// The first versions are published here, because it is faster.
	repo := filepath.Join(files, "srv", "repo")
	lull := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(filepath.Join(rig.Binaries(t, ""), "lull"), args...).CombinedOutput(); err != nil {
			t.Fatalf("lull %q: %v\n%s", args, err, out)
		}
	}
	lull("repo", "init", repo)
	lull("publish", "--repo", repo, filepath.Join(files, "apps", sample.Name+"-"+versions[0]))
	var names []string
	for _, a := range apps {
		names = append(names, a.name)
		lull("publish", "--repo", repo, filepath.Join(files, "apps", a.name+"-"+versions[0]))
	}
	publishSystem(t, files, repo)
	inside := map[string]string{
		"/opt/apps": filepath.Join(files, "apps"), "/srv": filepath.Join(files, "srv"), "/etc/lull/policy.yaml": conf, "/etc/systemd/logind.conf.d/test.conf": logind, "/": session(t),
	}
	maps.Copy(inside, packages)
	s := &scene{T: t, pace: pace, version: map[string]int{}, machine: make(inside)}
	s.vm, _ = s.machine.(*rig.VM)
	s.WaitBoot()
	s.finished(s.Start("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", firstDeb))
	s.sh("systemd-analyze verify --man=no lulld.service lull-boot.service lull-system-commit.service")
	s.sh("mkdir -p /etc/healthy && lull repo add local /srv/repo && lull install %s", strings.Join(names, " "))
	return s
}

// at makes the scene report to a subtest.
func (s *scene) at(t *testing.T) *scene {
	c := *s
	c.T = t
	return &c
}

// sh runs a script that must succeed and returns what it prints.
func (s *scene) sh(format string, args ...any) string {
	s.Helper()
	// An emulated machine may need longer than sd-bus gives a call.
	r := s.machine.Run("env", "SYSTEMD_BUS_TIMEOUT=5min", "sh", "-euc", fmt.Sprintf(format, args...))
	if r.Code != 0 {
		s.Fatalf("%v\n%s", r, s.machine.Run("journalctl", "-b", "-u", "lulld", "-u", "lull-boot", "--no-pager", "-n", "40").Stdout)
	}
	return strings.TrimSpace(r.Stdout)
}

// follow starts a command for until to read.
func (s *scene) follow(argv ...string) *rig.Command {
	p := s.Start(argv...)
	s.Cleanup(func() { p.Signal(15) })
	return p
}

// until waits until a command has printed text.
func (s *scene) until(what string, p *rig.Command, text ...string) rig.Result {
	s.Helper()
	return s.untilSaid(what, p, func(said string) bool {
		for _, t := range text {
			if !strings.Contains(said, t) {
				return false
			}
		}
		return true
	})
}

func (s *scene) untilSaid(what string, p *rig.Command, cond func(string) bool) rig.Result {
	s.Helper()
	r, err := p.Until(s.Context(), limit, func(r rig.Result) bool { return cond(r.Text()) })
	if err != nil {
		s.Fatalf("waited in vain until %s: %v\n%v\n%s", what, err, r, s.machine.Run("journalctl", "-b", "-u", "lulld", "--no-pager", "-n", "40").Stdout)
	}
	return r
}

// open starts an application in the user's session and returns when it runs.
func (s *scene) open(name string) *rig.Command {
	s.Helper()
	p := s.follow(rig.LoginArgv(nil, "lull", "run", name)...)
	s.until(name+" runs", p, "is running as process")
	return p
}

// shut ends the processes of an application.
func (s *scene) shut(name string) {
	s.Helper()
	for _, p := range s.installed(name).Processes {
		s.sh("kill %d", p.PID)
	}
}

// publish makes the next version of an app.
func (s *scene) publish(name string) (version string) {
	s.Helper()
	s.version[name]++
	version = versions[s.version[name]]
	s.sh("lull publish --repo /srv/repo --deltas-from 0 /opt/apps/%s-%s", name, version) // the agent sees it as soon as it is signed
	return version
}

// refreshed is the output when the version that was published last is current.
func (s *scene) refreshed(name string) string {
	at := s.version[name]
	return fmt.Sprintf("%s is refreshed from %s to %s", name, versions[at-1], versions[at])
}

// refresh publishes the next version of an app and follows its refresh, which prints
// its steps and how it ends.
func (s *scene) refresh(name string) *rig.Command {
	s.Helper()
	s.publish(name)
	return s.follow("lull", "refresh", "--wait", name)
}

// prepare publishes the next version of an app that runs, and returns when its
// refresh waits.
func (s *scene) prepare(name string) {
	s.Helper()
	s.publish(name)
	if said := s.sh("lull refresh --no-wait %s", name); !strings.Contains(said, name+" waits for") {
		s.Fatalf("it does not wait: %s", said)
	}
}

// The two places for a gate.
const (
	atStop   = "stop"
	atHealth = "health"
)

// gate has an app wait there until release, or until the power goes.
func (s *scene) gate(name, where string) {
	s.Helper()
	s.sh("mkdir -p /run/gate && mkfifo /run/gate/%s.%s", name, where)
}

func (s *scene) release(name, where string) {
	s.Helper()
	s.sh("cd /run/gate && : > %[1]s.%[2]s && rm %[1]s.%[2]s", name, where)
}

// healthy is the agent's output when the health hook of the version that was
// published last has run.
func (s *scene) healthy(name string) string {
	return fmt.Sprintf("output=%s revision %d is well", name, s.version[name]+1)
}

// The words that a refresh that is followed prints.
const (
	stopping = ": stopping services"
	checking = ": checking that it works"
)

// pkg is what is known of an installed app.
type pkg struct {
	Instance  string `json:"instance"`
	Version   string `json:"version"`
	Revision  int    `json:"revision"`
	Processes []struct {
		PID int `json:"pid"`
	} `json:"processes"`
	Services []struct {
		State string `json:"state"`
	} `json:"services"`
	Refresh *struct {
		State string `json:"state"`
		Step  string `json:"step"`
	} `json:"refresh"`
}

func (s *scene) installed(name string) pkg {
	s.Helper()
	var list struct {
		Packages []pkg `json:"packages"`
	}
	must(s.T, json.Unmarshal([]byte(s.sh("lull list --json")), &list))
	for _, p := range list.Packages {
		if p.Instance == name {
			return p
		}
	}
	s.Fatalf("%s is not installed: %v", name, list)
	return pkg{}
}

// whole checks that an app is current in the version that was published last (or,
// if it was undone, the one before), with its data, and that nothing is left of the
// refresh.
func (s *scene) whole(name string, undone bool) {
	s.Helper()
	at := s.version[name]
	if undone {
		at--
	}
	p := s.installed(name)
	// An agent that has just started may still be about to start its service. A program that
	// listens to a new owner of a bus name may miss its first signals.
	for end := time.Now().Add(limit); len(p.Services) > 0 && p.Services[0].State != "active" && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		p = s.installed(name)
	}
	if p.Version != versions[at] || p.Refresh != nil {
		s.Errorf("%s: %+v, want version %s", name, p, versions[at])
	}
	for _, v := range p.Services {
		if v.State != "active" {
			s.Errorf("%s: its service is %s, want active", name, v.State)
		}
	}
	if len(p.Services) > 0 {
		// The service of each version has written that it began, and that it ended in peace
		// before the next one got its data. After a power cut the end may be missing.
		log := s.sh("cat /var/lib/lull/data/%s/%d/sync.log", name, p.Revision)
		for _, v := range versions[:at+1] {
			if !strings.Contains(log, v+" started\n") && !strings.HasSuffix(log, v+" started") {
				s.Errorf("%s: its data does not know version %s:\n%s", name, v, log)
			}
		}
	}
	if left := s.sh("ls /run/lull/runctl | grep '%s.inhibited' || true", name); left != "" {
		s.Errorf("a marker is left: %s", left)
	}
}

// locks are the inhibitor locks of lull.
func (s *scene) locks() string {
	s.Helper()
	return s.sh(`list=$(systemd-inhibit --list --no-pager --no-legend); printf '%%s\n' "$list" | grep lull || true`)
}

// entry is a line of the journal.
type entry struct {
	At      time.Duration // since the kernel's start
	Message string
	Unit    string
}

// thisBoot names the boot that the machine is in.
func (s *scene) thisBoot() string {
	s.Helper()
	return strings.ReplaceAll(s.sh("cat /proc/sys/kernel/random/boot_id"), "-", "")
}

// journal reads that of one boot.
func (s *scene) journal(boot string) (list []entry) {
	s.Helper()
	for line := range strings.Lines(s.sh("journalctl -b %s -o json --no-pager", boot)) {
		var e struct {
			At      string `json:"__MONOTONIC_TIMESTAMP"`
			Message any    `json:"MESSAGE"`
			Unit    string `json:"_SYSTEMD_UNIT"`
			About   string `json:"UNIT"`
		}
		must(s.T, json.Unmarshal([]byte(line), &e))
		var usec int64
		fmt.Sscan(e.At, &usec)
		text, _ := e.Message.(string)
		if e.About != "" {
			e.Unit = e.About
		}
		list = append(list, entry{time.Duration(usec) * time.Microsecond, text, e.Unit})
	}
	return list
}

// find is the index of the first message, with its unit, that has the text, or -1.
func find(list []entry, text string) int {
	return slices.IndexFunc(list, func(e entry) bool { return strings.Contains(e.Unit+": "+e.Message, text) })
}

// inOrder checks that messages are there, one after the other, and returns when.
func (s *scene) inOrder(list []entry, texts ...string) (at []time.Duration) {
	s.Helper()
	rest := slices.Clone(list)
	slices.SortStableFunc(rest, func(a, b entry) int { return cmp.Compare(a.At, b.At) })
	for _, text := range texts {
		i := find(rest, text)
		if i < 0 {
			s.Fatalf("the journal does not say %q, in this order: %q\n%s", text, texts, tellAll(list))
		}
		at = append(at, rest[i].At)
		rest = rest[i+1:]
	}
	return at
}

// never checks that a message is not there.
func (s *scene) never(list []entry, text string) {
	s.Helper()
	if i := find(list, text); i >= 0 {
		s.Errorf("the journal says %q at %v:\n%s", list[i].Message, list[i].At, tellAll(list))
	}
}

func tellAll(list []entry) string {
	var b strings.Builder
	for _, e := range list {
		if strings.Contains(e.Unit, "lull") || strings.Contains(e.Unit, "logind") || strings.Contains(e.Unit, "user") {
			fmt.Fprintf(&b, "%v %s: %s\n", e.At, e.Unit, e.Message)
		}
	}
	return b.String()
}
