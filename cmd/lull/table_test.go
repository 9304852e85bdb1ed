package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// quietApp is an app that writes into a buffer, at a fixed time.
func quietApp(width int) (*app, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	return &app{Printer: &output.Printer{Stdout: &out, Stderr: &err, Width: width, Now: func() time.Time { return monday }}}, &out, &err
}

// many makes a snapshot of n packages, some of them awkward.
func many(n int) *snapshot {
	s := &snapshot{refreshes: map[dbus.ObjectPath]bus.RefreshProperties{
		"/r": {ID: "1", Kind: "refresh", State: "waiting", ToVersion: "2.0~beta3+really.long.version", Instance: "x"},
	}}
	for i := range n {
		p := bus.PackageProperties{Instance: fmt.Sprintf("org.example.application-number-%d", i), Version: fmt.Sprintf("%d.0", i), Revision: uint32(i), Channel: "stable"}
		switch i % 4 {
		case 1:
			p.Running, p.Refresh = true, "/r"
		case 2:
			p.HeldUntil = micro(monday.Add(40 * 24 * time.Hour))
		case 3:
			p.Version = strings.Repeat("長い", 20)
		}
		s.packages = append(s.packages, p)
	}
	return s
}

func TestListFits(t *testing.T) {
	for _, n := range []int{0, 1, 200} {
		for _, width := range []int{0, 60, 80, 132} {
			a, out, _ := quietApp(width)
			if err := a.list(many(n)); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if want := max(1, n+min(n, 1)); len(lines) != want && (n > 0 || width != 60) { // the line is wrapped
				t.Errorf("%d packages: %d lines, want %d", n, len(lines), want)
			}
			for _, l := range lines {
				if width > 0 && n > 0 && output.Columns(l) > width {
					t.Errorf("%d packages: got line %q of %d columns, want at most %d", n, l, output.Columns(l), width)
				}
				if strings.HasSuffix(l, " ") {
					t.Errorf("%d packages, %d columns: got line %q, want no space at its end", n, width, l)
				}
			}
			if n == 200 && width != 60 && !strings.Contains(out.String(), "org.example.application-number-199 ") {
				t.Errorf("%d columns: got\n%swant the whole name org.example.application-number-199", width, out)
			}
		}
	}
}

func TestListSays(t *testing.T) {
	a, out, _ := quietApp(80)
	if err := a.list(many(3)); err != nil {
		t.Fatal(err)
	}
	want := `APPLICATION                       VERSION  REV  CHANNEL  STATE
org.example.application-number-0  0.0        0  stable   -
org.example.application-number-1  1.0        1  stable   running, 2.0~beta3+rea…
org.example.application-number-2  2.0        2  stable   held until 15 June by ?
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	a, out, _ = quietApp(80)
	if err := a.list(many(0)); err != nil || out.String() != "nothing is installed yet; `lull install NAME` installs an application\n" {
		t.Errorf("a list of nothing: got %q and error %v, want \"nothing is installed yet; `lull install NAME` installs an application\\n\" and no error", out, err)
	}
}

func TestUsagesFit(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, n := range []int{0, 1, 200} {
		a, out, _ := quietApp(64)
		var packages []bus.PackageUsage
		for i := range n {
			packages = append(packages, bus.PackageUsage{Hash: hashOf('a'), Name: "org.example.quite-a-long-name", Version: "1.2.3-rc4", Exclusive: uint64(i), Shared: 1 << 63, KeptBy: "installed"})
		}
		if err := a.du(t.Context(), packages, nil, 1<<63, 0); err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(out.String(), "\n") {
			if output.Columns(l) > 64 {
				t.Errorf("%d packages: got line %q of %d columns, want at most 64", n, l, output.Columns(l))
			}
		}
	}
}

// JSON has empty lists, not null, and a version.
func TestJSONOfNothing(t *testing.T) {
	for name, f := range map[string]func(*app) error{
		"list":    func(a *app) error { return a.list(many(0)) },
		"pending": func(a *app) error { return a.pending(nil, nil, nil) },
		"du":      func(a *app) error { return a.du(t.Context(), nil, nil, 0, 0) },
		"why":     func(a *app) error { return a.why("x", nil) },
		"verify":  func(a *app) error { return a.verified(0, nil) },
	} {
		a, out, _ := quietApp(80)
		a.JSON = true
		if err := f(a); err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil || doc["version"] != 1.0 || strings.Contains(out.String(), "null") {
			t.Errorf("%s: got %s (%v); want JSON with version 1 and without null", name, out, err)
		}
	}
}

func TestPendingSays(t *testing.T) {
	a, out, _ := quietApp(80)
	err := a.pending([]bus.PendingRefresh{
		{ID: "1", Instance: "org.x.a", FromVersion: "1.0", ToVersion: "1.1", Urgency: "security", Since: micro(monday.Add(-26 * time.Hour)), Deadline: micro(monday.Add(24 * time.Hour)),
			AtDeadline: "side-by-side", Notes: "Fixes\na hole\x1b[2J", Processes: []bus.Process{{PID: 9, UID: 64999, Command: "a"}, {PID: 7, UID: 64998}, {PID: 8, UID: 64999, Command: "b"}}},
		{ID: "2", Instance: "org.x.b", FromVersion: "1", ToVersion: "2"},
	}, nil, nil)
	want := `org.x.a  1.0 → 1.1  (security)
  waits for:    PID 7, user number 64998; PID 9 (a) and 8 (b), user number 64999
  since:        1 day ago
  happens:      when it is closed, or beside the one that runs in 1 day (Tuesday
                at 12:00)
  what is new:  Fixes a hole?[2J

org.x.b  1 → 2
  waits for:  its turn
  happens:    when it is closed, or when the machine starts again
`
	if err != nil || out.String() != want {
		t.Errorf("%v, got\n%swant\n%s", err, out, want)
	}
}

func TestErrors(t *testing.T) {
	inner := errkind.New(errkind.NoSpace, "cannot install x:\n no space").WithHint("try `lull gc`")
	for _, test := range []struct {
		err  error
		text string
		code int
	}{
		{nil, "", 0},
		{errors.New("boom"), "lull: cannot do that: boom\n", 1},
		{fmt.Errorf("internal error: oops"), "lull: internal error: oops\n", 1},
		{inner, "lull: cannot install x:  no space\nhint: try `lull gc`\n", 73},
		{usageError(errors.New("unknown flag: --x"), nil), "lull: cannot understand this command: unknown flag: --x\nhint: see `lull help`\n", 64},
		{output.Join([]error{errkind.New(errkind.Busy, "cannot a"), inner}), "lull: cannot a\nlull: cannot install x:  no space\nhint: try `lull gc`\n", 75},
		{errkind.New(errkind.Invalid, "cannot b"), "lull: cannot b\n", 65},
		{errkind.New(errkind.Unavailable, "cannot b"), "lull: cannot b\n", 69},
		{errkind.New(errkind.NotPermitted, "cannot b"), "lull: cannot b\n", 77},
		{errkind.New(errkind.BadPolicy, "cannot b"), "lull: cannot b\n", 78},
		{output.Doing("publish x", errkind.New(errkind.Invalid, "x.yaml:1: bad")), "lull: cannot publish x: x.yaml:1: bad\n", 65},
	} {
		a, _, out := quietApp(80)
		a.PrintError(test.err)
		if out.String() != test.text || errkind.ExitCode(test.err) != test.code {
			t.Errorf("%v: %q (%d), want %q (%d)", test.err, out, errkind.ExitCode(test.err), test.text, test.code)
		}
	}
}

func TestBusy(t *testing.T) {
	p := bus.RefreshProperties{Kind: "refresh", Instance: "org.x.app", Deadline: micro(monday.Add(14 * 24 * time.Hour))}
	for i := range 9 {
		p.Waiting = append(p.Waiting, bus.Process{PID: uint32(100 + i), UID: uint32(os.Getuid()), Command: "app"})
	}
	err := busy(p, "terminate", "", monday)
	me := output.UserName(uint32(os.Getuid()))
	want := "cannot refresh org.x.app: 9 processes are running: PID 100 (app), 101 (app), 102 (app), 103 (app), 104 (app) and 105 (app), user " + me + "; and 3 more"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	for at, hint := range map[string]string{
		"terminate":    "it will be refreshed when they have ended, or by closing it in 2 weeks (20 May), as policy requires",
		"side-by-side": "it will be refreshed when they have ended, or beside the one that runs in 2 weeks (20 May)",
		"keep-waiting": "it will be refreshed when they have ended, or when you log out or the machine starts again; its deadline is 20 May, in 2 weeks",
		"":             "it will be refreshed when they have ended, or when you log out or the machine starts again; its deadline is 20 May, in 2 weeks",
	} {
		if got := errkind.HintOf(busy(p, at, "", monday)); got != hint {
			t.Errorf("%s:\ngot  %s\nwant %s", at, got, hint)
		}
	}
	if got := errkind.HintOf(busy(p, "side-by-side", "", monday.Add(1e3*time.Hour))); !strings.HasSuffix(got, ", or now, beside the one that runs") {
		t.Errorf("got hint %q, want \", or now, beside the one that runs\" at its end", got)
	}
	p.Waiting = nil
	if err := busy(p, "", "", monday); !errkind.Is(err, errkind.Busy) {
		t.Errorf("got %v, want an error of kind %s", err, errkind.Busy)
	}
}

// lull status fits 80 columns, and narrower ones as far as words allow, with no, one and many
// items; a pipe gets whole lines.
func TestStatusFits(t *testing.T) {
	f := startAgent(t)
	ask := func(width int, do func(context.Context, *app, *agent, *snapshot) error) string {
		t.Helper()
		a, out, _ := quietApp(width)
		a.bus = f.address
		err := a.ask(t.Context(), func(ctx context.Context, ag *agent) error {
			s, err := ag.snapshot(ctx)
			if err != nil {
				return err
			}
			return do(ctx, a, ag, s)
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	status := func(ctx context.Context, a *app, ag *agent, s *snapshot) error { return a.status(ctx, ag, s) }
	fits := func(what string, width int, out string) {
		t.Helper()
		for line := range strings.Lines(out) {
			if line = strings.TrimSuffix(line, "\n"); output.Columns(line) > width || strings.HasSuffix(line, " ") {
				t.Errorf("%s: got line %q of %d columns, want at most %d and no space at the end", what, line, output.Columns(line), width)
			}
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%s: got %q, want no escape sequences (no colour)", what, out)
		}
	}
	f.manager.Update(func(p *bus.ManagerProperties) { p.Repositories = nil; p.LastCheck = 0 })
	f.system.Update(func(p *bus.SystemProperties) { *p = bus.SystemProperties{State: "idle"} })
	want := `Applications:  0 installed, 0 running
Refreshes:     none
Last check:    never
Repositories:  none; ` + "`lull repo add`" + ` makes one known
Disk:          52 MB used, 9.0 GB free
Tracking:      freezer, inotify
Agent:         lulld 1.2.3, store in /var/lib/lull
`
	if out := ask(80, status); out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if out := ask(0, status); out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}

	for i := range 200 {
		name := fmt.Sprintf("org.example.application-%03d", i)
		p := bus.PackageProperties{Instance: name, Name: name, Version: "1.0", Revision: 1, Running: i < 30}
		f.add(t, p)
		if i == 0 {
			out := ask(80, status)
			fits("one", 80, out)
			if !strings.HasPrefix(out, "Applications:  1 installed, 1 running\nRefreshes:     none\n") {
				t.Errorf("got %s, want output that begins with %q", out, "Applications:  1 installed, 1 running\nRefreshes:     none\n")
			}
		}
		if i < 30 {
			_, err := f.beginLater(nil, fmt.Sprint(100+i), bus.RefreshProperties{Instance: name, Kind: "refresh", State: "waiting", Step: "wait",
				FromVersion: "1.0", ToVersion: "2.0~beta3", Waiting: []bus.Process{{PID: 4711, UID: 64999, Command: "an-application"}},
				Deadline: micro(monday.Add(13 * 24 * time.Hour))})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f.manager.Update(func(p *bus.ManagerProperties) {
		p.PolicyError = `/etc/lull/policy.d/10-site.yaml:3: cannot use the key "no-such-key": known are defaults, packages, schedule, gc, inhibit, metrics`
	})
	for _, width := range []int{80, 60} {
		out := ask(width, status)
		fits("many", width, out)
		flat := strings.Join(strings.Fields(out), " ")
		for _, said := range []string{"200 installed, 30 running", "30 waiting; see `lull pending`", "and 25 more", "Policy: not all of it can be used: /etc/lull/policy.d/10-site.yaml:3: "} {
			if !strings.Contains(flat, said) {
				t.Errorf("%d columns: got\n%s\nwant %q in it", width, out, said)
			}
		}
		if n := strings.Count(out, "\n"); n > 45 {
			t.Errorf("got an overview of %d lines, want at most 45:\n%s", n, out)
		}
	}
	fits("one application", 72, strings.ReplaceAll(ask(72, func(ctx context.Context, a *app, ag *agent, s *snapshot) error {
		s.packages[0].Summary = strings.Repeat("a summary of many words ", 10)
		return a.packageStatus(ctx, ag, s, "org.example.application-000")
	}), hashOf('a'), ""))
}

// The doctor's lines remain beside their names.
func TestDoctorFits(t *testing.T) {
	a, out, _ := quietApp(50)
	err := a.checks([]bus.Check{
		{Name: "disk", State: "ok", Seen: "1 GiB free", Advice: "is not shown"},
		{Name: "repositories", State: "fail", Seen: "cannot read repository local: it cannot be reached", Advice: "lull refresh retries; updates do not arrive until this works"},
	}, output.Columns("repositories"))
	want := `ok    disk          1 GiB free
fail  repositories  cannot read repository local:
                    it cannot be reached
                    → lull refresh retries;
                      updates do not arrive until
                      this works
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%swant\n%s", err, out.String(), want)
	}
}

// TestHoldsText: the overview has who holds how many applications, until when.
func TestHoldsText(t *testing.T) {
	now := time.Date(2026, 6, 13, 12, 0, 0, 0, time.UTC)
	s := many(3)
	if got := s.holdsText(now); !strings.HasPrefix(got, "1 application until ") {
		t.Errorf("one application is held: got %q, want it to begin with \"1 application until \"", got)
	}
	for path, p := range s.packages {
		p.HeldUntil, p.HeldBy = uint64(now.Add(time.Hour).UnixMicro()), "ann"
		s.packages[path] = p
	}
	if got := s.holdsText(now); !strings.HasPrefix(got, "3 applications until ") || !strings.HasSuffix(got, " by ann") {
		t.Errorf("one hold of all: got %q, want \"3 applications until … by ann\"", got)
	}
	for path, p := range s.packages {
		p.HeldBy = "bob"
		s.packages[path] = p
		break
	}
	if got := s.holdsText(now); got != "3 applications; see `lull list`" {
		t.Errorf("of two holds: %q, want %q", got, "3 applications; see `lull list`")
	}
	for path, p := range s.packages {
		p.HeldUntil = 0
		s.packages[path] = p
	}
	if got := s.holdsText(now); got != "" {
		t.Errorf("no hold: got %q, want \"\"", got)
	}
}
