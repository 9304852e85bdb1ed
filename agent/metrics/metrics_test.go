package metrics

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"
)

var (
	start   = time.Unix(1_700_000_000, 0)
	kinds   = []string{"install", "refresh"}
	results = []string{"done", "undone"}
)

// full has a value for every figure.
func full() (*Metrics, State) {
	m := New("1.2.3", start, kinds, results)
	m.Refreshed("refresh", "done")
	m.Refreshed("refresh", "done")
	m.HeldOff("refresh", 30*time.Millisecond)
	m.HeldOff("refresh", -time.Second) // the clock was set back
	m.Collected(Collection{Ended: start.Add(time.Minute), Took: 250 * time.Millisecond, Blobs: 3, Bytes: 4000, Strays: 2})
	m.Collected(Collection{Ended: start.Add(time.Hour), Blobs: 1, Bytes: 10, Strays: 9, Failed: true})
	return m, State{
		Indices: map[string]Amount{"base": {}, "installed": {2, 30, 4_000_000_000_123}},
		Store:   Amount{Blobs: 40, Bytes: 5000}, Free: 7,
		Repositories: map[string]time.Time{"local": start.Add(1500 * time.Millisecond), "never": {}},
		Pending: []Pending{
			{"org.x", "2 \"beta\"\n", "security", ForApplications, start.Add(2 * time.Second)},
			{"org.y", "3", "", ForHold, time.Time{}},
		},
		Installed: []Version{{"org.y", "2"}},
		Stuck:     []Trouble{{Instance: "org.z", Version: "2"}}, Undone: []Trouble{{"org.y", "3", start.Add(4 * time.Second)}},
		LastRefresh: start.Add(3 * time.Second), Runs: &Runs{5, 1},
		Services: []Services{{Version{"org.y", "2"}, 3, 1}, {Version{"org.z", "1"}, 1, 0}},
	}
}

// parse reads the text as Prometheus does: family by name.
func parse(t interface{ Fatalf(string, ...any) }, text []byte) map[string]*dto.MetricFamily {
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("cannot read it back: %v\n%s", err, text)
	}
	return families
}

func TestText(t *testing.T) {
	m, s := full()
	m.DeltaUsed(true)
	text, err := m.Text(s)
	if err != nil {
		t.Fatal(err)
	}
	families := parse(t, text)
	figure := func(name string, labels ...string) (float64, bool) {
		for _, x := range families[name].GetMetric() {
			var have []string
			for _, l := range x.Label {
				have = append(have, l.GetName(), l.GetValue())
			}
			if slices.Equal(have, labels) {
				return x.GetGauge().GetValue() + x.GetCounter().GetValue() + x.GetHistogram().GetSampleSum(), true
			}
		}
		return 0, false
	}
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1.7e9, "lull_start_time_seconds", nil},
		{2, "lull_index_packages", []string{"index", "installed"}}, {30, "lull_index_blobs", []string{"index", "installed"}},
		{4_000_000_000_123, "lull_index_bytes", []string{"index", "installed"}}, {0, "lull_index_bytes", []string{"index", "base"}},
		{40, "lull_store_blobs", nil}, {5000, "lull_store_bytes", nil}, {7, "lull_store_free_bytes", nil},
		{2, "lull_collections_total", nil}, {1, "lull_collection_failures_total", nil}, {4010, "lull_collection_freed_bytes_total", nil},
		{4, "lull_collection_freed_blobs_total", nil}, {1.7e9 + 60, "lull_collection_last_timestamp_seconds", nil},
		{.25, "lull_collection_last_duration_seconds", nil}, {4000, "lull_collection_last_freed_bytes", nil}, {2, "lull_collection_last_strays", nil},
		{1, "lull_refreshes_pending", []string{"waits_for", "applications"}}, {1, "lull_refreshes_pending", []string{"waits_for", "hold"}},
		{0, "lull_refreshes_pending", []string{"waits_for", "other"}},
		{1.7e9 + 2, "lull_refresh_pending_since_timestamp_seconds", []string{"instance", "org.x", "urgency", "security", "version", "2 \"beta\"\n"}},
		{1, "lull_refresh_stuck", []string{"instance", "org.z", "version", "2"}},
		{1.7e9 + 4, "lull_refresh_undone_timestamp_seconds", []string{"instance", "org.y", "version", "3"}},
		{1.7e9 + 3, "lull_refresh_last_success_timestamp_seconds", nil},
		{2, "lull_refreshes_total", []string{"kind", "refresh", "result", "done"}}, {0, "lull_refreshes_total", []string{"kind", "install", "result", "undone"}},
		{0, "lull_deltas_total", []string{"result", "used"}}, {1, "lull_deltas_total", []string{"result", "failed"}},
		{1.7e9 + 1.5, "lull_repository_last_success_timestamp_seconds", []string{"repository", "local"}},
		{.03, "lull_critical_section_seconds", []string{"kind", "refresh"}},
		{1, "lull_services_failed", []string{"instance", "org.y", "version", "2"}}, {0, "lull_services_failed", []string{"instance", "org.z", "version", "1"}},
		{5, "lull_runs", []string{"type", "application"}}, {1, "lull_runs", []string{"type", "service"}},
	} {
		if got, ok := figure(c.name, c.labels...); !ok || got != c.want {
			t.Errorf("%s %q: got %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if n := len(families["lull_refresh_pending_since_timestamp_seconds"].GetMetric()); n != 1 {
		t.Errorf("%d refreshes have an age, want 1", n)
	}
	if n := len(families["lull_repository_last_success_timestamp_seconds"].GetMetric()); n != 1 {
		t.Errorf("%d repositories were read, want 1", n)
	}
	again, err := m.Text(s)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same state: got (%v)\n%s\nwant\n%s", err, again, text)
	}
	if strings.Contains(string(text), "go_gc") || strings.Contains(string(text), "process_") {
		t.Error("figures of the process change by themselves")
	}
}

// TestUnknownIsLeftOut: an event that has not occurred has no time, and no zero in its place.
func TestUnknownIsLeftOut(t *testing.T) {
	text, err := New("dev", start, kinds, results).Text(State{})
	if err != nil {
		t.Fatal(err)
	}
	families := parse(t, text)
	for name := range families {
		if strings.Contains(name, "_last_") || strings.Contains(name, "since") || name == "lull_runs" {
			t.Errorf("got %s, want it left out while it is unknown", name)
		}
	}
	if n := len(families["lull_refreshes_total"].GetMetric()); n != len(kinds)*len(results) {
		t.Errorf("got %d kinds of ends that begin at 0, want %d", n, len(kinds)*len(results))
	}
}

// TestNames: the rules of Prometheus for names, units and help texts.
func TestNames(t *testing.T) {
	m, s := full()
	text, err := m.Text(s)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	more, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(problems, more...) {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name := range parse(t, text) {
		if !strings.HasPrefix(name, "lull_") {
			t.Errorf("got metric %s, want a name that begins with lull_", name)
		}
	}
}

// TestDocumented: docs/metrics.md has exactly the table of the figures.
func TestDocumented(t *testing.T) {
	m, s := full()
	text, err := m.Text(s)
	if err != nil {
		t.Fatal(err)
	}
	want := "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
	families := parse(t, text)
	for _, x := range allGauges {
		if !strings.Contains(string(text), strings.SplitN(x.desc.String(), `"`, 3)[1]) {
			t.Errorf("got no value for %v, want one", x.desc)
		}
	}
	var names []string
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := families[name]
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil || !strings.Contains(string(doc), want) {
		t.Errorf("docs/metrics.md: got another table (%v), want\n%s", err, want)
	}
}

// TestAnyWords: with any names of packages, all figures can be parsed.
func TestAnyWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		m, s := full()
		p := &s.Pending[0]
		p.Instance, p.Version, p.Urgency = words.Draw(t, "instance"), words.Draw(t, "version"), words.Draw(t, "urgency")
		s.Repositories[words.Draw(t, "repository")] = start
		text, err := m.Text(s)
		if err != nil {
			t.Fatalf("%v", err)
		}
		found := false
		for _, l := range parse(t, text)["lull_refresh_pending_since_timestamp_seconds"].Metric[0].Label {
			found = found || l.GetName() == "version" && l.GetValue() == strings.ToValidUTF8(p.Version, "\uFFFD")
		}
		if !found {
			t.Fatalf("got no version %q, want it:\n%s", p.Version, text)
		}
	})
}

func BenchmarkText(b *testing.B) {
	m, s := full()
	for b.Loop() {
		if _, err := m.Text(s); err != nil {
			b.Fatal(err)
		}
	}
}
