package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/errkind"
)

func windows(t testing.TB, texts ...string) (list Windows) {
	t.Helper()
	for _, text := range texts {
		var w Window
		if err := w.UnmarshalText([]byte(text)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		list = append(list, w)
	}
	return list
}

func TestWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", text, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := []struct {
		windows, now string
		open         bool
		change       string
	}{ // 2026-11-28 is a Saturday
		{"sat 02:00-05:00", "2026-11-27 12:00", false, "2026-11-28 02:00"},
		{"sat 02:00-05:00", "2026-11-28 02:00", true, "2026-11-28 05:00"},
		{"sat 02:00-05:00", "2026-11-28 05:00", false, "2026-12-05 02:00"},
		{"Sat, Sun", "", false, ""},
		{"mon-fri 22:00-06:00", "2026-11-28 05:59", true, "2026-11-28 06:00"}, // of Friday
		{"mon-fri 22:00-06:00", "2026-11-28 22:30", false, "2026-11-30 22:00"},
		{"fri-mon 1:00-2:00", "2026-11-29 00:30", false, "2026-11-29 01:00"}, // over the end of the week
		{"03:00-04:00", "2026-11-28 04:00", false, "2026-11-29 03:00"},
		{"02:00-04:00;03:00-05:00", "2026-11-28 02:30", true, "2026-11-28 05:00"},
		{"22:00-24:00;00:00-06:00", "2026-11-28 23:00", true, "2026-11-29 06:00"},
		{"00:00-24:00", "2026-11-28 23:00", true, ""},
		{"", "2026-11-28 23:00", false, ""},
		{"sun 02:15-02:45", "2026-03-28 12:00", false, "2026-03-29 03:15"}, // these minutes are left out that night
		{"sun 01:00-04:00", "2026-03-29 00:30", false, "2026-03-29 01:00"},
		{"sun 01:00-04:00", "2026-03-29 01:30", true, "2026-03-29 04:00"},
	}
	for _, c := range cases {
		if c.now == "" {
			var w Window
			if w.UnmarshalText([]byte(c.windows)) == nil {
				t.Errorf("UnmarshalText(%q): got no error, want one", c.windows)
			}
			continue
		}
		var list Windows
		if c.windows != "" {
			list = windows(t, strings.Split(c.windows, ";")...)
		}
		open, change := list.At(at(c.now))
		got := ""
		if !change.IsZero() {
			got = change.Format("2006-01-02 15:04")
		}
		if open != c.open || got != c.change {
			t.Errorf("%q at %s: open %v, changes %q; want %v, %q", c.windows, c.now, open, got, c.open, c.change)
		}
	}
}

// For any windows, between now and the change nothing changes, and at the
// change it does.
func TestWindowsChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.SampledFrom([]string{"sat 02:00-05:00", "mon-fri 22:00-06:00", "12:00-12:01", "sun,wed 00:00-24:00",
			"tue 23:59-00:01", "05:00-22:00", "fri-mon 06:00-05:00"}), 0, 3).Draw(t, "windows")
		var list Windows
		for _, text := range texts {
			var w Window
			if err := w.UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
			list = append(list, w)
		}
		now := time.Date(2026, 1, 1, 0, rapid.IntRange(0, 366*24*60).Draw(t, "minute"), 0, 0, berlin)
		open, change := list.At(now)
		if change.IsZero() {
			change = now.Add(10 * 24 * time.Hour)
		} else if after, _ := list.At(change); after == open || !change.After(now) {
			t.Fatalf("%v at %v: got a change from %v to %v at %v, want another state and a later time", texts, now, open, after, change)
		}
		for at := now; at.Before(change); at = at.Add(17 * time.Minute) {
			if o, _ := list.At(at); o != open {
				t.Fatalf("%v: got %v at %v, want %v from %v until %v", texts, o, at, open, now, change)
			}
		}
	})
}

// Keys of conditions are laid over each other like all others; a window that is
// required somewhere has to be defined somewhere.
func TestRequires(t *testing.T) {
	files := map[string]string{
		"policy.yaml":      "defaults:\n  fetch-requires:\n  refresh-requires: [mains, window]\npackages:\n  a:\n    refresh-requires: []\n    security-requires: false\n",
		"policy.d/10.yaml": "packages:\n  b:\n    refresh-requires: [idle]\n",
	}
	file, dir := write(t, files)
	want := file + ":3: cannot require window in defaults.refresh-requires: schedule.windows has none"
	if _, err := Load(file, dir); err == nil || err.Error() != want || !errkind.Is(err, errkind.BadPolicy) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	files["policy.d/20.yaml"] = "schedule:\n  windows: [Sat 02:00-05:00]\n"
	p, err := Load(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	for instance, want := range map[string]string{"a": "[unmetered] [] false", "b_x": "[unmetered] [idle] true", "c": "[unmetered] [mains window] true"} {
		if s := p.For(instance); fmt.Sprint(s.FetchRequires, s.RefreshRequires, s.SecurityRequires) != want {
			t.Errorf("%s: got %v %v %v, want %s", instance, s.FetchRequires, s.RefreshRequires, s.SecurityRequires, want)
		}
	}
	if fmt.Sprint(p.Schedule.Windows) != "[sat 02:00-05:00]" {
		t.Errorf("got windows %v, want [sat 02:00-05:00]", p.Schedule.Windows)
	}
}
