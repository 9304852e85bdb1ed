package powercut_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// Where the power is cut in turn: at fault points of an update of the system (:stop stops
// the agent there), or after so many flushes or writes of the disk. Those of decide come
// where the next boot brings a new system, those of stage elsewhere.
var (
	stageCuts = []cutPlan{
		{fault: "system.set.fetched#1:stop"}, {flushes: 12}, {fault: "system.set.listed#1:stop"}, {fault: "system.images.fetched#1:stop"},
		{flushes: 40}, {fault: "system.install.after#1:stop"}, {fault: "system.set.after#1:stop"}, {writes: 300},
	}
	decideCuts = []cutPlan{
		{fault: "system.boot.recorded#1:stop"}, {fault: "system.commit.recorded#1:stop"}, {fault: "durable.symlink.syncdir#1:stop"}, {flushes: 3},
		{fault: "system.boot.before#1:stop"}, {fault: "system.commit.checked#1:stop"}, {fault: "system.rollback.recorded#1:stop"}, {fault: "system.rollback.linked#1:stop"},
	}
)

// TestSystemPowerCuts stages, boots, and commits or rolls back systems, with the power cut
// in the middle. After each cut the machine is wholly in the system before or wholly in the
// next one, and what was reported as done is done. It makes 4 cuts, or a quarter of
// LULL_POWERCUT.
func TestSystemPowerCuts(t *testing.T) {
	require.QEMU(t)
	require.NotShort(t)
	n := 4
	if s := os.Getenv("LULL_POWERCUT"); s != "" {
		all, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		n = (all + 3) / 4
	}
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("powercut: -seed=%d", seed)
	guest := filepath.Join(t.TempDir(), "guest")
	rig.GoBuild(t, "./e2e/powercut/guest", guest, nil)
	y := newTally()
	m := &machine{t: t, rng: rand.New(rand.NewPCG(seed, 99)), tally: y, steps: map[string]int{}, data: "ext4", repo: emptyRepository(t, rig.Binaries(t, "faultpoint"))}
	conf := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, policy, false), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &systemLife{machine: m, dice: rand.New(rand.NewPCG(seed, 98)), state: "idle", possible: []outcome{{"idle", ""}}}
	l.publish()
	m.repo.order = nil // the machine has these from the beginning
	m.vm = rig.StartVM(t, rig.VMOptions{Data: m.data, Minimal: true, Tags: "faultpoint", Files: map[string]string{
		"usr/local/bin/powercut-guest": guest, "etc/lull/policy.yaml": conf, "opt/repo": m.repo.path("repo")}})
	m.start("")
	m.must("lull", "repo", "add", "local", "/opt/repo")
	where := l.act(cutPlan{flushes: 20 + m.rng.IntN(60)})
	for i := range n {
		began := time.Now()
		decides := l.state == "staged" || l.state == "booted"
		p := cutPlan{}
		switch {
		case i == n-1: // the last boot is in peace
		case decides:
			p = decideCuts[(i+int(seed%8))%len(decideCuts)]
		case i%2 == 0:
			p = stageCuts[(i+int(seed%8))%len(stageCuts)]
		default:
			p.after = limit // it comes as far as a boot brings it
		}
		p.fate = disk.Fate(m.rng.IntN(int(disk.Fates)))
		m.vm.Boot()
		rested := l.check(p.fault)
		t.Logf("%3d of %d: cut %s; checked in %v: %s, system %q", i+1, n, where, time.Since(began).Round(100*time.Millisecond), l.state, l.committed)
		switch {
		case t.Failed():
			return
		case i == n-1:
		case rested:
			where = l.act(p)
		default:
			where = m.cut(p)
		}
	}
	l.finish()
	y.mu.Lock()
	defer y.mu.Unlock()
	systemCounts = fmt.Sprintf("powercut of systems: %d cuts, %d lost, %d unclean", y.cuts, len(y.lost), len(y.unclean))
}

var systemCounts string // for people

// outcome is a state of the agent, with the version of the system in effect.
type outcome struct{ state, version string }

// systemLife is a machine that is updated as a whole.
type systemLife struct {
	*machine
	newest  string     // published
	dice    *rand.Rand // of step
	forward bool       // nothing is rolled back

	mu        sync.Mutex
	state     string    // as the agent reported it last: idle, interrupted, staged, booted
	committed string    // version; empty means the factory state
	next      string    // version that is staged or booted, or is being staged
	possible  []outcome // one of these is what the next boot finds
	trouble   string
}

// publish makes a version of the system: an update with an image, and two packages.
func (l *systemLife) publish() {
	r := l.repo
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version["system"]++
	v := strconv.Itoa(r.version["system"])
	rng := rand.New(rand.NewPCG(uint64(r.version["system"]), 3))
	publish := func(name, more string, files map[string]string) string {
		dir := filepath.Join("sources", v, name)
		r.put(filepath.Join(dir, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\nsummary: Has its power cut\n%s", name, v, more))
		r.put(filepath.Join(dir, "noise"), noise(rng, 200<<10))
		for path, text := range files {
			r.put(filepath.Join(dir, path), []byte(text))
		}
		var got struct{ Package string }
		if err := json.Unmarshal([]byte(r.lull("--json", "publish", "--repo", r.path("repo"), r.path(dir))), &got); err != nil {
			r.t.Error(err)
		}
		return got.Package
	}
	base := publish("org.lull.base", "hooks: {health: [bin/health]}\n", map[string]string{"bin/health": "#!/bin/sh\nexec true\n"})
	cache := publish("org.lull.cache", "", nil)
	image := publish("org.lull.image", "", map[string]string{"image": v})
	publish("org.lull.os", "hooks: {pre-refresh: [bin/install]}\n", map[string]string{
		"system.json": fmt.Sprintf(`{"version":%q,"images":[%q],"base":[%q],"cache":[%q]}`, v, image, base, cache),
		"bin/install": "#!/bin/sh\ntest -s \"$LULL_IMAGES/image\"\n",
	})
	r.noteFiles()
	l.newest = v
}

// step does the next operation of an update; false means that there is none
// before the next boot, or the power is gone.
func (l *systemLife) step() bool {
	l.mu.Lock()
	state, committed, next := l.state, l.committed, l.next
	l.mu.Unlock()
	switch state {
	case "idle":
		if l.newest == committed || l.newest == next {
			l.publish()
			if l.bring() != nil {
				return false
			}
		}
		next = l.newest
		return l.do([]outcome{{"idle", committed}, {"interrupted", committed}, {"booted", next}}, outcome{"staged", committed}, next, "stage", "org.lull.os")
	case "interrupted":
		return l.do([]outcome{{"interrupted", committed}, {"booted", next}}, outcome{"staged", committed}, next, "stage")
	case "booted":
		if l.dice.IntN(3) == 0 && !l.forward {
			return l.do([]outcome{{"booted", next}, {"idle", committed}}, outcome{"idle", committed}, "", "rollback")
		}
		return l.do([]outcome{{"booted", next}, {"idle", next}}, outcome{"idle", next}, "", "commit")
	}
	return false
}

// do runs an operation: a cut in it may leave one of may, and without one there is then.
func (l *systemLife) do(may []outcome, then outcome, next string, args ...string) bool {
	l.mu.Lock()
	l.possible, l.next = may, or(next, l.next)
	l.mu.Unlock()
	r, err := l.result(l.vm.Begin(rig.VMCommand{Argv: append([]string{"lull", "system"}, args...), Env: environment}))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return false // the power is off
	}
	if r.Code != 0 {
		l.trouble = fmt.Sprint(r)
		return false
	}
	l.state, l.next = then.state, next
	l.possible = []outcome{then}
	switch then.state {
	case "staged":
		l.possible = []outcome{{"booted", next}}
	case "idle":
		l.committed = then.version
	}
	return true
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// act continues with updates until the power is cut as planned, or the machine
// has to restart for the next step, which is a cut as well.
func (l *systemLife) act(p cutPlan) string {
	tripped, _, stop := l.trap(p)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for l.step() {
		}
	}()
	p.how = "in the middle"
	select {
	case <-tripped:
	case <-l.points.reached:
	case <-done:
		p.how = "between two steps"
	}
	what := l.cut(p)
	<-done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble != "" {
		l.unclean("the update does not go on: %s", l.trouble)
	}
	l.explain()
	return what
}

// check checks what a boot has found, first without an agent, then with one; rested is
// false when that has stopped at the fault point before it was done.
func (l *systemLife) check(fault string) (rested bool) {
	l.t.Helper()
	defer l.explain()
	l.agent = nil
	found := l.look()
	l.whole(found)
	var versions []string // which may be in effect before the agent has started
	for _, o := range l.possible {
		versions = append(versions, o.version)
	}
	if v := found.System; !slices.Contains(append(versions, l.committed), v) {
		l.lost("system %q is in effect before the agent has started; it may be one of %q, or %q", v, versions, l.committed)
	}
	if l.t.Failed() || !l.start(fault) {
		return false
	}
	r, stopped := l.try("lull", "--json", "system", "status")
	if stopped {
		return false
	}
	var s struct {
		State                     string
		Committed, Booted, Staged *struct{ Version string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		l.t.Fatalf("%v %v", err, r)
	}
	var got outcome
	got.state = s.State
	if s.Committed != nil {
		got.version = s.Committed.Version
	}
	committed := got.version
	if s.Booted != nil {
		got.version = s.Booted.Version
	}
	if !slices.Contains(l.possible, got) {
		l.lost("it is %v after the cut; it may be one of %v (%s)", got, l.possible, r.Stdout)
	}
	report := l.look()
	l.whole(report)
	if report.System != got.version {
		l.lost("system %q is in effect, and the agent reports %q", report.System, got.version)
	}
	if r, stopped := l.try("lull", "verify"); stopped {
		return false
	} else if r.Code != 0 {
		l.lost("%v", r)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.committed, l.possible = got.state, committed, []outcome{got}
	if got.state == "idle" {
		l.next = ""
	}
	return !l.t.Failed()
}

// finish shows that the machine can still be updated, and that nothing is left then.
func (l *systemLife) finish() {
	l.t.Helper()
	defer l.explain()
	l.forward = true
	for range 6 {
		if l.t.Failed() || l.state == "idle" && l.committed == l.newest {
			break
		}
		if l.step(); l.trouble != "" {
			l.unclean("the update does not go on: %s", l.trouble)
			return
		}
		if l.state == "staged" {
			l.vm.Poweroff()
			l.vm.Boot()
			l.check("")
		}
	}
	if l.state != "idle" || l.committed == "" {
		l.lost("no system is committed at the end: %s, %q", l.state, l.committed)
	}
	l.must("lull", "gc")
	report := l.look()
	l.whole(report)
	for _, what := range report.Left {
		l.unclean("%s", what)
	}
	if report.Trees != 2 {
		l.unclean("%d packages are left, want the 2 of the system", report.Trees)
	}
	l.vm.Poweroff()
}
