package powercut_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/e2e/powercut/check"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// lost notes that a promise about packages or data is broken.
func (m *machine) lost(format string, args ...any) {
	m.t.Helper()
	text := fmt.Sprintf(format, args...)
	m.t.Errorf("lost: %s", text)
	m.tally.mu.Lock()
	defer m.tally.mu.Unlock()
	m.tally.lost = append(m.tally.lost, text)
}

// unclean notes what should not be there.
func (m *machine) unclean(format string, args ...any) {
	m.t.Helper()
	text := fmt.Sprintf(format, args...)
	m.t.Errorf("unclean: %s", text)
	m.tally.mu.Lock()
	defer m.tally.mu.Unlock()
	m.tally.unclean = append(m.tally.unclean, text)
}

// explain shows, after a failure, the agent's output, and keeps the disk on
// request.
func (m *machine) explain() {
	if !m.t.Failed() {
		return
	}
	if m.agent != nil {
		m.t.Logf("the agent says:\n%s", m.agent.Result().Text())
	}
	if dir := os.Getenv("LULL_KEEP"); dir != "" {
		path := filepath.Join(dir, strings.ReplaceAll(m.t.Name(), "/", "-")+".img")
		m.t.Logf("the disk is kept in %s: %v", path, m.vm.Disk().Save(path))
	}
}

// try runs a command which the agent may leave without an answer, because it
// stops at the fault point.
func (m *machine) try(argv ...string) (r rig.Result, stopped bool) {
	m.t.Helper()
	p := m.vm.Begin(rig.VMCommand{Argv: argv, Env: environment})
	select {
	case <-m.points.reached:
		return r, true
	case <-p.Done():
	case <-time.After(limit):
		m.t.Errorf("%q does not end", argv)
	}
	r = p.Result()
	return r, r.Code != 0 && m.points.arm != "" && m.points.soonReached()
}

// check checks the state after a boot, first without an agent, then with one;
// rested is false when that has stopped at the fault point before it was done.
func (m *machine) check(fault string) (rested bool) {
	m.t.Helper()
	defer m.explain()
	m.agent = nil
	m.whole(m.look())
	if m.t.Failed() || !m.start(fault) || !m.settle() {
		return false
	}
	// A download may be resumed until the next collection.
	collected := m.collects || m.rng.IntN(3) == 0
	if collected {
		r, stopped := m.try("lull", "gc")
		if stopped {
			return false
		}
		if r.Code != 0 {
			m.unclean("%v", r)
		}
	}
	r, stopped := m.try("lull", "verify")
	if stopped {
		return false
	}
	if r.Code != 0 {
		m.lost("%v", r)
	}
	r, stopped = m.try("lull", "list", "--json")
	if stopped {
		return false
	}
	l, err := parse("list", r.Stdout)
	if err != nil {
		m.t.Fatalf("%v %v", err, r)
	}
	report := m.look()
	m.whole(report)
	m.agree(report, l)
	for _, what := range report.Left {
		if collected || !strings.HasPrefix(what, "tmp/") {
			m.unclean("%s", what)
		}
	}
	for _, lane := range m.lanes {
		lane.current = report.Version(lane.name)
		lane.may, lane.before = []string{lane.current}, nil
	}
	return !m.t.Failed()
}

// whole checks what holds at any time: nothing is broken, what was reported is
// done, and no ledger has gone back.
func (m *machine) whole(r *check.Report) {
	m.t.Helper()
	for _, what := range r.Lost {
		m.lost("%s", what)
	}
	for _, l := range m.lanes {
		if l.name != "" && !slices.Contains(l.may, r.Version(l.name)) {
			m.lost("%s is at version %q, and has to be at one of %q", l.name, r.Version(l.name), l.may)
		}
	}
	for name, i := range r.Instances {
		for n, s := range i.Data {
			key := fmt.Sprintf("%s/%d", name, n)
			if s.Step < m.steps[key] {
				m.lost("data/%s is at step %d, and was at %d", key, s.Step, m.steps[key])
			}
			m.steps[key] = s.Step
		}
	}
}

// agree checks that links and data are of the agent's revisions.
func (m *machine) agree(r *check.Report, l listing) {
	m.t.Helper()
	for name, i := range r.Instances {
		var known []int
		version := ""
		for _, p := range l.Packages {
			if p.Instance == name {
				version = p.Version
				for _, v := range p.Revisions {
					known = append(known, v.Revision)
				}
			}
		}
		slices.Sort(known)
		if version != i.Version {
			m.unclean("the agent says that %s is at version %q, the links say %q", name, version, i.Version)
		}
		if !slices.Equal(known, i.Revisions) {
			m.unclean("the agent knows revisions %d of %s, there are links of %d", known, name, i.Revisions)
		}
		for n := range i.Data {
			// A removal leaves data.
			if !slices.Contains(known, n) && version != "" {
				m.unclean("there is data of revision %d of %s; the agent knows revisions %d", n, name, known)
			}
		}
	}
}

// work lets the lanes run until the power is cut as planned, and returns how
// it was cut.
func (m *machine) work(p cutPlan) string {
	tripped, trip, stop := m.trap(p)
	defer stop()

	var lanes sync.WaitGroup
	m.killing = strings.HasSuffix(p.fault, ":kill")
	// Few beside each other, so that they come far.
	for _, i := range m.rng.Perm(len(m.lanes))[:1+m.rng.IntN(3)] {
		lanes.Go(func() {
			for m.lanes[i].step() {
			}
			if m.lanes[i].wrong() != "" {
				trip()
			}
		})
	}
	select {
	case <-tripped:
	case <-m.points.reached:
		if m.killing {
			// The next agent must not build on data that a dead one has not flushed.
			<-m.agent.Done()
			lanes.Wait()
			m.startAgent("")
			select {
			case <-time.After(time.Duration(m.rng.IntN(3000)) * time.Millisecond):
			case <-m.t.Context().Done():
			}
		}
	}
	what := m.cut(p)
	lanes.Wait()
	for _, l := range m.lanes {
		if text := l.wrong(); text != "" {
			m.unclean("work does not go on: %s", text)
		}
	}
	m.explain()
	return what
}

// trap returns a channel that is closed when the power must be cut, as far as
// the disk or the time decide it.
func (m *machine) trap(p cutPlan) (tripped <-chan struct{}, trip, stop func()) {
	now := make(chan struct{})
	trip = sync.OnceFunc(func() { close(now) })
	d := m.vm.Disk()
	from := d.Counts()
	if p.flushes > 0 || p.writes > 0 {
		d.Hook(func(e disk.Event, c disk.Counts) bool {
			hit := p.flushes > 0 && e == disk.Flush && c.Flushes-from.Flushes >= p.flushes || p.writes > 0 && c.Writes-from.Writes >= p.writes
			if hit {
				trip()
			}
			return hit
		})
	}
	after := p.after
	if after == 0 {
		after = 20 * time.Second // a point may never be passed
	}
	timer := time.AfterFunc(after, trip)
	return now, trip, func() { timer.Stop() }
}

// cut cuts the power.
func (m *machine) cut(p cutPlan) string {
	doing := map[string]int{}
	for _, l := range m.lanes {
		l.mu.Lock()
		if l.doing != "" {
			doing[l.doing]++
		}
		l.mu.Unlock()
	}
	pending := m.vm.Cut(p.fate, m.rng)
	for _, l := range m.lanes {
		l.mu.Lock()
		l.doing = ""
		l.mu.Unlock()
	}
	last := m.points.latest()
	how := p.how
	if p.fault != "" && m.points.arm != "" {
		select {
		case <-m.points.reached:
			last = m.points.arm
		default:
			how = "after a fault point was not reached"
		}
	}
	y := m.tally
	y.saw(m.points)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.cuts++
	y.how["cuts "+how]++
	y.how[fmt.Sprintf("unflushed writes %s", p.fate)]++
	if pending > 0 {
		y.pending++
	}
	if len(doing) == 0 {
		doing["what a boot has found"]++
	}
	for k := range doing {
		y.where["cuts during "+k]++
	}
	y.where["last step "+m.points.step()]++
	return fmt.Sprintf("%s (%s), last point %s, during %v, %d unflushed writes %s", how, p.fault, last, doing, pending, p.fate)
}

// goOn shows that the machine can still do everything.
func (m *machine) goOn() {
	m.t.Helper()
	for _, l := range m.lanes {
		for range 2 {
			if !l.step() {
				m.unclean("work does not go on: %s", l.wrong())
				break
			}
		}
	}
	m.vm.Poweroff()
}
