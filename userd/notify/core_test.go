package notify

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC) // a Friday

func firefox() Pending {
	return Pending{
		ID: "r1", Instance: "firefox", Name: "Firefox", FromVersion: "152", ToVersion: "153", FromRevision: 1, ToRevision: 2,
		Urgency: "medium", Since: t0, Deadline: t0.Add(14 * 24 * time.Hour), AtDeadline: keepWaiting,
		Processes: []Process{{PID: 42, UID: 1000, Command: "firefox"}},
	}
}

// player plays the edges of a core: it answers Ask with what is pending, and
// keeps what is on the screen.
type player struct {
	t       *testing.T
	core    *Core
	now     time.Time
	pending []Pending
	screen  map[string]Notice
	wake    time.Time
	log     []string // what was done, shortly
	memory  map[string]Memory
	down    bool // the agent does not answer
	alerts  int  // notices that need attention
}

func newPlayer(t *testing.T, memory map[string]Memory) *player {
	p := &player{t: t, core: New(DefaultSchedule, time.UTC, memory), now: t0, screen: map[string]Notice{}, memory: memory}
	p.event(Disturb{No: false})
	return p
}

func (p *player) event(e Event) {
	queue := []Event{e}
	for steps := 0; len(queue) > 0; steps++ {
		if steps > 100 {
			p.t.Fatalf("no end to it: %T", queue[0])
		}
		e, queue = queue[0], queue[1:]
		for _, f := range p.core.Step(p.now, e) {
			switch f := f.(type) {
			case RunHook:
				p.log = append(p.log, "hook "+f.Pending.Instance)
			case Ask:
				p.log = append(p.log, "ask")
				if p.down {
					queue = append(queue, AskFailed{})
				} else {
					queue = append(queue, Listed{append([]Pending(nil), p.pending...)})
				}
			case Show:
				if f.Notice.Serial == 0 {
					p.t.Error("a notice without a serial")
				}
				p.screen[f.Notice.Instance] = f.Notice
				if f.Notice.Alert {
					p.alerts++
				}
				p.log = append(p.log, "show "+string(f.Notice.Kind)+" "+f.Notice.Instance)
			case Close:
				if _, up := p.screen[f.Instance]; up {
					p.log = append(p.log, "close "+f.Instance)
				} else if f.Keep {
					p.log = append(p.log, "keep "+f.Instance)
				}
				delete(p.screen, f.Instance)
			case Answer:
				p.log = append(p.log, "answer "+f.ID+" "+f.Action)
			case PutOff:
				p.log = append(p.log, fmt.Sprintf("put off %s for %v: %s", f.Instance, f.Until.Sub(p.now), f.Reason))
			case Quit:
				p.log = append(p.log, fmt.Sprintf("quit %s %d", f.Pending.Instance, len(f.Pending.Processes)))
			case AskToLogOut:
				p.log = append(p.log, "log out")
			case Launch:
				p.log = append(p.log, "launch "+f.Instance)
			case Forget:
				p.log = append(p.log, "forget "+f.Instance)
			case Follow:
				p.log = append(p.log, fmt.Sprint("follow ", f.Instance, " ", f.Yes))
			case Remember:
				p.memory = f.Memory
			case Wake:
				p.wake = f.At
			}
		}
	}
}

// until lets time pass, with a Tick at each time that was asked for.
func (p *player) until(end time.Time) {
	for n := 0; !p.wake.IsZero() && !p.wake.After(end); n++ {
		if n > 1000 {
			p.t.Fatal("it wakes up all the time")
		}
		p.now = p.wake
		p.wake = time.Time{}
		p.event(Tick{})
	}
	p.now = end
}

func (p *player) after(d time.Duration) { p.until(p.now.Add(d)) }

func (p *player) closeByHand(instance string) {
	n := p.screen[instance]
	delete(p.screen, instance)
	p.event(Closed{Instance: instance, Serial: n.Serial})
}

// did compares what was done since the last call, without the questions.
func (p *player) did(want ...string) {
	p.t.Helper()
	var got []string
	for _, l := range p.log {
		if l != "ask" {
			got = append(got, l)
		}
	}
	p.log = nil
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		p.t.Errorf("did  %q\nwant %q", got, want)
	}
}

func (p *player) ready(q ...Pending) *player {
	p.pending = q
	p.event(AgentUp{})
	return p
}

func TestShownAtOnceAndWithdrawn(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.did("show ready firefox")
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.did("close firefox")
	if len(p.screen) != 0 {
		t.Error("it still stands there")
	}
	p.event(Updated{Done{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	p.did("show after firefox")
	if n := p.screen["firefox"]; n.Expire == 0 || n.Urgency != Low || n.Summary != "Firefox was updated" || n.Body != "It is now version 153." {
		t.Errorf("got %+v, want a notice of urgency low that expires: Firefox was updated. It is now version 153.", n)
	}
	p.after(newsShown)
	p.did("close firefox") // servers without a time for it keep it
	if !p.wake.IsZero() {
		t.Errorf("it wakes up at %v, want never, as there is nothing to do", p.wake)
	}
}

func TestNothingIsShownThatIsNotPending(t *testing.T) {
	p := newPlayer(t, nil).ready()
	p.event(Changed{}) // by the time of asking it has been closed
	p.did()
	p.event(Withdrawn{"r9", "held"})
	p.did()
}

func TestAskedRightBeforeShowing(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.closeByHand("firefox")
	p.log = nil
	p.pending = nil // its withdrawal was missed
	p.after(10 * 24 * time.Hour)
	p.did()
}

func TestReminders(t *testing.T) {
	day := 24 * time.Hour
	cases := []struct {
		name   string
		change func(*Pending)
		answer string
		want   []int // days after the first notice
	}{
		{"as scheduled", func(*Pending) {}, "", []int{1, 3, 11, 12, 13}},
		{"later", func(*Pending) {}, Later, []int{1, 3, 11, 12, 13}},
		{"when closed", func(*Pending) {}, WhenClosed, []int{11, 12, 13}},
		{"click", func(*Pending) {}, Default, []int{11, 12, 13}},
		{"no deadline", func(p *Pending) { p.Deadline = time.Time{} }, "", []int{1, 3}},
		{"short window", func(p *Pending) { p.Deadline = t0.Add(2 * day) }, "", []int{1}},
		{"deadline over", func(p *Pending) { p.Deadline = t0.Add(-day) }, "", nil},
		{"deadline before its beginning", func(p *Pending) { p.Since = t0.Add(100 * day) }, "", nil},
		{"waits from of old", func(p *Pending) { p.Since = t0.Add(-300 * day) }, "", []int{11, 12, 13}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q := firefox()
			c.change(&q)
			p := newPlayer(t, nil).ready(q)
			p.did("show ready firefox")
			if c.answer != "" {
				p.event(Invoked{Instance: "firefox", Action: c.answer})
			}
			p.log = nil
			var got []int
			for range 40 * 24 {
				p.after(time.Hour)
				if _, up := p.screen["firefox"]; up && len(p.log) > 0 {
					got = append(got, int(p.now.Sub(t0)/day))
					p.closeByHand("firefox")
				}
				p.log = nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("reminded after %v days, want %v", got, c.want)
			}
		})
	}
}

func TestSuspendedMachineRemindsOnce(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.closeByHand("firefox")
	p.log = nil
	p.now = t0.Add(12 * 24 * time.Hour) // it has slept all the time
	p.event(Tick{})
	p.did("show ready firefox")
	p.after(12 * time.Hour)
	p.did()
}

func TestClockPutBack(t *testing.T) {
	p := newPlayer(t, map[string]Memory{"firefox": {Revision: 2, Shown: t0.Add(5 * 365 * 24 * time.Hour)}}).ready(firefox())
	p.after(30 * 24 * time.Hour)
	shown := 0
	for _, l := range p.log {
		if strings.HasPrefix(l, "show") {
			shown++
		}
	}
	if shown == 0 || shown > 5 {
		t.Errorf("shown %d times in 30 days, want 1 to 5", shown)
	}
}

func TestNewRevisionWhileUp(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	q := firefox()
	q.ID, q.ToVersion, q.ToRevision = "r2", "154", 3
	p.pending = []Pending{q}
	p.did("show ready firefox")
	p.event(Changed{})
	p.did("show ready firefox") // in its place
	if got := p.screen["firefox"].Summary; got != "Firefox 154 is ready" {
		t.Error(got)
	}
	p.event(Changed{})
	p.did() // nothing new
}

func TestNewRevisionSoonAfterIsNoNewNotice(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(Invoked{Instance: "firefox", Action: Later})
	p.log = nil
	p.after(time.Hour)
	q := firefox()
	q.ID, q.ToRevision, q.Since = "r2", 3, p.now
	p.pending = []Pending{q}
	p.event(Changed{})
	p.did()
	p.after(20 * time.Hour)
	p.did("show ready firefox")

	q.ID, q.ToRevision, q.Urgency = "r3", 4, security
	p.event(Invoked{Instance: "firefox", Action: Later})
	p.log = nil
	p.pending = []Pending{q}
	p.event(Changed{})
	p.did("show ready firefox") // this one cannot wait
}

func TestOnePerPackage(t *testing.T) {
	a, b := firefox(), firefox()
	b.Instance, b.ID = "gimp", "r2"
	twice := firefox()
	twice.ID = "r9"
	p := newPlayer(t, nil).ready(a, b, twice, Pending{})
	p.did("show ready firefox", "show ready gimp")
	p.pending = p.pending[:1]
	p.event(Withdrawn{"r2", "reverted"})
	p.did("close gimp")
}

func TestQuiet(t *testing.T) {
	p := newPlayer(t, nil)
	p.event(Locked{true})
	p.ready(firefox())
	p.did()
	p.event(Disturb{true})
	p.event(Locked{false})
	p.did()
	p.event(Fullscreen{true})
	p.event(Disturb{false})
	p.did()
	p.event(Fullscreen{false})
	p.did("show ready firefox")

	// The news of an update waits, too.
	p.event(Disturb{true})
	p.pending = nil
	p.event(Withdrawn{"r1", "exited"})
	p.event(Updated{Done{ID: "r1", Instance: "firefox"}})
	p.did("close firefox")
	p.event(Disturb{false})
	p.did("show after firefox")
}

func TestQuietFromTheStart(t *testing.T) {
	c := New(DefaultSchedule, time.UTC, nil)
	for _, e := range []Event{AgentUp{}, Listed{[]Pending{firefox()}}} {
		for _, f := range c.Step(t0, e) {
			if _, ok := f.(Show); ok {
				t.Error("shown before the desktop has said whether it may be disturbed")
			}
		}
	}
}

func TestShowAll(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(Invoked{Instance: "firefox", Action: WhenClosed})
	p.did("show ready firefox", "answer r1 when-closed", "close firefox")
	p.event(ShowAll{})
	p.did("show ready firefox")
}

func TestAgentComesAndGoes(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	p.event(AgentDown{})
	p.after(10 * time.Second)
	p.event(AgentUp{}) // it was updated
	p.did("show ready firefox")
	p.after(time.Hour)
	p.did()

	p.event(AgentDown{})
	p.after(31 * time.Second)
	p.did("close firefox")
	p.event(AgentUp{})
	p.did("show ready firefox")
}

func TestAgentThatDoesNotAnswer(t *testing.T) {
	p := newPlayer(t, nil)
	p.down = true
	p.ready(firefox())
	p.did()
	n := len(p.log)
	p.after(10 * time.Minute) // after 1, 2, 4 and 8
	if asked := len(p.log) - n; asked < 2 || asked > 4 {
		t.Errorf("asked %d times in ten minutes, want 2 to 4", asked)
	}
	p.down = false
	p.after(10 * time.Minute)
	p.did("show ready firefox")
}

// An answer that was on its way while something changed must not put up a
// notice about what is no longer so.
func TestOutdatedAnswer(t *testing.T) {
	c := New(DefaultSchedule, time.UTC, nil)
	c.Step(t0, Disturb{false})
	c.Step(t0, AgentUp{})
	c.Step(t0, Withdrawn{"r1", "exited"})
	effects := c.Step(t0, Listed{[]Pending{firefox()}})
	if len(effects) != 1 || effects[0] != (Ask{}) {
		t.Errorf("an outdated answer has the effects %#v, want one, %#v", effects, Ask{})
	}
	for range maxDiscarded {
		c.Step(t0, Changed{})
		for _, f := range c.Step(t0, Listed{[]Pending{firefox()}}) {
			if _, ok := f.(Show); ok {
				return
			}
		}
	}
	t.Error("an agent that changes its mind all the time is never heard")
}

func TestHelperRestarted(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	again := newPlayer(t, p.memory)
	again.now = t0.Add(time.Minute)
	again.ready(firefox())
	again.did("show ready firefox") // it was up, and must be re-posted

	p.event(Invoked{Instance: "firefox", Action: WhenClosed})
	again = newPlayer(t, p.memory)
	again.ready(firefox())
	again.after(24 * time.Hour * 5)
	again.did()
}

func TestClosedOfAnEarlierNotice(t *testing.T) {
	p := newPlayer(t, nil).ready(firefox())
	old := p.screen["firefox"].Serial
	q := firefox()
	q.ToVersion, q.ToRevision = "154", 3
	p.pending = []Pending{q}
	p.event(Changed{})
	p.event(Closed{Instance: "firefox", Serial: old})
	p.event(Closed{Instance: "nobody", Serial: 1})
	p.log = nil
	p.pending = nil
	p.event(Changed{})
	p.did("close firefox") // the new one was known to be up
}

// Whatever happens in whatever order: never two notices of one package, none
// critical, none about what the agent does not call pending, no more than the
// schedule allows, and no restlessness.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlayer(t, nil).ready()
		shown := map[string]time.Time{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			p.log = nil
			user := false
			switch rapid.IntRange(0, 12).Draw(rt, "what") {
			case 0, 1:
				q := firefox()
				q.ToRevision = uint32(rapid.IntRange(2, 5).Draw(rt, "revision"))
				q.ID = fmt.Sprint("r", q.ToRevision)
				p.pending = []Pending{q}
				p.event(Changed{})
			case 2:
				p.pending = nil
				p.event(Withdrawn{fmt.Sprint("r", rapid.IntRange(2, 5).Draw(rt, "id")), "exited"})
			case 3:
				p.pending = nil
				p.event(Updated{Done{ID: "r2", Instance: "firefox"}})
			case 4:
				p.event(AgentDown{})
			case 5:
				p.event(AgentUp{})
				user = true // what was taken down with the agent comes back
			case 6:
				p.event(Locked{rapid.Bool().Draw(rt, "locked")})
			case 7:
				p.event(Disturb{rapid.Bool().Draw(rt, "disturb")})
			case 8:
				p.closeByHand("firefox")
			case 9:
				p.event(Invoked{Instance: "firefox", Action: rapid.SampledFrom([]string{RestartNow, WhenClosed, Later, Default}).Draw(rt, "action")})
				user = true
			case 10:
				p.event(Finished{"firefox", "failed"})
			case 11:
				p.down = !p.down
			case 12:
				p.after(time.Duration(rapid.IntRange(1, 100_000).Draw(rt, "seconds")) * time.Second)
			}
			pending := len(p.pending) > 0
			if n, up := p.screen["firefox"]; up {
				if n.Urgency > Normal {
					rt.Fatalf("the notice has urgency %v, want at most normal: %+v", n.Urgency, n)
				}
				if n.Kind == Ready && !pending && p.core.agent && !p.core.mustAsk {
					rt.Fatalf("shown and not pending: %+v", n)
				}
			}
			for _, l := range p.log {
				if l == "show ready firefox" {
					if last, ok := shown["firefox"]; ok && !user && p.now.Sub(last) > 0 && p.now.Sub(last) < time.Hour && p.screen["firefox"].Kind == "" {
						rt.Fatalf("shown twice within %v, want an hour between them at least", p.now.Sub(last))
					}
					shown["firefox"] = p.now
				}
			}
		}
	})
}

// TestPendingHook: the hook of a package runs once for each revision, also when the
// application is closed and opened again, the helper is restarted or the agent goes and
// comes, and not for a package without one.
func TestPendingHook(t *testing.T) {
	hooks := func(p *player) (n int) {
		for _, l := range p.log {
			if strings.HasPrefix(l, "hook ") {
				n++
			}
		}
		return n
	}
	p := newPlayer(t, nil)
	f := firefox()
	f.PendingHook = true
	plain := firefox()
	plain.ID, plain.Instance = "r9", "plain"
	p.pending = []Pending{f, plain}
	p.event(AgentUp{})
	p.event(Changed{})
	if hooks(p) != 1 {
		t.Fatalf("got %d runs of the hook, want 1: %q", hooks(p), p.log)
	}
	p.pending = nil // closed
	p.event(Changed{})
	p.event(AgentDown{})
	p.pending = []Pending{f}
	p.event(AgentUp{})
	if hooks(p) != 1 {
		t.Errorf("after the application was closed and the agent came back: got %d runs of the hook, want 1: %q", hooks(p), p.log)
	}
	again := newPlayer(t, p.memory) // another helper of this session
	again.pending = []Pending{f}
	again.event(AgentUp{})
	if hooks(again) != 0 {
		t.Errorf("in the next helper: got %d runs of the hook, want none: %q", hooks(again), again.log)
	}
	f.ToRevision++
	again.pending = []Pending{f}
	again.event(Changed{})
	if hooks(again) != 1 {
		t.Errorf("it has not run for the next revision: %q", again.log)
	}
	later := newPlayer(t, nil) // the next session
	later.pending = []Pending{f}
	later.event(AgentUp{})
	if hooks(later) != 1 {
		t.Errorf("it has not run in the next session: %q", later.log)
	}
}
