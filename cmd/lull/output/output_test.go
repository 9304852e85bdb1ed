package output

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	bus "github.com/lull/lull/dbus"
)

// monday is a Monday at noon.
var monday = time.Date(2030, 5, 6, 12, 0, 0, 0, time.Local)

func TestTimes(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{Ago(time.Time{}, monday), "never"},
		{Ago(monday.Add(time.Hour), monday), "just now"}, // a clock that was set back
		{Ago(monday.Add(-3*time.Hour), monday), "3 hours ago"},
		{Ago(FromBus(1), monday), "a long while ago"},
		{In(time.Time{}, monday), "never"},
		{In(monday.Add(-time.Hour), monday), "now"},
		{In(monday.Add(36*time.Hour), monday), "in 1 day"},
		{In(FromBus(1<<64-1), monday), "in more than 100 years"},
		{Day(monday.Add(time.Hour), monday), "today at 13:00"},
		{Day(monday.Add(-time.Hour), monday), "now"},
		{Day(monday.Add(48*time.Hour), monday), "Wednesday at 12:00"},
		{Day(monday.Add(30*24*time.Hour), monday), "5 June"},
		{Day(monday.Add(365*24*time.Hour), monday), "6 May 2031"},
		{Count(1, "process", "processes"), "1 process"},
		{Count(1234, "process", "processes"), "1,234 processes"},
		{Size(1<<64 - 1), "18 EB"},
	} {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
	if b, err := json.Marshal(Stamp(1<<64 - 1)); err != nil || !strings.HasPrefix(string(b), `"9999-`) {
		t.Errorf("the latest time: got %s (%v), want a text that begins with `\"9999-`", b, err)
	}
	if Stamp(0) != nil {
		t.Error("the zero time is none")
	}
}

func TestDurationsAndMoments(t *testing.T) {
	for s, want := range map[string]time.Duration{"90m": 90 * time.Minute, "3d": 72 * time.Hour, "1.5d": 36 * time.Hour, "2w": 14 * 24 * time.Hour,
		"": 0, "d": 0, "-3d": 0, "0h": 0, "1e300d": 0, "NaNd": 0, "3 d": 0} {
		got, err := ParseDuration(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseDuration(%q): got %v and error %v, want %v (0: an error)", s, got, err, want)
		}
	}
	for s, want := range map[string]time.Time{
		"18:00": monday.Add(6 * time.Hour), "11:00": monday.Add(23 * time.Hour),
		"2030-05-12":       time.Date(2030, 5, 12, 0, 0, 0, 0, time.Local),
		"2030-05-12 18:00": time.Date(2030, 5, 12, 18, 0, 0, 0, time.Local),
		"tomorrow":         {},
	} {
		got, err := ParseMoment(s, monday)
		if !got.Equal(want) || (err == nil) != !want.IsZero() {
			t.Errorf("ParseMoment(%q): got %v and error %v, want %v (the zero time: an error)", s, got, err, want)
		}
	}
}

// TestColor: COLUMNS sets the width of a pipe, and makes no terminal of it.
func TestColor(t *testing.T) {
	t.Setenv("COLUMNS", "60")
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if p := New(w, w); p.Color || p.Width != 60 {
		t.Errorf("got colour %v and width %d, want no colour and width 60", p.Color, p.Width)
	}
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		s    string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"長い名", 5, "長い…"}, {"長い名", 4, "長…"}, {"abc", 0, ""}, {"abc", 1, "…"}} {
		if got := Cut(test.s, test.n); got != test.want || Columns(got) > max(test.n, 0) {
			t.Errorf("cut(%q, %d) = %q, want %q", test.s, test.n, got, test.want)
		}
	}
	if got := OneLine("a\nb\x1b[31mc\u202ed\xffe"); got != "a b?[31mc?d?e" {
		t.Errorf("%q, want a b?[31mc?d?e", got)
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{
		{"", 10, ""}, {"one", 2, "one"}, {"a b c", 0, "a b c"}, {"a b c", 5, "a b c"}, {"a b c", 4, "a b|c"}, {"a bcdef g", 3, "a|bcdef|g"},
		{"長い 長い", 5, "長い|長い"}, {"one two  three", 8, "one two|three"},
	} {
		if got := strings.Join(Wrap(c.s, c.n), "|"); got != c.want {
			t.Errorf("%q in %d columns: %q, want %q", c.s, c.n, got, c.want)
		}
	}
}

// The sizes come once, before the download, whether that has begun when they are known or not.
func TestSizesFirst(t *testing.T) {
	steps := []bus.RefreshProperties{
		{Instance: "org.x.a", State: "preparing", Step: "resolve"},
		{Instance: "org.x.a", State: "preparing", Step: "fetch"},
		{Instance: "org.x.a", State: "preparing", Step: "fetch", BytesTotal: 12e6, BytesToFetch: 12e6, BytesToWrite: 15e6},
		{Instance: "org.x.a", State: "preparing", Step: "fetch", BytesDone: 6e6, BytesTotal: 12e6, BytesToFetch: 12e6, BytesToWrite: 15e6},
		{Instance: "org.x.a", State: "done", Step: "finish", BytesToFetch: 12e6, BytesToWrite: 15e6},
	}
	const sizes = "org.x.a: 12 MB to download, 15 MB to write\n"
	for _, c := range []struct {
		from int
		want string
	}{
		{0, "org.x.a: looking for what is needed\norg.x.a: downloading\n" + sizes},
		{2, sizes + "org.x.a: downloading\n"},
		{4, sizes}, // it was short
	} {
		var out strings.Builder
		p := (&Printer{Stderr: &out}).Progress()
		for _, s := range steps[c.from:] {
			p.Update(bus.RefreshPath("1"), s)
		}
		p.Close()
		if out.String() != c.want {
			t.Errorf("from step %d on: %q, want %q", c.from, out.String(), c.want)
		}
		out.Reset()
		b := newBars(&out, 80)
		for _, s := range steps[c.from:] {
			b.Update(bus.RefreshPath("1"), s)
		}
		b.Close()
		if n := strings.Count(out.String(), sizes); n != 1 {
			t.Errorf("from step %d on, the sizes are %d times above the bars, want 1:\n%q", c.from, n, out.String())
		}
	}
}

// Bars need a terminal. They must end, and leave no output behind.
func TestProgressBars(t *testing.T) {
	b := newBars(io.Discard, 80)
	path := bus.RefreshPath("1")
	for _, p := range []bus.RefreshProperties{
		{Instance: "org.x.a", State: "preparing", Step: "fetch"},
		{Instance: "org.x.a", State: "preparing", Step: "fetch", BytesDone: 1 << 63, BytesTotal: 1<<64 - 1},
		{Instance: "org.x.a", State: "preparing", Step: "fetch", BytesDone: 100, BytesTotal: 50},
		{Instance: "org.x.a", State: "waiting", Step: "wait"},
	} {
		b.Update(path, p)
	}
	b.Update(bus.RefreshPath("2"), bus.RefreshProperties{Instance: "org.x.b", State: "preparing", Step: "precopy"})
	b.Close()
}
