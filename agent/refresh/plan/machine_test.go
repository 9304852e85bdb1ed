package plan

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/runs"
)

// model is a world small enough to be checked: it has only the effects of the steps.
type model struct {
	t        *rapid.T
	kind     Kind
	r        Refresh
	journal  Refresh
	unmet    bool   // a condition is not fulfilled
	running  bool   // an application of the revision that was current when it started
	marker   bool   // launches wait
	linked   bool   // current names the new revision (for a removal: nothing)
	services string // old, new or none
	copied   bool
	together bool // the other members of the group, if there is one, have reached the same step
	whole    bool // the group has committed
	effect   Effect
}

func (m *model) event(ev Event) {
	m.r, m.effect = Next(m.r, ev)
	if MustPersist(&m.journal, &m.r) {
		m.journal = m.r
	}
	m.journal.Parked = false // not in the journal
}

// do has the effect of the step's Do.
func (m *model) do() (busy bool) {
	switch m.r.Step {
	case Fetch:
		return m.waits()
	case Wait:
		return m.running || m.waits()
	case Inhibit:
		if m.running {
			return true
		}
		m.marker = true
	case Gather:
		return !m.together
	case Commit:
		m.need(m.linked && m.services == "new", "the group commits when all is done")
		m.whole = true
	case StopServices:
		m.need(m.marker, "services are stopped behind a shut door")
		m.services = "none"
	case Copy:
		m.need(!m.running, "nothing runs while data is copied")
		m.need(m.services == "none", "no service runs while data is copied")
		m.copied = true
	case Link:
		if !m.linked {
			m.need(m.marker && !m.running, "the commit happens behind a shut door with nothing running")
			m.need(m.kind != Update || m.copied, "the data is there before the commit")
		}
		m.linked, m.marker = true, true
	case StartServices:
		m.need(m.linked, "new services start after the commit")
		m.services = "new"
	case Uninhibit:
		m.marker = false
	case Finish:
		m.need(!m.marker, "the door is open at the end")
	}
	return false
}

// waits reports whether a condition keeps it from going on by itself.
func (m *model) waits() bool { return m.unmet && m.kind == Update && !m.r.Now }

func (m *model) undo() {
	m.need(!m.whole, "nothing goes back after the commit of the group")
	switch m.r.Step {
	case Wait, Inhibit:
		m.marker = false
	case StopServices:
		m.services = "old"
	case Copy:
		m.need(!m.linked, "data is thrown away only after the link went back")
		m.copied = false
	case Link:
		m.linked = false
	case StartServices:
		m.services = "none"
	case Uninhibit:
		m.marker = true
	}
}

func (m *model) need(ok bool, rule string) {
	if !ok {
		m.t.Fatalf("broken: %s\nmodel %+v", rule, m)
	}
}

// TestAnyHistoryEndsWhole drives the machine through random histories of
// processes, failures, crashes, reboots and cancellations.
func TestAnyHistoryEndsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, kind: rapid.SampledFrom([]Kind{Install, Update, Revert, Remove}).Draw(t, "kind"), services: "old"}
		if m.kind == Install {
			m.services = "none"
		}
		m.r = Refresh{ID: "1", Kind: m.kind, Instance: "a"}
		if m.kind == Update && rapid.Bool().Draw(t, "group") {
			m.r.Group = "1"
		}
		m.event(Event{Type: Started})
		for range 400 {
			if m.effect == End {
				break
			}
			m.advance(rapid.SampledFrom([]string{"go", "go", "go", "go", "go", "fail", "fail", "retry", "crash-before", "crash-after", "reboot", "start", "exit", "cancel", "together", "apart", "unmet", "met", "now", "beside"}).Draw(t, "what"))
		}
		// From now on nothing fails any more.
		m.running, m.together = false, true
		if m.unmet = rapid.Bool().Draw(t, "unmet"); m.unmet {
			// An explicit request lets it end though the condition is never fulfilled.
			m.advance("now")
		}
		for range 60 {
			if m.effect == End {
				break
			}
			if m.r.State() == Stuck {
				m.need(m.r.Barred || !m.linked && !m.marker, "launches are allowed in the old revision")
				m.event(Event{Type: RetryAsked})
			}
			m.advance("go")
		}
		if m.effect != End {
			t.Fatalf("got effect %d and no end, want %d: %+v", m.effect, End, m)
		}
		m.need(!m.marker, "no marker outlives its cause")
		m.need(m.linked == (m.r.End == Done), fmt.Sprintf("the link says what the end says (%s)", m.r.End))
		want := map[bool]string{true: "new", false: "old"}[m.linked]
		if m.kind == Install && !m.linked || m.kind == Remove && m.linked {
			want = "none"
		}
		m.need(m.services == want, "the services are those of the current revision, want "+want)
	})
}

func (m *model) advance(what string) {
	switch what {
	case "start":
		if !m.marker {
			m.running = m.kind != Install || m.linked
		}
	case "exit":
		m.running = false
	case "together", "apart":
		m.together = what == "together"
	case "unmet", "met":
		m.unmet = what == "unmet"
	case "now", "beside":
		underWay := m.effect
		m.event(Event{Type: map[string]EventType{"now": NowAsked, "beside": BesideAsked}[what]})
		if m.effect == Nothing {
			m.effect = underWay
		}
		return
	case "cancel":
		underWay := m.effect
		m.event(Event{Type: CancelAsked})
		if m.effect == Nothing { // a step goes on; only its context is cancelled
			m.effect = underWay
		}
		return
	case "crash-before", "crash-after", "reboot":
		if what == "crash-after" {
			m.perform()
		}
		if what == "reboot" {
			m.marker, m.running, m.services = false, false, map[bool]string{true: "new", false: "old"}[m.linked]
			if m.kind == Install && !m.linked || m.kind == Remove && m.linked {
				m.services = "none"
			}
		}
		m.r = m.journal
		m.event(Event{Type: Restarted, Linked: m.linked, Whole: m.whole})
		return
	case "fail":
		switch m.effect {
		case DoStep, UndoStep, Retry:
			m.event(Event{Type: StepFailed, Err: errors.New("no luck")})
		}
		return
	case "retry":
		if m.r.Stuck != nil {
			m.event(Event{Type: RetryAsked})
		}
		return
	}
	switch m.effect {
	case Release:
		if m.r.Barred = m.linked && m.running; !m.r.Barred {
			m.linked, m.marker, m.services = false, false, "old"
			if m.kind == Install {
				m.services = "none"
			}
		}
		m.effect = Nothing
	case Park, Nothing:
		m.event(Event{Type: Woken})
	case DoStep, UndoStep, Retry:
		if m.perform() {
			m.event(Event{Type: StepBusy})
		} else {
			m.event(Event{Type: StepDone})
		}
	}
}

func (m *model) perform() (busy bool) {
	switch {
	case m.r.Undo:
		m.undo()
	case m.effect == DoStep || m.effect == Retry:
		return m.do()
	}
	return false
}

func TestWaitsToBeFetched(t *testing.T) {
	r, _ := Next(Refresh{Kind: Update, Step: Resolve}, Event{Type: StepDone})
	r, eff := Next(r, Event{Type: StepBusy})
	if r.Step != Fetch || !r.Parked || eff != Park || r.State() != Waiting {
		t.Fatalf("busy at fetch: got %+v and effect %d, want it parked at %s in state %s and effect %d", r, eff, Fetch, Waiting, Park)
	}
	asked, eff := Next(r, Event{Type: NowAsked})
	if asked.Parked || !asked.Now || eff != DoStep || asked.Step != Fetch || !MustPersist(&r, &asked) {
		t.Errorf("asked for: got %+v, effect %d, to persist %v; want it no longer parked, now, at %s, effect %d and true", asked, eff, MustPersist(&r, &asked), Fetch, DoStep)
	}
	gone, eff := Next(r, Event{Type: CancelAsked})
	for gone.End == "" {
		gone, eff = Next(gone, Event{Type: StepDone})
	}
	if gone.End != Cancelled || eff != End {
		t.Errorf("cancelled: %+v, %d; want end %v and eff %v", gone, eff, Cancelled, End)
	}
}

func TestFailureBeforeTheSectionIsNoUndoing(t *testing.T) {
	r, _ := Next(Refresh{Kind: Update, Step: Fetch}, Event{Type: StepFailed, Err: errors.New("no network")})
	for r.End == "" {
		r, _ = Next(r, Event{Type: StepDone})
	}
	if r.End != FailedEnd || r.Failure.Text != "no network" {
		t.Fatalf("ended %s with %+v; want end %v and text %q", r.End, r.Failure, FailedEnd, "no network")
	}
}

func TestHealthFailureGoesBack(t *testing.T) {
	r, eff := Next(Refresh{Kind: Update, Step: Health}, Event{Type: StepFailed, Err: errors.New("sick")})
	var undone []Step
	for eff == UndoStep {
		undone = append(undone, r.Step)
		r, eff = Next(r, Event{Type: StepDone})
	}
	want := []Step{Health, StartServices, Link, Copy, StopServices, Inhibit, Wait, Precopy, Stage, Fetch, Resolve}
	if fmt.Sprint(undone) != fmt.Sprint(want) || r.End != Undone {
		t.Fatalf("got undone %v and end %s, want %v and %s", undone, r.End, want, Undone)
	}
}

// TestCancelIsNotLost: the refresh ends after a cancellation at any step, whether that step
// succeeds or finds the application running, also if the application never ends.
func TestCancelIsNotLost(t *testing.T) {
	for kind, plan := range map[Kind][]Step{Install: plans[Install], Update: plans[Update], Revert: plans[Revert], Remove: plans[Remove], "group": together} {
		group := ""
		if kind == "group" {
			kind, group = Update, "1"
		}
		for i, step := range plan {
			for _, first := range []EventType{StepDone, StepBusy} {
				if first == StepBusy && !slices.Contains([]Step{Fetch, Wait, Inhibit, Gather, StopServices, Link}, step) {
					continue // it never finds a running process
				}
				r, eff := Next(Refresh{Kind: kind, Group: group, Step: step}, Event{Type: CancelAsked})
				if eff != Nothing {
					t.Fatalf("%s at %s: effect %d while the step goes on, want %v", kind, step, eff, Nothing)
				}
				r, eff = Next(r, Event{Type: first})
				for range 40 {
					if eff != DoStep && eff != UndoStep {
						break
					}
					ev := StepDone
					if r.Step == Wait && eff == DoStep {
						ev = StepBusy
					}
					r, eff = Next(r, Event{Type: ev})
				}
				want := Cancelled
				if link := slices.Index(plan, Link); i >= link && first == StepDone || group != "" && step == Inhibit && first == StepDone || i > slices.Index(plan, Inhibit) && i < link && first == StepDone {
					want = Done // it came too late
				}
				if r.End != want {
					t.Errorf("%s%s, cancelled at %s, which then has event %d: ends as %q, want %q: %+v", kind, group, step, first, r.End, want, r)
				}
			}
		}
	}
}

// TestStateBeforeTheFirstLook: a refresh that comes to Wait is not waiting until it has
// checked. Otherwise commands would exit with "still running" for a refresh that is done in a
// moment, or name no process.
func TestStateBeforeTheFirstLook(t *testing.T) {
	busy := []runs.Process{{PID: 7}}
	for _, c := range []struct {
		r    Refresh
		want State
	}{
		{Refresh{Step: Wait}, Preparing},
		{Refresh{Step: Wait, Parked: true}, Waiting},
		{Refresh{Step: Wait, WaitingFor: busy}, Waiting},
		{Refresh{Step: Wait, Held: true}, Waiting},
		{Refresh{Step: Inhibit, WaitingFor: busy}, Waiting},
		{Refresh{Step: Inhibit}, Critical},
	} {
		if got := c.r.State(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.r, got, c.want)
		}
	}
}
