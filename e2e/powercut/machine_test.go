package powercut_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/powercut/check"
	"github.com/lull/lull/e2e/rig"
)

// limit is how long a machine may take for one thing.
const limit = 6 * time.Minute

// policy has nothing happen but what lanes ask for.
const policy = "defaults: {auto-refresh: false}\nschedule: {check: 31d}\ngc: {after-refresh: %t, watermark: 0, reserve: 0}\n"

// environment is what commands of lull have in the machine.
var environment = []string{"LULL_BUS=unix:path=/run/bus", "NO_COLOR=1"}

// machine is a machine with an agent, and what is known of its past.
type machine struct {
	t     *testing.T
	rng   *rand.Rand
	vm    *rig.VM
	repo  *repository
	tally *tally

	data     string // file system
	web      bool   // see shapes
	collects bool   // the agent collects after refreshes
	lanes    []*lane
	points   *points      // of the boot under way
	reader   *rig.Command // of the pipe that they come through
	agent    *rig.Command
	killing  bool           // the agent dies at the fault point, and another one comes before the cut
	steps    map[string]int // of a ledger, by instance and revision, as far as it was ever seen
}

// result is the end of a command in the machine.
func (m *machine) result(p *rig.Command) (rig.Result, error) { return p.Wait(m.t.Context(), limit) }

func (m *machine) run(argv ...string) (rig.Result, error) {
	return m.result(m.vm.Begin(rig.VMCommand{Argv: argv, Env: environment}))
}

// must runs what has to succeed while the power is on.
func (m *machine) must(argv ...string) rig.Result {
	m.t.Helper()
	r, err := m.run(argv...)
	if err != nil || r.Code != 0 {
		m.t.Fatalf("%v %v; the machine says:\n%s", err, r, m.vm.Console())
	}
	return r
}

// points are the fault points that the agent passes, as it passes them.
type points struct {
	mu      sync.Mutex
	counts  map[string]int
	last    string // of a refresh or the collector
	changed chan struct{}
	arm     string        // name#n, or empty
	reached chan struct{} // closed when that was passed
}

// follow reads the pipe with the agent's points.
func (m *machine) follow(fault string) *points {
	arm, _, _ := strings.Cut(fault, ":")
	x := &points{counts: map[string]int{}, changed: make(chan struct{}), arm: arm, reached: make(chan struct{})}
	if m.reader != nil { // of an agent before this one
		m.reader.Signal(syscall.SIGKILL)
		<-m.reader.Done()
	}
	// Open for both, it has no end.
	m.reader = m.vm.Start("sh", "-c", "exec cat <>/run/points")
	done := 0
	go m.reader.Until(m.t.Context(), time.Hour, func(r rig.Result) bool {
		text := r.Stdout[done:]
		end := strings.LastIndexByte(text, '\n') + 1
		done += end
		x.note(strings.Fields(text[:end]))
		return false
	})
	return x
}

func (x *points) note(names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, name := range names {
		x.counts[name]++
		if strings.HasPrefix(name, "refresh.") || strings.HasPrefix(name, "gc.") {
			x.last = name
		}
		if x.arm == fmt.Sprintf("%s#%d", name, x.counts[name]) {
			close(x.reached)
		}
	}
	close(x.changed)
	x.changed = make(chan struct{})
}

// passed returns a channel that is closed when the next point is passed.
func (x *points) passed() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.changed
}

// latest is the last point of a refresh or of the collector.
func (x *points) latest() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last
}

// step is the step, or what else the last point belongs to.
func (x *points) step() string {
	f := strings.Split(x.latest(), ".")
	return strings.Join(f[:min(2, len(f))], ".")
}

// look reads the disk.
func (m *machine) look() *check.Report {
	m.t.Helper()
	var r check.Report
	out := m.must("powercut-guest", "look", "/var/lib/lull", "/run/lull")
	if err := json.Unmarshal([]byte(out.Stdout), &r); err != nil {
		m.t.Fatal(err)
	}
	return &r
}

// start starts a bus and the agent. With a fault armed, the agent may stop
// before it serves: then ready is false.
func (m *machine) start(fault string) (ready bool) {
	m.t.Helper()
	if m.rng.IntN(2) == 0 {
		// A kernel that writes early and often has other states at a cut than one
		// that writes on request.
		early := "echo 5 >/proc/sys/vm/dirty_writeback_centisecs; echo 10 >/proc/sys/vm/dirty_expire_centisecs"
		if m.data != "xfs" {
			early += "; mount -o remount,commit=1 /var/lib/lull"
		}
		m.must("sh", "-e", "-c", early)
	}
	m.repo.brought = map[string]bool{}
	if err := m.bring(); err != nil {
		m.t.Fatal(err)
	}
	bus := m.vm.Start("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path=/run/bus", "--print-address=1")
	if _, err := bus.Until(m.t.Context(), limit, func(r rig.Result) bool { return strings.Contains(r.Stdout, "\n") }); err != nil {
		m.t.Fatalf("no bus: %v %v", err, bus.Result())
	}
	if m.web {
		server := m.vm.Start("powercut-guest", "serve", "/opt/repo")
		if _, err := server.Until(m.t.Context(), limit, func(r rig.Result) bool { return strings.Contains(r.Stdout, "serving\n") }); err != nil {
			m.t.Fatalf("no server: %v %v", err, server.Result())
		}
	}
	m.must("mkfifo", "/run/points")
	return m.startAgent(fault)
}

func (m *machine) startAgent(fault string) (ready bool) {
	m.t.Helper()
	env := append([]string{"LULL_FAULT_LIST=/run/points"}, environment...)
	if fault != "" {
		env = append(env, "LULL_FAULT="+fault)
	}
	m.points = m.follow(fault)
	m.agent = m.vm.Begin(rig.VMCommand{Argv: []string{"sh", "-c", "exec 3>&1 >&2; exec lulld --bus=unix:path=/run/bus --ready-fd=3"}, Env: env})
	served := make(chan error, 1)
	go func() {
		_, err := m.agent.Until(m.t.Context(), limit, func(r rig.Result) bool { return strings.Contains(r.Stdout, "READY") })
		served <- err
	}()
	select {
	case <-m.points.reached:
		return false
	case err := <-served:
		if err != nil && !m.points.soonReached() {
			m.t.Fatalf("no agent: %v\n%s", err, m.agent.Result().Text())
		}
		return err == nil
	}
}

// soonReached reports whether the fault point was passed, whose report may
// come a moment after its effect.
func (x *points) soonReached() bool {
	select {
	case <-x.reached:
		return true
	case <-time.After(3 * time.Second):
		return false
	}
}

// bring brings the machine what is new in the repository.
func (m *machine) bring() error {
	r, err := m.result(m.vm.Begin(rig.VMCommand{Argv: []string{"powercut-guest", "take", "/opt/repo"}, Stdin: m.repo.news()}))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%v", r)
	}
	return err
}

// listing is the output of `lull list --json` and `lull status --json`.
type listing struct {
	Packages []struct {
		Instance  string
		Version   string
		Revision  int
		Revisions []struct{ Revision int }
	}
	Refreshes []struct{ ID, Kind, Instance, State, Step string }
}

func parse(command, text string) (l listing, err error) {
	// `list` has a list where `status` has a number of packages.
	var raw map[string]json.RawMessage
	err = json.Unmarshal([]byte(text), &raw)
	if err == nil && command == "list" {
		err = json.Unmarshal(raw["packages"], &l.Packages)
	} else if err == nil {
		err = json.Unmarshal(raw["refreshes"], &l.Refreshes)
	}
	return l, err
}

// settle waits until the agent has finished what it has found. Not if it stops
// at a fault point before.
func (m *machine) settle() (settled bool) {
	m.t.Helper()
	timeout := time.After(limit)
	for {
		changed := m.points.passed()
		status := m.vm.Begin(rig.VMCommand{Argv: []string{"lull", "status", "--json"}, Env: environment})
		select {
		case <-status.Done():
		case <-m.points.reached:
			return false
		case <-timeout:
			m.t.Fatalf("the agent does not answer:\n%s", m.agent.Result().Text())
		}
		r := status.Result()
		l, err := parse("status", r.Stdout)
		switch {
		case (err != nil || r.Code != 0) && m.points.soonReached():
			return false
		case err != nil || r.Code != 0:
			m.t.Fatalf("the agent does not answer: %v %v\n%s", err, r, m.agent.Result().Text())
		case len(l.Refreshes) == 0:
			return true
		}
		// Asking costs the machine more than working: not at every point.
		for quiet := false; !quiet; {
			select {
			case <-changed:
				changed = m.points.passed()
			case <-time.After(time.Second):
				quiet = true
			case <-m.points.reached:
				return false
			case <-timeout:
				m.t.Fatalf("the agent does not come to rest: %+v\n%s", l.Refreshes, m.agent.Result().Text())
			}
		}
	}
}
