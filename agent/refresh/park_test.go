package refresh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy"
)

const day = 24 * time.Hour

// running is a tracker; these tests use only its Busy.
type running struct {
	runs.Tracker
	procs []runs.Process
	look  time.Duration // how long a check takes
}

func (r *running) Busy(string) ([]runs.Process, error) {
	time.Sleep(r.look)
	return slices.Clone(r.procs), nil
}

// parking is a waiting refresh, on a clock that the test owns.
type parking struct {
	t       *testing.T
	world   World
	tracker *running
	record  plan.Refresh
}

func newParking(t *testing.T, policyText string) *parking {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte(policyText), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load(file, filepath.Join(dir, "policy.d"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ctl, err := runctl.Create(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ctl.CreateInstance("notes"); err != nil {
		t.Fatal(err)
	}
	tracker := &running{procs: []runs.Process{{PID: 1 << 30}}}
	return &parking{t: t, tracker: tracker, record: plan.Refresh{Kind: plan.Update, Instance: "notes", Step: plan.Wait}, world: World{
		State: db, Runctl: ctl, Tracker: tracker, Policy: func() *policy.Policy { return p },
		Alarm: wallclock.NewRuntime, Writable: func() error { return nil }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}}
}

// wait runs the steps wait and inhibit until they are done or ctx ends, as the task of a new
// agent does after it has taken the refresh from the journal.
func (p *parking) wait(ctx context.Context) (through bool) {
	k := &task{e: &Engine{World: p.world}, letters: make(chan letter), wake: make(chan struct{}, 1), instance: "notes", r: p.record}
	defer k.closeAlarm()
	defer func() {
		// The new agent has only the content of the journal.
		p.record = plan.Refresh{Kind: k.r.Kind, Instance: k.r.Instance, Step: plan.Wait, Since: k.r.Since}
	}()
	for {
		ev, ok := k.runStep(ctx, "test", plan.DoStep, steps[plan.Wait].do)
		if ok && ev.Type == plan.StepDone {
			ev, ok = k.runStep(ctx, "test", plan.DoStep, steps[plan.Inhibit].do)
		}
		if !ok || ev.Type != plan.StepBusy {
			return ok && ev.Type == plan.StepDone
		}
		if _, ok = k.await(ctx); !ok {
			return false
		}
	}
}

// TestDeadline: the window belongs to the revision and to the wall clock; restarts of the
// agent do not change it.
func TestDeadline(t *testing.T) {
	const sideBySide = "packages:\n  notes:\n    at-deadline: side-by-side\n"
	for _, restart := range []time.Duration{0, time.Hour, 13 * day, 20 * day} {
		t.Run(fmt.Sprint(restart), func(t *testing.T) {
			p := newParking(t, sideBySide)
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				if restart > 0 {
					ctx, stop := context.WithTimeout(t.Context(), min(restart, time.Hour))
					defer stop()
					if p.wait(ctx) {
						t.Fatal("it did not wait")
					}
					time.Sleep(restart - time.Since(start)) // no agent runs
				}
				if !p.wait(t.Context()) {
					t.Fatal("not through")
				}
				if took, want := time.Since(start), max(14*day, restart); took != want {
					t.Errorf("it waited for %v, want %v", took, want)
				}
			})
		})
	}
}

// TestDeadlineDuringALook: a deadline that passes during a check, for example because the
// clock is set, is not missed.
func TestDeadlineDuringALook(t *testing.T) {
	p := newParking(t, "packages:\n  notes:\n    at-deadline: side-by-side\n")
	p.tracker.look = 15 * day
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 400*day)
		defer stop()
		start := time.Now()
		if through := p.wait(ctx); !through || time.Since(start) != p.tracker.look {
			t.Errorf("through: %v, after %v; want true, after %v", through, time.Since(start), p.tracker.look)
		}
	})
}

func TestHoldEnds(t *testing.T) {
	for _, admin := range []bool{true, false} {
		p := newParking(t, "defaults:\n  mode: endure\n") // only the hold is waited for
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))) // a clock that can be right
			start := time.Now()
			hold := state.Hold{Instance: "notes", Owner: "ann", Admin: admin, Since: start, Until: start.Add(3 * day)}
			if err := p.world.State.PutHold(hold); err != nil {
				t.Fatal(err)
			}
			if !p.wait(t.Context()) || time.Since(start) != 3*day {
				t.Errorf("a hold of an administrator %v: got the end of the wait, or its failure, after %v, want the end after %v", admin, time.Since(start), 3*day)
			}
			want := start // a user's hold is part of the time that a revision may be postponed
			if admin {
				want = hold.Until
			}
			if !p.record.Since.Equal(want) {
				t.Errorf("the window began at %v, want %v", p.record.Since, want)
			}
		})
	}
}

// TestKeepWaiting: without a known end no alarm is set.
func TestKeepWaiting(t *testing.T) {
	p := newParking(t, "")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 400*day)
		defer stop()
		if p.wait(ctx) {
			t.Error("it did not wait")
		}
	})
}

// staying has the services of a machine that is not shutting down.
type staying struct{ services.Manager }

func (staying) GoingDown() bool { return false }

// TestStillWaiting: a query during a check sees a waiting refresh, and the processes that it
// waits for.
func TestStillWaiting(t *testing.T) {
	p := newParking(t, "")
	p.world.Changed, p.world.Services = func(plan.Refresh) {}, staying{}
	e := NewEngine(p.world)
	ctx, stop := context.WithCancel(t.Context())
	k := &task{e: e, id: "1", instance: "notes", r: p.record,
		letters: make(chan letter), wake: make(chan struct{}, 1), done: make(chan struct{})}
	k.r.ID, k.r.WaitingFor = "1", p.tracker.procs
	k.show()
	go k.run(ctx, plan.Event{Type: plan.StepBusy})
	defer func() { stop(); <-k.done }()
	steps := map[plan.Step]int{}
	for steps[plan.Inhibit] < 100 || steps[plan.Wait] < 100 {
		k.nudge()
		r := k.snapshot()
		steps[r.Step]++
		if r.State() != plan.Waiting || len(r.WaitingFor) != 1 {
			t.Fatalf("got state %s at step %s, waiting for %v; want state %s, waiting for one process", r.State(), r.Step, r.WaitingFor, plan.Waiting)
		}
	}
}

// TestLook: an explicit refresh of a waiting instance gets the state at the time of the
// request, also if no event has come, or one comes during the check.
func TestLook(t *testing.T) {
	p := newParking(t, "")
	p.world.Changed, p.world.Services = func(plan.Refresh) {}, staying{}
	looks := make(chan chan []runs.Process) // a check sends a channel and awaits its result
	p.world.Tracker = &asking{Tracker: p.tracker, looks: looks}
	e := NewEngine(p.world)
	ctx, stop := context.WithCancel(t.Context())
	p.record.ID = "1"
	k := e.newTaskLocked(p.record)
	k.letters = make(chan letter) // so that a letter has been received when it is sent
	k.r.WaitingFor = p.tracker.procs
	k.show()
	go k.run(ctx, plan.Event{Type: plan.StepBusy})
	defer func() { stop(); <-k.done }()
	want := func(pid int, r plan.Refresh) {
		t.Helper()
		if r.State() != plan.Waiting || len(r.WaitingFor) != 1 || r.WaitingFor[0].PID != pid {
			t.Errorf("got %s for %v, want waiting for process %d", r.State(), r.WaitingFor, pid)
		}
	}

	found := make(chan plan.Refresh)
	go func() { found <- e.look(ctx, k) }()
	(<-looks) <- []runs.Process{{PID: 7}}
	want(7, <-found)

	k.nudge()
	old, looked := <-looks, make(chan struct{})
	e.send("1", letter{Event: plan.Event{Type: plan.NowAsked}, looked: looked})
	old <- []runs.Process{{PID: 8}}
	(<-looks) <- []runs.Process{{PID: 9}}
	<-looked
	want(9, k.snapshot())
}

// asking is a tracker that asks the test what runs.
type asking struct {
	runs.Tracker
	looks chan chan []runs.Process
}

func (a *asking) Busy(string) ([]runs.Process, error) {
	c := make(chan []runs.Process)
	a.looks <- c
	return <-c, nil
}

// TestTerminate: processes are asked to end at the deadline, and killed if that does not
// help.
func TestTerminate(t *testing.T) {
	p := newParking(t, "packages:\n  notes:\n    at-deadline: terminate\n    max-postponement: 1d\n")
	cmd := exec.Command("sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do read line; done")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(stdout)
	says := func(t *testing.T, want string) {
		if t.Helper(); !lines.Scan() || lines.Text() != want {
			t.Fatalf("it says %q %v, want %q", lines.Text(), lines.Err(), want)
		}
	}
	says(t, "ready")
	p.tracker.procs = runs.Describe([]int{cmd.Process.Pid})
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), day+terminateGrace-time.Second)
		defer stop()
		if p.wait(ctx) {
			t.Fatal("it did not wait")
		}
		says(t, "asked")
		if word, err := p.world.Runctl.Inhibited("notes"); err != nil || word != runctl.RefreshPending {
			t.Errorf("the door is %q %v; want no error and word %v", word, err, runctl.RefreshPending)
		}
		for _, spell := range []time.Duration{terminateGrace - time.Second, terminateGrace + time.Second} {
			// The next agent repeats the request before it kills.
			ctx, stop = context.WithTimeout(t.Context(), spell)
			p.wait(ctx)
			stop()
			if spell < terminateGrace {
				says(t, "asked")
			}
		}
	})
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("got the end %v of the process, want it killed by SIGKILL", err)
	}
}
