package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// lull runs a command line against the agent.
func (f *fakeAgent) lull(ctx context.Context, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	a := &app{stdin: strings.NewReader(""), Printer: &output.Printer{Stdout: &o, Stderr: &e, Now: time.Now}}
	code = a.run(ctx, append([]string{"--bus", f.address}, args...))
	return code, o.String(), e.String()
}

// A refresh is shown as one line per step without a terminal.
func TestProgressLines(t *testing.T) {
	f := startAgent(t)
	code, out, errs := f.lull(t.Context(), "install", "org.example.notes")
	if code != 0 || out != "org.example.notes 1.1 is installed\n" {
		t.Fatalf("got exit status %d with\n%s%swant status 0 and output \"org.example.notes 1.1 is installed\\n\"", code, out, errs)
	}
	// Steps before the first read may be missing, but the order must not change.
	last := -1
	steps := []string{"looking for what is needed", "downloading", "switching over"}
	for line := range strings.Lines(errs) {
		at := -1
		for i, s := range steps {
			if strings.HasPrefix(line, "org.example.notes: "+s) {
				at = i
			}
		}
		if at < 0 || at < last {
			t.Errorf("got line %q (step %d) after step %d; want only the steps %q, and those in order", line, at, last, steps)
		}
		last = at
	}
}

// --wait also follows a refresh that waits.
func TestWait(t *testing.T) {
	f := startAgent(t)
	waiting := make(chan struct{})
	f.play(func(verb, name string) (dbus.ObjectPath, error) {
		return f.begin("1", bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", FromVersion: "1", ToVersion: "2"},
			func(p *bus.RefreshProperties) {
				p.State, p.Step, p.Waiting = "waiting", "wait", []bus.Process{{PID: 1, Command: "x"}}
			},
			func(p *bus.RefreshProperties) { <-waiting; p.State, p.Waiting = "critical", nil },
			func(p *bus.RefreshProperties) { p.State = "done" })
	})
	time.AfterFunc(50*time.Millisecond, func() { close(waiting) })
	code, out, errs := f.lull(t.Context(), "refresh", "--wait", "org.x.app")
	if code != 0 || out != "org.x.app is refreshed from 1 to 2\n" {
		t.Fatalf("got exit status %d with\n%s%swant status 0 and output \"org.x.app is refreshed from 1 to 2\\n\"", code, out, errs)
	}
}

// A waiting refresh without running processes gets a short time to continue.
func TestWaitingForNobody(t *testing.T) {
	f := startAgent(t)
	f.play(func(verb, name string) (dbus.ObjectPath, error) {
		return f.begin("1", bus.RefreshProperties{Kind: verb, Instance: name, State: "waiting", Step: "wait", FromVersion: "1", ToVersion: "2"},
			func(p *bus.RefreshProperties) { time.Sleep(50 * time.Millisecond); p.State = "critical" },
			func(p *bus.RefreshProperties) { p.State = "done" })
	})
	if code, out, errs := f.lull(t.Context(), "refresh", "org.x.app"); code != 0 {
		t.Fatalf("got exit status %d with\n%s%swant status 0", code, out, errs)
	}
}

// Ctrl-C ends the following, not the refresh. The death of the agent is reported.
func TestFollowingEnds(t *testing.T) {
	f := startAgent(t)
	started := make(chan struct{}, 1)
	f.play(func(verb, name string) (dbus.ObjectPath, error) {
		defer func() { started <- struct{}{} }()
		return f.begin("1", bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", Step: "fetch"})
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	code, _, errs := f.lull(ctx, "refresh", "org.x.app")
	if code != 1 || !strings.Contains(errs, "lull: cannot wait for the refresh of org.x.app: interrupted\nhint: it continues in the background; ") {
		t.Errorf("got %d %s, want code 1 and %q in the errs", code, errs, "lull: cannot wait for the refresh of org.x.app: interrupted\nhint: it continues in the background; ")
	}
	go func() {
		<-started
		f.server.Close()
	}()
	code, _, errs = f.lull(t.Context(), "refresh", "org.x.app")
	if code != errkind.ExitCode(errkind.New(errkind.Unavailable, "")) || !strings.Contains(errs, "lull: cannot ") {
		t.Errorf("got %d %s, want code %v and %q in the errs", code, errs, errkind.ExitCode(errkind.New(errkind.Unavailable, "")), "lull: cannot ")
	}
}

// lull monitor reports events in order.
func TestMonitor(t *testing.T) {
	f := startAgent(t)
	p := f.add(t, notes())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, asJSON := range []bool{false, true} {
		r, w := io.Pipe()
		done := make(chan error, 1)
		a := &app{Printer: &output.Printer{Stdout: w, Stderr: io.Discard, Now: time.Now, JSON: asJSON}, bus: f.address}
		ctx, cancel := context.WithCancel(ctx)
		// An existing refresh is reported at the start: that shows that the command
		// has subscribed.
		if _, err := f.begin("5", bus.RefreshProperties{Kind: "refresh", Instance: "org.example.notes", State: "waiting", Step: "wait", ToVersion: "1.1"}); err != nil {
			t.Fatal(err)
		}
		go func() {
			err := a.monitor(ctx)
			for _, c := range a.closers {
				c()
			}
			w.Close()
			done <- err
		}()
		lines := bufio.NewScanner(r)
		expect := func(want string) {
			t.Helper()
			if !lines.Scan() {
				t.Fatalf("no line, want %q", want)
			}
			got := lines.Text()
			if asJSON {
				var e eventJSON
				if err := json.Unmarshal([]byte(got), &e); err != nil || e.Version != 1 || e.Instance != "org.example.notes" {
					t.Fatalf("%v: %s; want no error, version 1 and instance %q", err, got, "org.example.notes")
				}
			} else if !strings.Contains(got, want) {
				t.Fatalf("%q, want %q", got, want)
			}
		}
		expect("org.example.notes  refresh to 1.1: waiting until it is closed")
		p.Update(func(p *bus.PackageProperties) { p.Running = true })
		expect("is running")
		p.Update(func(p *bus.PackageProperties) { p.Running, p.Summary = false, "other" })
		expect("is closed")
		p.Update(func(p *bus.PackageProperties) { p.HeldUntil, p.HeldBy = micro(time.Now().Add(time.Hour)), "alice" })
		expect("by alice")
		p.Update(func(p *bus.PackageProperties) { p.HeldUntil = 0 })
		expect("is not held any longer")
		if err := f.server.Emit(bus.AgentPath, bus.ManagerRefreshFinished{Refresh: bus.RefreshPath("5"), Instance: "org.example.notes", Result: "done"}); err != nil {
			t.Fatal(err)
		}
		expect("done")
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// The events without an application: the policy, repositories, collections, the system.
func TestMonitorOfTheAgent(t *testing.T) {
	f := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	a := &app{Printer: &output.Printer{Stdout: w, Stderr: io.Discard, Now: time.Now}, bus: f.address}
	if _, err := f.begin("5", bus.RefreshProperties{Kind: "refresh", Instance: "org.example.notes", State: "waiting", Step: "wait", ToVersion: "1.1"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		err := a.monitor(ctx)
		for _, c := range a.closers {
			c()
		}
		done <- err
	}()
	lines := bufio.NewScanner(r)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no line, want %q", want)
		}
		if _, got, _ := strings.Cut(lines.Text(), "  "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect("org.example.notes  refresh to 1.1: waiting until it is closed")
	f.manager.Update(func(p *bus.ManagerProperties) { p.PolicyError = "policy.yaml:1: no" })
	expect("policy: refused, the previous one stays in force: policy.yaml:1: no")
	f.manager.Update(func(p *bus.ManagerProperties) { p.PolicyError = "" })
	expect("policy: the files are in force again")
	f.manager.Update(func(p *bus.ManagerProperties) { p.LastCheckError = "cannot read repository local" })
	expect("repositories: cannot read repository local")
	f.manager.Update(func(p *bus.ManagerProperties) { p.LastCheckError, p.LastCheck = "", micro(time.Now()) })
	expect("repositories: all were read")
	for range 2 { // an equal amount is reported each time
		f.measured.Update(func(p *bus.SpaceProperties) { p.LastCollection, p.LastCollectionBytes = p.LastCollection+1, 12_000_000 })
		expect("collected: 12 MB freed")
	}
	f.measured.Update(func(p *bus.SpaceProperties) { p.LastCollection, p.LastCollectionBytes = p.LastCollection+1, 0 })
	f.system.Update(func(p *bus.SystemProperties) { p.State, p.Step, p.Staged = "staging", "images", "7" })
	expect("system: staging 7, images")
	f.system.Update(func(p *bus.SystemProperties) { p.State, p.Step = "staged", "" })
	expect("system: staged 7")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
