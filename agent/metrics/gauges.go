package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges shows the state. Gathering runs with the lock of Metrics held.
type gauges struct{ m *Metrics }

// gauge is one figure and its derivation from the state.
type gauge struct {
	desc *prometheus.Desc
	of   func(m *Metrics, put func(value float64, labels ...string))
}

func newGauge(name, help string, of func(m *Metrics, put func(float64, ...string)), labels ...string) gauge {
	return gauge{prometheus.NewDesc(name, help, labels, nil), of}
}

// moment puts a time as seconds since the epoch, unless it is zero.
func moment(put func(float64, ...string), t time.Time, labels ...string) {
	if !t.IsZero() {
		put(float64(t.UnixMilli())/1000, labels...)
	}
}

// index puts a figure of each index.
func index(figure func(Amount) float64) func(*Metrics, func(float64, ...string)) {
	return func(m *Metrics, put func(float64, ...string)) {
		for name, a := range m.state.Indices {
			put(figure(a), name)
		}
	}
}

// last puts a figure of the last collection.
func last(figure func(Collection) float64) func(*Metrics, func(float64, ...string)) {
	return func(m *Metrics, put func(float64, ...string)) {
		if !m.last.Ended.IsZero() {
			put(figure(m.last))
		}
	}
}

var allGauges = []gauge{
	newGauge("lull_build_info", "Always 1; which lull this is.",
		func(m *Metrics, put func(float64, ...string)) { put(1, m.build[0], m.build[1]) }, "version", "goversion"),
	newGauge("lull_start_time_seconds", "When the agent started; what is counted is counted since then.",
		func(m *Metrics, put func(float64, ...string)) { moment(put, m.start) }),

	newGauge("lull_index_packages", "Packages that the index protects, their subpackages included.",
		index(func(a Amount) float64 { return float64(a.Packages) }), "index"),
	newGauge("lull_index_blobs", "Blobs that the index protects, each counted once.",
		index(func(a Amount) float64 { return float64(a.Blobs) }), "index"),
	newGauge("lull_index_bytes", "Bytes of the blobs that the index protects, each counted once.",
		index(func(a Amount) float64 { return float64(a.Bytes) }), "index"),

	newGauge("lull_store_blobs", "Blobs in the store.",
		func(m *Metrics, put func(float64, ...string)) { put(float64(m.state.Store.Blobs)) }),
	newGauge("lull_store_bytes", "Bytes of the blobs in the store.",
		func(m *Metrics, put func(float64, ...string)) { put(float64(m.state.Store.Bytes)) }),
	newGauge("lull_store_free_bytes", "Bytes that were free on the store's file system when this was written.",
		func(m *Metrics, put func(float64, ...string)) { put(float64(m.state.Free)) }),

	newGauge("lull_collection_last_timestamp_seconds", "When the last collection that did not fail ended.",
		func(m *Metrics, put func(float64, ...string)) { moment(put, m.last.Ended) }),
	newGauge("lull_collection_last_duration_seconds", "How long the last collection that did not fail took.",
		last(func(c Collection) float64 { return c.Took.Seconds() })),
	newGauge("lull_collection_last_freed_bytes", "Bytes that the last collection that did not fail has freed.",
		last(func(c Collection) float64 { return float64(c.Bytes) })),
	newGauge("lull_collection_last_strays", "Processes outside any run that used a package, seen by the last collection that did not fail.",
		last(func(c Collection) float64 { return float64(c.Strays) })),

	newGauge("lull_installed_info", "Always 1; the current version of an instance.",
		func(m *Metrics, put func(float64, ...string)) {
			for _, i := range m.state.Installed {
				put(1, i.Instance, i.Version)
			}
		}, "instance", "version"),
	newGauge("lull_refresh_stuck", "Always 1; the refresh could not be undone and waits for lull refresh --retry.",
		func(m *Metrics, put func(float64, ...string)) {
			for _, r := range m.state.Stuck {
				put(1, r.Instance, r.Version)
			}
		}, "instance", "version"),
	newGauge("lull_refresh_undone_timestamp_seconds", "When an update was last undone that has not succeeded since.",
		func(m *Metrics, put func(float64, ...string)) {
			for _, r := range m.state.Undone {
				moment(put, r.At, r.Instance, r.Version)
			}
		}, "instance", "version"),
	newGauge("lull_refreshes_pending", "Refreshes that are prepared and wait, by what they wait for.", pending, "waits_for"),
	newGauge("lull_refresh_pending_since_timestamp_seconds", "Since when a prepared refresh waits: its postponement began then.",
		func(m *Metrics, put func(float64, ...string)) {
			for _, p := range m.state.Pending {
				moment(put, p.Since, p.Instance, p.Version, p.Urgency)
			}
		}, "instance", "version", "urgency"),
	newGauge("lull_refresh_last_success_timestamp_seconds", "When something was last installed or refreshed.",
		func(m *Metrics, put func(float64, ...string)) { moment(put, m.state.LastRefresh) }),

	newGauge("lull_repository_last_success_timestamp_seconds", "When the repository was last read and believed.",
		func(m *Metrics, put func(float64, ...string)) {
			for name, at := range m.state.Repositories {
				moment(put, at, name)
			}
		}, "repository"),

	newGauge("lull_runs", "Runs of applications and services that are alive.",
		func(m *Metrics, put func(float64, ...string)) {
			if r := m.state.Runs; r != nil {
				put(float64(r.Applications), "application")
				put(float64(r.Services), "service")
			}
		}, "type"),
	newGauge("lull_services_failed", "Services of the current version of an instance that have failed; an instance without services is not listed.",
		func(m *Metrics, put func(float64, ...string)) {
			for _, s := range m.state.Services {
				put(float64(s.Failed), s.Instance, s.Version.Version)
			}
		}, "instance", "version"),
}

func pending(m *Metrics, put func(float64, ...string)) {
	count := map[string]int{}
	for _, p := range m.state.Pending {
		count[p.WaitsFor]++
	}
	for _, w := range []string{ForApplications, ForHold, ForOther} {
		put(float64(count[w]), w)
	}
}

// Describe implements prometheus.Collector.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	for _, x := range allGauges {
		to <- x.desc
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	for _, x := range allGauges {
		x.of(g.m, func(value float64, labels ...string) {
			for i, l := range labels {
				labels[i] = strings.ToValidUTF8(l, "\uFFFD") // invalid UTF-8 would make the whole gathering fail
			}
			to <- prometheus.MustNewConstMetric(x.desc, prometheus.GaugeValue, value, labels...)
		})
	}
}
