package introspection_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/sample"
)

// figures is the file, read as the node exporter reads it.
type figures map[string]*dto.MetricFamily

func (s *scene) figures(path string) figures {
	s.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	f, err := p.TextToMetricFamilies(bytes.NewReader(b))
	if err != nil {
		s.Fatalf("cannot read the metrics: %v\n%s", err, b)
	}
	return f
}

// of returns the figure with these labels, name and value by turns; -1 if there is none.
func (f figures) of(name string, labels ...string) float64 {
	for _, m := range f[name].GetMetric() {
		fits := len(m.Label) == len(labels)/2
		for _, l := range m.Label {
			found := false
			for i := 0; i < len(labels); i += 2 {
				found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
			}
			fits = fits && found
		}
		if fits {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return -1
}

// seconds is a time in the form of the file.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// TestMetrics: the file follows a real life, agrees with `lull inspect` and `lull
// du`, is not touched while nothing happens, and goes with the agent.
func TestMetrics(t *testing.T) {
	s := set(t)
	folder := s.Path("textfile")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "lull.prom")
	s.Configure("policy.d/20-metrics.yaml", "defaults: {keep-revisions: 1}\nmetrics: {textfile: "+path+"}\n")
	s.Watch(folder)
	s.sample(sample.V1)
	base := s.small("base", "1", map[string]string{"a": "base"})
	s.Configure("system.yaml", "base: ["+base+"]\n")
	s.start()
	until := func(what string, cond func(f figures) (bool, string)) (f figures) {
		t.Helper()
		s.Until(what, limit, func() (bool, string) {
			f = s.figures(path)
			ok, seen := cond(f)
			return ok, seen
		})
		return f
	}
	is := func(want float64, name string, labels ...string) func(figures) (bool, string) {
		return func(f figures) (bool, string) {
			return f.of(name, labels...) == want, fmt.Sprintf("%s %v is %v, not %v", name, labels, f.of(name, labels...), want)
		}
	}
	f := until("there is a file", is(0, "lull_collections_total"))
	if st, err := os.Stat(path); err != nil {
		t.Error(err)
	} else if st.Mode() != 0o644 {
		t.Errorf("the file of metrics has mode %v, want 0644", st.Mode())
	}
	if f.of("lull_refresh_last_success_timestamp_seconds") != -1 || f.of("lull_index_packages", "index", "base") != 1 || f.of("lull_index_blobs", "index", "base") != 0 {
		t.Errorf("at the start: got %v, want no time of a refresh, and in the base index 1 package and 0 blobs", f)
	}
	s.MustLull("install", sample.Name)
	f = until("the installation and the service are counted", func(f figures) (bool, string) {
		return f.of("lull_refreshes_total", "kind", "install", "result", "done") == 1 && f.of("lull_runs", "type", "service") == 1 && f.of("lull_index_packages", "index", "writing") == 0, fmt.Sprint(f["lull_refreshes_total"], f["lull_runs"], f["lull_index_packages"])
	})
	if f.of("lull_critical_section_seconds", "kind", "install") != 1 {
		t.Errorf("it had no critical section: %v", f["lull_critical_section_seconds"])
	}
	s.agrees(path)

	// An update waits for the application.
	app := s.User.StartLull(nil, "run", sample.Name)
	until("the application is counted", is(1, "lull_runs", "type", "application"))
	sample.Write(s, s.Path(sample.V2), sample.V2)
	s.MustLull("publish", "--repo", s.Repo, "--urgency", "security", s.Path(sample.V2))
	s.Lull("refresh", sample.Name)
	f = until("the refresh waits", is(1, "lull_refreshes_pending", "waits_for", "applications"))
	v := s.inspect()
	since := -2.0
	for _, r := range v.Refreshes {
		if r.State == "waiting" {
			since = seconds(r.Since)
		}
	}
	if got := f.of("lull_refresh_pending_since_timestamp_seconds", "instance", sample.Name, "version", sample.V2, "urgency", "security"); got != since {
		t.Errorf("it waits since %v, not %v", got, since)
	}
	s.agrees(path)
	app.Stop()
	f = until("the refresh is counted", is(1, "lull_refreshes_total", "kind", "refresh", "result", "done"))
	if f.of("lull_critical_section_seconds", "kind", "refresh") != 1 || f.of("lull_refreshes_pending", "waits_for", "applications") != 0 || len(f["lull_refresh_pending_since_timestamp_seconds"].GetMetric()) != 0 {
		t.Errorf("after the refresh: got %v, want 1 critical section and nothing pending", f)
	}

	// A collection takes version 1, but for what a process outside any run uses.
	own := func(c *exec.Cmd) { c.Env = append(c.Env, "LULL_USER_DATA="+t.TempDir()) }
	stray := s.Admin.StartWith(own, filepath.Join(s.Store, "packages", s.inspectV1(v), "bin", "notes"))
	s.Until("the stray runs", limit, func() (bool, string) { return strings.Contains(stray.Log(), "is running"), stray.Log() })
	s.MustLull("gc")
	f = until("the collection is counted", is(1, "lull_collections_total"))
	if f.of("lull_collection_last_strays") != 1 {
		t.Errorf("%v strays, want 1", f.of("lull_collection_last_strays"))
	}
	stray.Stop()
	s.MustLull("gc")
	f = until("the next collection is counted", is(2, "lull_collections_total"))
	v = s.inspect()
	for name, want := range map[string]float64{
		"lull_collection_last_timestamp_seconds": seconds(v.Collected), "lull_collection_last_freed_bytes": float64(v.Collection.Bytes),
		"lull_collection_freed_bytes_total": float64(v.Collection.Bytes), "lull_collection_freed_blobs_total": float64(v.Collection.Blobs),
		"lull_collection_last_strays": 0, "lull_collection_failures_total": 0,
	} {
		if got := f.of(name); got-want > .01 || want-got > .01 {
			t.Errorf("%s is %v, want %v, as inspect reports", name, got, want)
		}
	}
	if v.Collection.Bytes == 0 || v.Collection.Blobs == 0 {
		t.Errorf("the collection is %+v, want some bytes and blobs", v.Collection)
	}
	s.agrees(path)
	// Only the installed packages are left, and that of the system, which was fetched
	// when the service for it looked. They share no blob.
	f = s.figures(path)
	for _, unit := range []string{"blobs", "bytes"} {
		installed, base := f.of("lull_index_"+unit, "index", "installed"), f.of("lull_index_"+unit, "index", "base")
		if all := f.of("lull_store_" + unit); installed+base != all || installed <= 0 || base <= 0 {
			t.Errorf("%v %s are installed and %v are the system's, want some of each and all that are in the store, %v", installed, unit, base, all)
		}
	}

	s.Configure("system.yaml", "") // the doctor would fail because of the package that was never fetched
	s.MustLull("policy", "reload")
	s.rests(folder)

	// A missing directory does not stop the agent, and the doctor reports it.
	if err := os.Rename(folder, folder+"-"); err != nil {
		t.Fatal(err)
	}
	s.MustLull("gc")
	s.Until("the doctor tells", limit, func() (bool, string) {
		out := s.Lull("doctor").Text()
		return strings.Contains(out, "cannot write the metrics in "+path), out
	})
	if err := os.Rename(folder+"-", folder); err != nil {
		t.Fatal(err)
	}
	s.MustLull("remove", sample.Name)
	until("the removal is counted", is(1, "lull_refreshes_total", "kind", "remove", "result", "done"))
	s.StopAgent()
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("the agent has left %v, %v", left, err)
	}
}

// inspectV1 is the package that was installed when v was taken and is not current any more.
func (s *scene) inspectV1(v inspection) string {
	s.Helper()
	p, _ := s.API.Package(sample.Name)
	for _, hash := range v.packages("installed") {
		if hash != p.Str("Hash") {
			return hash
		}
	}
	s.Fatalf("no earlier package in %v", v.Indices["installed"])
	return ""
}

// agrees waits until the file has the values of the agent's answers; blobs are
// not counted too often, so that may be some seconds later.
func (s *scene) agrees(path string) {
	s.Helper()
	v := s.inspect()
	var apps, services float64
	for _, r := range v.Runs {
		if r.Service != "" {
			services++
		} else {
			apps++
		}
	}
	var du struct {
		Used uint64 `json:"used-bytes"`
	}
	s.Decode(s.MustLull("du", "--json"), &du)
	s.Until("the file agrees with what the agent says", 4*limit, func() (bool, string) {
		f, differ := s.figures(path), ""
		same := func(want float64, name string, labels ...string) {
			if got := f.of(name, labels...); got != want {
				differ += fmt.Sprintf("%s %v is %v, not %v\n", name, labels, got, want)
			}
		}
		for name := range v.Indices {
			same(float64(len(v.packages(name))), "lull_index_packages", "index", name)
		}
		same(apps, "lull_runs", "type", "application")
		same(services, "lull_runs", "type", "service")
		same(seconds(v.Repositories.Read["web"]), "lull_repository_last_success_timestamp_seconds", "repository", "web")
		same(float64(du.Used), "lull_store_bytes")
		return differ == "", differ
	})
}

// rests checks that an agent that only gets queries leaves the file alone: the
// kernel would report any change in its directory.
func (s *scene) rests(folder string) {
	s.Helper()
	const quiet = 8 * time.Second // more than twice as long as changes are collected
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		s.Fatalf("%v", err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_ALL_EVENTS&^(unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE)); err != nil {
		s.Fatalf("%v", err)
	}
	next := func(within time.Duration) bool {
		s.Helper()
		for deadline := time.Now().Add(within); ; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(deadline).Milliseconds())))
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				s.Fatalf("%v", err)
			}
			return n > 0
		}
	}
	drain := func() {
		if _, err := unix.Read(fd, make([]byte, 64<<10)); err != nil {
			s.Fatalf("%v", err)
		}
	}
	for next(quiet) { // the end of what was before
		drain()
	}
	for _, question := range []string{"status", "list", "inspect", "doctor", "du", "pending"} {
		s.MustLull(question)
	}
	if next(quiet) {
		s.Errorf("the file was touched although nothing has happened")
	}
	s.MustLull("gc")
	if !next(limit) {
		s.Errorf("nothing tells of changes")
	}
}
