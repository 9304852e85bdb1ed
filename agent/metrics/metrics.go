// Package metrics converts the activity of the agent to figures for Prometheus: in its text
// format, in a file that the textfile collector of the node exporter reads. It is the only
// package that uses Prometheus' library.
//
// Words: a State is a set of values at a moment; its figures are gauges. Events (a
// collection, the end of a refresh) are counted here, from the start of the agent on. A
// reader sees by lull_start_time_seconds that the counters were reset. No figure changes by
// the passing of time alone: ages are given as their start time, so that a file without new
// events is still correct an hour later.
//
// Unknown figures are left out: an event that has not occurred since the agent started has no
// time. docs/metrics.md lists all of them; a test compares.
//
// A Metrics may be used from any goroutine. Only Replace and Remove block, on the disk.
package metrics

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// Amount is a quantity of content: each blob and package counts once.
type Amount struct {
	Packages, Blobs int
	Bytes           int64
}

// The reasons why a refresh is pending.
const (
	ForApplications = "applications"
	ForHold         = "hold"
	ForOther        = "other" // a root that is read-only, the members of its group
)

// Pending is a refresh that waits.
type Pending struct {
	Instance, Version, Urgency string
	WaitsFor                   string
	Since                      time.Time // zero means that its time has not begun, as during an administrator's hold
}

// Version is the current version of an instance.
type Version struct{ Instance, Version string }

// Services counts the services of an instance's current version.
type Services struct {
	Version
	Services int
	Failed   int
}

// Trouble is an unsuccessful update of an instance.
type Trouble struct {
	Instance, Version string
	At                time.Time // when it was undone; zero means unknown
}

// State is the set of values at a moment.
type State struct {
	Indices      map[string]Amount // the content that each of the indices reaches
	Store        Amount            // without Packages
	Free         int64             // bytes
	Repositories map[string]time.Time
	Pending      []Pending
	Installed    []Version
	Stuck        []Trouble // refreshes that need an administrator
	Undone       []Trouble // updates that were undone and will be retried
	Services     []Services
	LastRefresh  time.Time // of the last refresh or installation; zero means never
	Runs         *Runs     // nil means that it is unknown
}

// Runs counts running applications and services.
type Runs struct{ Applications, Services int }

// Collection is the result of a collection.
type Collection struct {
	Ended  time.Time
	Took   time.Duration
	Blobs  int // freed
	Bytes  int64
	Strays int // processes outside any run that use a package
	Failed bool
}

// Metrics counts events, and writes all figures.
type Metrics struct {
	registry    *prometheus.Registry
	refreshes   *prometheus.CounterVec
	sections    *prometheus.HistogramVec
	deltas      *prometheus.CounterVec
	collections prometheus.Counter
	failures    prometheus.Counter
	freedBytes  prometheus.Counter
	freedBlobs  prometheus.Counter

	mu    sync.Mutex // guards the fields below; held while all figures are gathered
	state State
	last  Collection // the last one that succeeded
	build [2]string
	start time.Time
}

// New starts counting. Kinds and results are the values for Refreshed and HeldOff. Each is
// shown from the beginning, so that a reader can see the first event as an increase.
func New(version string, start time.Time, kinds, results []string) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lull_refreshes_total",
			Help: "Refreshes, installations, reverts and removals that have ended, by result."}, []string{"kind", "result"}),
		sections: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lull_critical_section_seconds",
			Help:    "How long launches of an application were held off by a critical section.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}}, []string{"kind"}),
		deltas: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lull_deltas_total",
			Help: "Delta packs that were used instead of whole blobs, or that failed, so that whole blobs were fetched."}, []string{"result"}),
		collections: counter("lull_collections_total", "Collections that have ended, those that failed among them."),
		failures:    counter("lull_collection_failures_total", "Collections that have failed."),
		freedBytes:  counter("lull_collection_freed_bytes_total", "Bytes that collections have freed."),
		freedBlobs:  counter("lull_collection_freed_blobs_total", "Blobs that collections have taken away."),
		build:       [2]string{version, runtime.Version()},
		start:       start,
	}
	for _, k := range kinds {
		m.sections.WithLabelValues(k)
		for _, r := range results {
			m.refreshes.WithLabelValues(k, r)
		}
	}
	for _, r := range deltaResults {
		m.deltas.WithLabelValues(r)
	}
	m.registry.MustRegister(m.refreshes, m.sections, m.deltas, m.collections, m.failures, m.freedBytes, m.freedBlobs, gauges{m})
	return m
}

// Refreshed counts the end of a refresh.
func (m *Metrics) Refreshed(kind, result string) { m.refreshes.WithLabelValues(kind, result).Inc() }

// deltaResults are the values of the label of lull_deltas_total.
var deltaResults = [...]string{"used", "failed"}

// DeltaUsed counts a delta pack.
func (m *Metrics) DeltaUsed(failed bool) {
	result := deltaResults[0]
	if failed {
		result = deltaResults[1]
	}
	m.deltas.WithLabelValues(result).Inc()
}

// HeldOff counts a critical section that has ended.
func (m *Metrics) HeldOff(kind string, d time.Duration) {
	m.sections.WithLabelValues(kind).Observe(max(d, 0).Seconds())
}

// Collected counts a collection.
func (m *Metrics) Collected(c Collection) {
	m.collections.Inc()
	m.freedBytes.Add(float64(c.Bytes))
	m.freedBlobs.Add(float64(c.Blobs))
	if c.Failed {
		m.failures.Inc()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = c
}

// Text returns all figures in Prometheus' text format.
func (m *Metrics) Text(s State) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	families, err := m.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("cannot gather the metrics: %w", err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			return nil, fmt.Errorf("cannot write the metrics: %w", err)
		}
	}
	return text.Bytes(), nil
}
