package fleet

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"
)

// kind is one row of the report.
type kind struct {
	name            string
	requests, bytes []int // of each check
}

// kinds sorts the checks of all machines.
func (w *week) kinds() []*kind {
	nothing, news := &kind{name: "nothing new for it"}, &kind{name: "a new version, fetched too"}
	fresh, failed := &kind{name: "the first one of a machine, with five packages"}, &kind{name: "failed, by a fault or an outage"}
	all := &kind{name: "all"}
	for _, m := range w.machines {
		for _, c := range m.checks {
			k := nothing
			switch {
			case c.err != nil:
				k = failed
			case c.fresh:
				k = fresh
			case c.news > 0:
				k = news
			}
			for _, k := range []*kind{k, all} {
				k.requests, k.bytes = append(k.requests, c.requests), append(k.bytes, c.bytes)
			}
		}
	}
	return []*kind{nothing, news, fresh, failed, all}
}

// meanAndWorst are the mean and the 99th percentile.
func meanAndWorst(values []int) (mean float64, worst int) {
	if len(values) == 0 {
		return 0, 0
	}
	slices.Sort(values)
	sum := 0
	for _, v := range values {
		sum += v
	}
	return float64(sum) / float64(len(values)), values[(len(values)-1)*99/100]
}

// table is the report as Markdown.
func (w *week) table(took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d machines, eight days in %.0f s. Faults: ", len(w.machines), took.Seconds())
	for i, f := range faults {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", f, w.network.broken[f])
	}
	b.WriteString(".\n\n| check | number | requests: mean, 99th percentile | kB with headers: mean, 99th percentile |\n| --- | --- | --- | --- |\n")
	for _, k := range w.kinds() {
		requests, worst := meanAndWorst(k.requests)
		bytes, most := meanAndWorst(k.bytes)
		fmt.Fprintf(&b, "| %s | %d | %.2f, %d | %.2f, %.2f |\n", k.name, len(k.requests), requests, worst, bytes/1000, float64(most)/1000)
	}
	perDay := float64(len(w.network.requests)) / float64(len(w.machines)) / 8
	fmt.Fprintf(&b, "\nA machine sends %.1f requests a day. At most %d checks begin within a minute, and %d within ten.\n", perDay, w.herd(time.Minute), w.herd(10*time.Minute))
	return b.String()
}

// bucket is the width of a point of the chart.
const bucket = 10 * time.Minute

//go:embed chart.svg.tmpl
var chartText string

type mark struct {
	X, Y  float64
	Label string
}

// chart draws the requests over time.
func (w *week) chart() ([]byte, error) {
	const left, right, top, bottom = 50.0, 980.0, 110.0, 280.0
	var count [8 * day / bucket]int
	for _, r := range w.network.requests {
		if i := int(r.at.Sub(w.began) / bucket); i < len(count) {
			count[i]++
		}
	}
	perMinute := bucket.Minutes()
	most := float64(slices.Max(count[:])) / perMinute
	x := func(at time.Duration) float64 { return left + (right-left)*float64(at)/float64(8*day) }
	y := func(rate float64) float64 { return bottom - (bottom-top)*rate/most }
	data := struct {
		Title, Description, Path, Date string
		Lines, Days, Marks             []mark
	}{Title: fmt.Sprintf("Requests of %d machines, each minute", len(w.machines)),
		Description: fmt.Sprintf("mean of each ten minutes; at most %.0f, on average %.1f", most, float64(len(w.network.requests))/(8*24*60)),
		Date:        time.Now().UTC().Format("2 January 2006")}
	for i, n := range count {
		verb := "L"
		if i == 0 {
			verb = "M"
		}
		data.Path += fmt.Sprintf("%s%.1f %.1f", verb, x(time.Duration(i)*bucket), y(float64(n)/perMinute))
	}
	for d := range 9 {
		data.Days = append(data.Days, mark{X: x(time.Duration(d) * day), Label: fmt.Sprint(d)})
	}
	for _, part := range []float64{0, 0.5, 1} {
		data.Lines = append(data.Lines, mark{Y: y(most * part), Label: fmt.Sprintf("%.0f", most*part)})
	}
	for i, e := range w.events() {
		if e.label != "" {
			data.Marks = append(data.Marks, mark{x(e.at), float64(60 + i%4*12), e.label})
		}
	}
	t, err := template.New("chart").Parse(chartText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// The text around the figures in docs/fleet.md.
const (
	figuresBegin = "<!-- What follows is written by make fleet. -->\n"
	figuresEnd   = "<!-- What precedes is written by make fleet. -->\n"
)

// report logs what the week has cost. With LULL_FLEET_DOCS it writes that into the documents of
// a directory.
func (w *week) report(took time.Duration) {
	w.Helper()
	table := w.table(took)
	w.Log("\n" + table)
	if path := os.Getenv("LULL_FLEET_FIGURES"); path != "" {
		bytes := 0
		for _, t := range w.network.traffic {
			bytes += t.bytes
		}
		days := float64(len(w.machines)) * 8
		figures, err := json.Marshal(struct{ Requests, Bytes, PerMinute float64 }{float64(len(w.network.requests)) / days, float64(bytes) / days, float64(w.herd(time.Minute))})
		must(w.T, err)
		must(w.T, os.WriteFile(path, figures, 0o644))
	}
	dir := os.Getenv("LULL_FLEET_DOCS")
	if dir == "" || w.Failed() {
		return
	}
	path := filepath.Join(dir, "fleet.md")
	page, err := os.ReadFile(path)
	must(w.T, err)
	before, rest, ok := strings.Cut(string(page), figuresBegin)
	_, after, end := strings.Cut(rest, figuresEnd)
	if !ok || !end {
		w.Fatalf("%s has no place for the figures", path)
	}
	svg, err := w.chart()
	must(w.T, err)
	must(w.T, os.WriteFile(path, []byte(before+figuresBegin+"\n"+table+"\n"+figuresEnd+after), 0o644))
	must(w.T, os.WriteFile(filepath.Join(dir, "fleet.svg"), svg, 0o644))
}
