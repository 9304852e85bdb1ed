package policy

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

const day = 24 * time.Hour

// write makes a directory with a policy file and drop-ins.
func write(t *testing.T, files map[string]string) (file, dir string) {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "policy.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(root, "policy.yaml"), filepath.Join(root, "policy.d")
}

func TestDefaults(t *testing.T) {
	p, err := Load("/nonexistent/policy.yaml", "/nonexistent/policy.d")
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{
		Mode: ModeWait, RefreshPending: PendingAllow, RefreshAwareness: true, MaxPostponement: 14 * day,
		AtDeadline: DeadlineKeepWaiting, KeepRevisions: 2, AutoRefresh: true, HookTimeLimit: time.Minute, UserHold: 7 * day,
		FetchRequires: Conditions{Unmetered}, RefreshRequires: Conditions{}, SecurityRequires: true, PackageWishes: true,
	}
	if got := p.For("org.example.app"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want := (Schedule{6 * time.Hour, 7 * day, []time.Duration{7 * day, day, 2 * time.Hour}, Windows{}}); !reflect.DeepEqual(p.Schedule, want) {
		t.Errorf("got schedule %+v, want %+v", p.Schedule, want)
	}
	if want := (GC{Watermark{Percent: 5}, 64e6, true, 0}); p.GC != want {
		t.Errorf("got %+v, want %v", p.GC, want)
	}
	if !p.Inhibit.Block {
		t.Error("block is off")
	}
}

func TestDefaultsSetEveryKey(t *testing.T) {
	p := Defaults()
	v := reflect.ValueOf(p.defaults)
	for i := range v.NumField() {
		if v.Field(i).IsNil() && v.Type().Field(i).Name != "OldRefreshPending" {
			t.Errorf("defaults.yaml does not set defaults.%s", v.Type().Field(i).Tag.Get("yaml"))
		}
	}
	for _, s := range []any{schedule{}, network{}, gc{}, inhibit{}, metrics{}} {
		for i := range reflect.TypeOf(s).NumField() {
			key := reflect.TypeOf(s).Name() + "." + reflect.TypeOf(s).Field(i).Tag.Get("yaml")
			if p.origins[key] == "" {
				t.Errorf("defaults.yaml does not set %s", key)
			}
		}
	}
}

func TestLayers(t *testing.T) {
	file, dir := write(t, map[string]string{
		"policy.yaml": `
defaults:
  max-postponement: 7d
  keep-revisions: 3
packages:
  org.example.app:
    mode: side-by-side
    at-deadline: terminate
  org.example.app_work:
    refresh-pending: block
schedule:
  check: 1h
  reminders: [1d]
`,
		"policy.d/20-b.yaml":    "packages:\n  org.example.app:\n    max-postponement: 2d\n",
		"policy.d/10-a.yaml":    "defaults:\n  max-postponement: 3d\n  auto-refresh: false\ngc: {watermark: 2GiB}\n",
		"policy.d/.hidden.yaml": "nonsense: 1\n", "policy.d/README": "nonsense",
		"policy.d/30-c.yaml": "schedule:\n  reminders: []\ninhibit:\n  block: false\nmetrics:\n  textfile: /var/lib/x/lull.prom\n",
	})
	p, err := Load(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	common := Settings{
		Mode: ModeWait, RefreshPending: PendingAllow, RefreshAwareness: true, MaxPostponement: 3 * day,
		AtDeadline: DeadlineKeepWaiting, KeepRevisions: 3, FetchRequires: Conditions{Unmetered}, RefreshRequires: Conditions{}, SecurityRequires: true, PackageWishes: true, HookTimeLimit: time.Minute, UserHold: 7 * day,
	}
	app := common
	app.Mode, app.AtDeadline, app.MaxPostponement = ModeSideBySide, DeadlineTerminate, 2*day
	work := app
	work.RefreshPending = PendingBlock
	for instance, want := range map[string]Settings{
		"org.example.other": common, "org.example.app": app, "org.example.app_home": app, "org.example.app_work": work,
		"org.example.ap": common,
	} {
		if got := p.For(instance); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", instance, got, want)
		}
	}
	if len(p.Schedule.Reminders) != 0 || p.Schedule.Check != time.Hour || p.GC.Watermark.Bytes != 2<<30 || p.Inhibit.Block || p.Metrics.Textfile != "/var/lib/x/lull.prom" {
		t.Errorf("got %+v, want no reminders, a check each hour, a watermark of 2 GiB, no block and textfile /var/lib/x/lull.prom", p)
	}
	if m := p.Instances(); len(m) != 2 || !reflect.DeepEqual(m["org.example.app_work"], work) {
		t.Errorf("Instances: got %+v, want 2 with org.example.app_work %+v", m, work)
	}
	explained := map[string]Value{}
	for _, v := range p.Explain("org.example.app_work", manifest.Wishes{}) {
		explained[v.Key] = v
	}
	for _, want := range []Value{
		{Key: "mode", Value: "side-by-side", Origin: file + ":7"}, {Key: "refresh-pending-behavior", Value: "block", Origin: file + ":10"},
		{Key: "max-postponement", Value: "2d", Origin: filepath.Join(dir, "20-b.yaml") + ":3"},
		{Key: "keep-revisions", Value: "3", Origin: file + ":4"}, {Key: "auto-refresh", Value: "false", Origin: filepath.Join(dir, "10-a.yaml") + ":3"},
		{Key: "allow-untracked", Value: "false", Origin: "built in"},
	} {
		if explained[want.Key] != want {
			t.Errorf("Explain: got %+v, want %+v", explained[want.Key], want)
		}
	}
	for _, v := range p.Explain("", manifest.Wishes{}) {
		if v.Key == "gc.watermark" && (v.Value != "2GiB" || v.Origin != filepath.Join(dir, "10-a.yaml")+":4") {
			t.Errorf("Explain: got %+v, want 2GiB from %s:4", v, filepath.Join(dir, "10-a.yaml"))
		}
		if v.Key == "metrics.textfile" && (v.Value != "/var/lib/x/lull.prom" || v.Origin != filepath.Join(dir, "30-c.yaml")+":6") {
			t.Errorf("Explain: got %+v, want /var/lib/x/lull.prom from %s:6", v, filepath.Join(dir, "30-c.yaml"))
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"terminate for all":   {"defaults:\n  at-deadline: terminate\n", "2: cannot use terminate as defaults.at-deadline: processes are ended only for a package that is named under packages"},
		"mode":                {"defaults: {mode: fast}\n", `1: cannot use "fast" as defaults.mode: want wait, side-by-side or endure`},
		"pending":             {"defaults:\n  refresh-pending: maybe\n", `2: cannot use "maybe" as defaults.refresh-pending: want allow or block`},
		"deadline":            {"packages:\n  a:\n    at-deadline: kill\n", `3: cannot use "kill" as packages.a.at-deadline: want keep-waiting, side-by-side or terminate`},
		"too long":            {"defaults:\n  max-postponement: 2000d\n", "2: cannot use 2000d as defaults.max-postponement: want 0s to 366d"},
		"overflow":            {"defaults:\n  max-postponement: 999999999999w\n", `2: cannot use "999999999999w" as defaults.max-postponement: the duration is too long`},
		"user-hold":           {"defaults:\n  user-hold: 400d\n", "2: cannot use 400d as defaults.user-hold: want 0s to 366d"},
		"user-hold spelled":   {"packages:\n  a:\n    user-hold: long\n", "3: cannot use \"long\" as packages.a.user-hold: want a duration such as 14d, 8h or 90m"},
		"user-hold-security":  {"defaults:\n  user-hold-security: sometimes\n", "2: cannot use \"sometimes\" as defaults.user-hold-security: want true or false"},
		"revisions":           {"packages:\n  a: {keep-revisions: 0}\n", "2: cannot use 0 as packages.a.keep-revisions: want 1 to 20"},
		"hook":                {"defaults:\n  hook-time-limit: 2h\n", "2: cannot use 2h as defaults.hook-time-limit: want 1s to 1h"},
		"failure-notice":      {"schedule:\n  failure-notice: 1m\n", "2: cannot use 1m as schedule.failure-notice: want 1h to 366d"},
		"check":               {"schedule:\n  check: 1s\n", "2: cannot use 1s as schedule.check: want 5m to 31d"},
		"bandwidth":           {"network:\n  bandwidth: 9kB\n", "2: cannot use 9kB as network.bandwidth: want 0, or 10kB to 1GB"},
		"bandwidth, too much": {"network:\n  bandwidth: 2GB\n", "2: cannot use 2GB as network.bandwidth: want 0, or 10kB to 1GB"},
		"download notice":     {"network:\n  download-notice: 1kB\n", "2: cannot use 1kB as network.download-notice: want 0, or 1MB to 1TB"},
		"bandwidth spelled":   {"network:\n  bandwidth: fast\n", `2: cannot use "fast" as network.bandwidth: want a size such as 64MiB or 2GB`},
		"bandwidth windows":   {"network:\n  bandwidth-windows: [often]\n", `2: cannot use "often" as network.bandwidth-windows[0]: want days and hours such as sat,sun 02:00-05:00, mon-fri 22:00-06:00, or hours alone`},
		"proxy":               {"network:\n  proxy: ftp://x\n", "2: cannot use this network.proxy: want an address like http://proxy.example.org:3128, with http, https or socks5"},
		"proxy as a host":     {"network:\n  proxy: proxy:3128\n", "2: cannot use this network.proxy: want an address like http://proxy.example.org:3128, with http, https or socks5"},
		"proxy, password":     {"network:\n  proxy: http://ann:secret@proxy:3128\n", "2: cannot use network.proxy with a user name: every user can read the policy; use HTTPS_PROXY in /etc/lull/environment"},
		"no proxy":            {"network:\n  no-proxy: [a, 'b,c']\n", `2: cannot use "b,c" as network.no-proxy[1]: want a host, a domain, an address or a network such as 10.0.0.0/8`},
		"reminder order":      {"schedule:\n  reminders: [1h, 1d]\n", "2: cannot use 1d as schedule.reminders[1]: reminders are written from the longest to the shortest"},
		"reminder twice":      {"schedule:\n  reminders: [1h, 60m]\n", "2: cannot use 1h as schedule.reminders[1]: reminders are written from the longest to the shortest"},
		"reminder now":        {"schedule:\n  reminders: [0]\n", "2: cannot use 0s as schedule.reminders[0]: want 1s to 366d"},
		"many reminders":      {"schedule:\n  reminders: [12h, 11h, 10h, 9h, 8h, 7h, 6h, 5h, 4h, 3h, 2h]\n", "2: cannot use 11 schedule.reminders: want at most 10"},
		"watermark":           {"gc:\n  watermark: 95%\n", `2: cannot use "95%" as gc.watermark: want 0% to 90%`},
		"watermark word":      {"gc:\n  watermark: low\n", `2: cannot use "low" as gc.watermark: want a share such as 5%, or a size such as 2GiB`},
		"reserve":             {"gc:\n  reserve: 2TiB\n", "2: cannot use 2TiB as gc.reserve: want at most 1TiB"},
		"textfile, relative":  {"metrics:\n  textfile: lull.prom\n", `2: cannot use "lull.prom" as metrics.textfile: want an absolute path without .. and //, to a file whose name ends in .prom`},
		"textfile, dots":      {"metrics:\n  textfile: /a/../lull.prom\n", `2: cannot use "/a/../lull.prom" as metrics.textfile: want an absolute path without .. and //, to a file whose name ends in .prom`},
		"textfile, ending":    {"metrics: {textfile: /a/lull.txt}\n", `1: cannot use "/a/lull.txt" as metrics.textfile: want an absolute path without .. and //, to a file whose name ends in .prom`},
		"textfile, hidden":    {"metrics: {textfile: /a/.prom}\n", `1: cannot use "/a/.prom" as metrics.textfile: want an absolute path without .. and //, to a file whose name ends in .prom`},
		"textfile, two":       {"metrics: {textfile: [/a/l.prom]}\n", `1: cannot use a list as metrics.textfile: want text`},
		"metrics, unknown":    {"metrics: {port: 9100}\n", `1: cannot use the key "port" in metrics: known are textfile`},
		"instance":            {"packages:\n  Bad Name: {mode: wait}\n", `2: cannot use "Bad Name" under packages: it is no package and no instance`},
		"unknown":             {"packages:\n  a:\n    moode: wait\n", `3: cannot use the key "moode" in packages.a: known are mode, refresh-pending-behavior, refresh-awareness, max-postponement, at-deadline, keep-revisions, allow-untracked, auto-refresh, hook-time-limit, user-hold, user-hold-security, fetch-requires, refresh-requires, security-requires, package-wishes, restart-background, refresh-pending`},
		"condition":           {"defaults:\n  fetch-requires: [mains, sunshine]\n", `2: cannot use "sunshine" as defaults.fetch-requires[1]: want mains, unmetered, idle or window`},
		"condition twice":     {"packages:\n  a:\n    refresh-requires:\n    - idle\n    - idle\n", "5: cannot use idle as packages.a.refresh-requires[1]: it is there already"},
		"no list":             {"defaults:\n  refresh-requires: idle\n", "2: cannot use \"idle\" as defaults.refresh-requires: want a list"},
		"window":              {"schedule:\n  windows: [sat 02:00-05:00, sat-someday 02:00-03:00]\n", `2: cannot use "sat-someday 02:00-03:00" as schedule.windows[1]: want days and hours such as sat,sun 02:00-05:00, mon-fri 22:00-06:00, or hours alone`},
		"no window":           {"schedule:\n  windows: [03:00-03:00]\n", `2: cannot use "03:00-03:00" as schedule.windows[0]: want days and hours such as sat,sun 02:00-05:00, mon-fri 22:00-06:00, or hours alone`},
		"window by night":     {"schedule:\n  windows: [02:00-25:00]\n", `2: cannot use "02:00-25:00" as schedule.windows[0]: want days and hours such as sat,sun 02:00-05:00, mon-fri 22:00-06:00, or hours alone`},
		"syntax":              {"defaults:\n\tmode: wait\n", "2: cannot read YAML: found character that cannot start any token"},
	} {
		t.Run(name, func(t *testing.T) {
			file, dir := write(t, map[string]string{"policy.yaml": c.in})
			_, err := Load(file, dir)
			if !errkind.Is(err, errkind.BadPolicy) || errkind.ExitCode(err) != 78 {
				t.Fatalf("got %v (%s, exit status %d), want an error of kind %s with exit status 78", err, errkind.KindOf(err), errkind.ExitCode(err), errkind.BadPolicy)
			}
			if want := file + ":" + c.want; err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			if errs := Check(file); len(errs) != 1 || errs[0].Error() != err.Error() {
				t.Errorf("Check: got %v, want only %v", errs, err)
			}
			// The same in a drop-in breaks the policy as well.
			file, dir = write(t, map[string]string{"policy.d/x.yaml": c.in})
			if _, err := Load(file, dir); !strings.HasPrefix(err.Error(), filepath.Join(dir, "x.yaml")+":") {
				t.Errorf("drop-in: got %v, want an error about %s", err, filepath.Join(dir, "x.yaml"))
			}
		})
	}
}

func TestCheckListsAll(t *testing.T) {
	file, _ := write(t, map[string]string{"policy.yaml": "defaults:\n  keep-revisions: 99\n  at-deadline: terminate\n  foo: 1\npackages:\n  a:\n    mode: x\n"})
	var got []string
	for _, err := range Check(file) {
		got = append(got, strings.TrimPrefix(err.Error(), file))
	}
	want := []string{":2: cannot use 99", ":3: cannot use terminate", ":4: cannot use the key", ":7: cannot use \"x\""}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %d errors: %q", got, len(want), want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q…", got[i], want[i])
		}
	}
	if errs := Check(file + ".missing"); len(errs) != 1 {
		t.Errorf("missing file: got %v, want one error", errs)
	}
	if err := os.WriteFile(file, DefaultsYAML, 0o644); err != nil {
		t.Fatal(err)
	}
	if errs := Check(file); errs != nil {
		t.Errorf("the shipped defaults: got %v, want no error", errs)
	}
}

func TestWrongEnding(t *testing.T) {
	file, dir := write(t, map[string]string{"policy.d/a.yml": ""})
	if _, err := Load(file, dir); err == nil || !strings.Contains(err.Error(), "must end in .yaml") {
		t.Errorf("got %v, want \"must end in .yaml\"", err)
	}
}

func TestEndureHasTwoSpellings(t *testing.T) {
	file, dir := write(t, map[string]string{"policy.yaml": "packages:\n  a: {mode: ignore-running}\n  b: {mode: endure}\n"})
	p, err := Load(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.For("a").Mode != ModeEndure || p.For("b").Mode != ModeEndure {
		t.Errorf("got modes %s and %s, want %s twice", p.For("a").Mode, p.For("b").Mode, ModeEndure)
	}
}

func TestWatermark(t *testing.T) {
	for _, c := range []struct {
		w           Watermark
		total, want int64
	}{
		{Watermark{}, 1000, 0}, {Watermark{Percent: 5}, 1000, 50}, {Watermark{Bytes: 7}, 1000, 7}, {Watermark{Percent: 90}, math.MaxInt64, 8301034833169298226},
		{Watermark{Percent: 5}, -1, 0}, {Watermark{Bytes: -7}, 1, 0}, {Watermark{Percent: 5}, 0, 0},
	} {
		if got := c.w.Of(c.total); got != c.want {
			t.Errorf("%+v of %d: got %d, want %d", c.w, c.total, got, c.want)
		}
	}
}

func TestPostponement(t *testing.T) {
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := Postponement{Since: since, Max: 14 * day}
	for _, c := range []struct {
		name string
		now  time.Time
		left time.Duration
	}{
		{"at once", since, 14 * day},
		{"clock set back a year", since.AddDate(-1, 0, 0), 14 * day},
		{"in the middle", since.Add(10 * day), 4 * day},
		{"at a reminder", since.Add(13 * day), day},
		{"at the deadline", since.Add(14 * day), 0},
		{"years later", since.AddDate(200, 0, 0), 0},
	} {
		if got := p.Left(c.now); got != c.left {
			t.Errorf("%s: left %v, want %v", c.name, got, c.left)
		}
		if got := p.Over(c.now); got != (c.left == 0) {
			t.Errorf("%s: got over %v, want %v", c.name, got, c.left == 0)
		}
	}
	if at, want := p.Reminders(Defaults().Schedule.Reminders), []time.Time{since.Add(7 * day), since.Add(13 * day), since.Add(14*day - 2*time.Hour)}; !slices.Equal(at, want) {
		t.Errorf("reminders %v, want %v", at, want)
	}
	if at := (Postponement{since, time.Hour}).Reminders([]time.Duration{day, time.Hour}); len(at) > 0 {
		t.Errorf("got reminders %v from before the postponement, want none", at)
	}
	if !(Postponement{since, -5}).Over(since) {
		t.Error("a negative postponement is not over")
	}
}

func TestPostponementProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(label string) time.Time { return time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, label), 0) }
		p := Postponement{at("since"), time.Duration(rapid.Int64().Draw(t, "max"))}
		now := at("now")
		if left := p.Left(now); left < 0 || left > max(p.Max, 0) {
			t.Fatalf("got %v left of %v, want from 0 to all of it", left, p.Max)
		}
		for _, at := range p.Reminders([]time.Duration{time.Duration(rapid.Int64().Draw(t, "reminder"))}) {
			if !at.After(p.Since) || !at.Before(p.Deadline()) {
				t.Fatalf("got a reminder at %v, want it after %v and before %v", at, p.Since, p.Deadline())
			}
		}
	})
}

// TestClock: what a clock that was wrong has written down is not believed, and
// nothing is judged by a clock that is wrong.
func TestClock(t *testing.T) {
	at := func(s string) time.Time {
		t.Helper()
		if s == "" {
			return time.Time{}
		}
		v, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const zero, published = "1970-01-01 00:10", "2026-11-01 12:00"
	for _, c := range []struct{ name, published, since, now, want string }{
		{"a new window", published, "", "2026-11-02 00:00", "2026-11-02 00:00"},
		{"a window goes on", published, "2026-11-02 00:00", "2026-11-12 00:00", "2026-11-02 00:00"},
		{"long over", published, "2026-11-02 00:00", "2030-01-01 00:00", "2026-11-02 00:00"},
		{"a new window in 1970", published, "", zero, zero},
		{"it goes on in 1970", published, zero, "1970-01-09 00:00", zero},
		{"begun in 1970, the network has set the clock", published, zero, "2026-11-12 00:00", "2026-11-12 00:00"},
		{"likewise, of a revision that does not say when it was published", "", zero, "2026-11-12 00:00", "2026-11-12 00:00"},
		{"begun after a long winter with a flat battery", published, "2026-03-01 00:00", "2026-11-12 00:00", "2026-11-12 00:00"},
		{"begun well, then the clock fell to 1970", published, "2026-11-02 00:00", zero, "2026-11-02 00:00"},
		{"begun in 2100, then the clock was set right", published, "2100-01-01 00:00", "2026-11-12 00:00", "2026-11-12 00:00"},
		{"the clock was set back by an hour", published, "2026-11-12 01:00", "2026-11-12 00:00", "2026-11-12 01:00"},
		{"the publisher's clock is an hour ahead", "2026-11-12 01:00", "2026-11-12 00:00", "2026-11-13 00:00", "2026-11-12 00:00"},
	} {
		if got := ClockAfter(at(c.published)).Began(at(c.since), at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name, since, until, now string
		want                    bool
	}{
		{"in force", "2026-11-01 00:00", "2026-11-08 00:00", "2026-11-03 00:00", true},
		{"over", "2026-11-01 00:00", "2026-11-08 00:00", "2026-11-08 00:00", false},
		{"the clock fell to 1970", "2026-11-01 00:00", "2026-11-08 00:00", zero, true},
		{"made in 2100", "2100-01-01 00:00", "2100-01-08 00:00", "2026-11-03 00:00", false},
		{"made in 1970", zero, "1970-01-08 00:00", "2026-11-03 00:00", false},
		{"made in 1970 with an end of today", zero, "2026-11-08 00:00", "2026-11-03 00:00", true},
	} {
		if got := ClockAfter().Lasts(at(c.since), at(c.until), at(c.now)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if c := ClockAfter(); !c.Wrong(at(zero)) || c.Wrong(at(published)) {
		t.Error("a wrong clock is not told from a right one")
	}
}

// TestWindowsEnd: after any earlier state of the clock, a window that is
// checked with one clock from then on ends, and not before its time.
func TestWindowsEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(label string) time.Time {
			return time.Unix(rapid.Int64Range(0, Earliest.Unix()*3).Draw(t, label), 0).UTC()
		}
		c := ClockAfter(at("published"))
		since, limit := at("since"), time.Duration(rapid.Int64Range(0, int64(MaxPostponement)).Draw(t, "max"))
		now := at("now")
		if c.Wrong(now) {
			now = now.Add(c.floor.Sub(now)) // the network sets it
		}
		began := c.Began(since, now)
		p := Postponement{began, limit}
		if left := p.Deadline().Sub(now); left > limit+slack {
			t.Fatalf("begun %v: got %v left, want at most %v", began, left, limit+slack)
		}
		if !began.Equal(since) && !began.Equal(now) {
			t.Fatalf("got a begin at %v, want %v or %v", began, since, now)
		}
		if since.Before(c.floor.Add(-slack)) && p.Left(now) != limit {
			t.Fatalf("a window that began before its revision was published: got %v left, want %v", p.Left(now), limit)
		}
	})
}

func TestUserHoldEnd(t *testing.T) {
	ready := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	usual := Settings{UserHold: 7 * day, MaxPostponement: 14 * day}
	for _, c := range []struct {
		name    string
		s       Settings
		until   time.Time
		since   time.Time
		urgency string
		want    time.Time
	}{
		{"short", usual, ready.Add(3 * day), ready, "", ready.Add(3 * day)},
		{"renewed past its time", usual, ready.Add(30 * day), ready, "high", ready.Add(7 * day)},
		{"nothing is ready yet", usual, ready.Add(30 * day), time.Time{}, "", ready.Add(12 * day)},
		{"the deadline comes first", Settings{UserHold: 7 * day, MaxPostponement: 2 * day}, ready.Add(7 * day), ready, "", ready.Add(2 * day)},
		{"not allowed", Settings{MaxPostponement: 14 * day}, ready.Add(day), ready, "", time.Time{}},
		{"nothing may be put off", Settings{UserHold: day}, ready.Add(day), ready, "", ready},
		{"security", usual, ready.Add(day), ready, "security", time.Time{}},
		{"security where that is allowed", Settings{UserHold: day, UserHoldSecurity: true, MaxPostponement: day}, ready.Add(2 * day), ready, "security", ready.Add(day)},
	} {
		if got := c.s.UserHoldEnd(c.until, c.since, ready.Add(5*day), c.urgency); !got.Equal(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(DefaultsYAML)
	f.Add([]byte("packages:\n  a_b:\n    at-deadline: terminate\n    max-postponement: 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, bad := parse("p.yaml", data)
		if len(bad) > 0 {
			for _, e := range bad {
				if !strings.HasPrefix(e.Error(), "p.yaml:") || !strings.HasPrefix(e.Text, "cannot ") {
					t.Errorf("got message %q, want \"p.yaml:…: cannot …\"", e)
				}
			}
			return
		}
		p := Defaults()
		p.add(l)
		for instance := range p.Instances() {
			s := p.For(instance)
			if s.MaxPostponement < 0 || s.KeepRevisions < 1 || s.HookTimeLimit <= 0 || s.Mode == "" {
				t.Errorf("%s: got %+v, want a mode, no negative postponement, a revision and time for hooks", instance, s)
			}
		}
		if s := p.For("zz"); s.AtDeadline == DeadlineTerminate && p.packages["zz"].AtDeadline == nil {
			t.Error("terminate by default")
		}
		p.Explain("", manifest.Wishes{})
	})
}

// TestWishes: a package's wish counts for each key that no file sets, and for
// none if the administrator ignores packages' wishes.
func TestWishes(t *testing.T) {
	all := manifest.Wishes{Mode: manifest.WishEndure, RefreshPending: manifest.WishBlock, MaxPostponement: manifest.Duration(30 * day)}
	for text, want := range map[string][3]string{
		"":                         {"endure", "block", "720h0m0s"},
		"defaults: {mode: wait}\n": {"wait", "block", "720h0m0s"},
		"packages: {org.x: {refresh-pending: allow}}\n":                                              {"endure", "allow", "720h0m0s"},
		"packages: {org.x: {refresh-pending-behavior: allow}}\n":                                     {"endure", "allow", "720h0m0s"},
		"packages: {org.x_work: {mode: side-by-side}}\n":                                             {"side-by-side", "block", "720h0m0s"},
		"packages: {org.y: {mode: wait}}\n":                                                          {"endure", "block", "720h0m0s"},
		"defaults: {max-postponement: 14d}\n":                                                        {"endure", "block", "336h0m0s"}, // as in the default, but decided
		"defaults: {package-wishes: false}\n":                                                        {"wait", "allow", "336h0m0s"},
		"packages: {org.x: {package-wishes: false}}\n":                                               {"wait", "allow", "336h0m0s"},
		"defaults: {package-wishes: false}\npackages: {org.x: {package-wishes: true, mode: wait}}\n": {"wait", "block", "720h0m0s"},
	} {
		file, dir := write(t, map[string]string{"policy.yaml": text})
		p, err := Load(file, dir)
		if err != nil {
			t.Fatal(err)
		}
		s := p.With("org.x_work", all)
		if got := [3]string{string(s.Mode), string(s.RefreshPending), s.MaxPostponement.String()}; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		if got, without := p.With("org.x_work", manifest.Wishes{}), p.For("org.x_work"); !reflect.DeepEqual(got, without) {
			t.Errorf("%q: without a wish %+v, want %+v", text, got, without)
		}
		for _, v := range p.Explain("org.x_work", all) {
			changed := v.Value != explained(p, v.Key)
			if v.Origin == OfPackage && !changed || v.Origin != OfPackage && changed {
				t.Errorf("%q: got %+v, want origin %q exactly where the value is not %s", text, v, OfPackage, explained(p, v.Key))
			}
			wishes := map[string]string{"mode": "endure", "refresh-pending-behavior": "block", "max-postponement": "30d"}
			if lost := wishes[v.Key]; lost == v.Value && v.Wish != "" || lost != v.Value && v.Wish != lost {
				t.Errorf("%q: got %+v, want wish %q only where it is not the value", text, v, lost)
			}
		}
		if s := p.With("org.x_work", manifest.Wishes{Mode: manifest.WishSideBySide}); s.MaxPostponement != p.For("org.x_work").MaxPostponement {
			t.Errorf("%q: got postponement %v by a wish of a mode, want %v as without", text, s.MaxPostponement, p.For("org.x_work").MaxPostponement)
		}
	}
}

// explained is the value of a key for a package without wishes.
func explained(p *Policy, key string) string {
	for _, v := range p.Explain("org.x_work", manifest.Wishes{}) {
		if v.Key == key {
			return v.Value
		}
	}
	return ""
}

// TestFormerName: a key under its former name counts like the present one, with its own
// line, and is noted; both in one section are refused.
func TestFormerName(t *testing.T) {
	file, dir := write(t, map[string]string{
		"policy.yaml":        "defaults:\n  mode: wait\n  refresh-pending: block\npackages:\n  org.x:\n    refresh-pending-behavior: allow\n",
		"policy.d/10-a.yaml": "packages: {org.y: {refresh-pending: allow}}\n",
	})
	p, err := Load(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	for instance, want := range map[string]Pending{"org.x": PendingAllow, "org.y": PendingAllow, "org.z": PendingBlock} {
		if got := p.For(instance).RefreshPending; got != want {
			t.Errorf("%s: %s, want %s", instance, got, want)
		}
	}
	origins := map[string]string{}
	for _, v := range p.Explain("org.z", manifest.Wishes{}) {
		origins[v.Key] = v.Origin
	}
	if origins["refresh-pending-behavior"] != file+":3" || origins["refresh-pending"] != "" {
		t.Errorf("got origins %q, want refresh-pending-behavior from %s:3 and none of refresh-pending", origins, file)
	}
	if got, want := Notes(file), []string{file + ":3: defaults.refresh-pending is the former name of refresh-pending-behavior; both are accepted"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	file, _ = write(t, map[string]string{"policy.yaml": "packages:\n  org.x:\n    refresh-pending: allow\n    refresh-pending-behavior: allow\n"})
	bad := Check(file)
	if len(bad) != 1 || bad[0].Error() != file+":3: cannot use packages.org.x.refresh-pending: it is the former name of refresh-pending-behavior, which is set, too" {
		t.Errorf("both names of a key: got %v, want one error that they are both set", bad)
	}
}
