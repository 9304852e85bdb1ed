package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"strings"
	"text/template"
)

// The chart shows each row as a part of its goal: up to the line it holds. The
// scale is logarithmic, because some are far from it.
//
//go:embed chart.svg.tmpl
var chartText string

var chartTemplate = template.Must(template.New("chart").Parse(chartText))

// The plot, in pixels.
const (
	chartLeft  = 280 // where bars begin
	chartRight = 840
	chartTop   = 74
	rowHeight  = 42
	barLeast   = 4    // of a row that uses nothing of its goal
	scaleLow   = 0.02 // parts of a goal
	scaleHigh  = 5.0
)

type chartRow struct {
	ID, What, Figure string
	Y, Width         float64
	Holds            bool
}

type chartTick struct {
	X     float64
	Label string
	Goal  bool
}

// chart draws the report.
func (rep *report) chart() ([]byte, error) {
	height := float64(chartTop + rowHeight*len(rep.Rows) + 58)
	data := struct {
		Rows                       []chartRow
		Ticks                      []chartTick
		Left, Top, Bottom, Height  float64
		Machine, Date, Description string
	}{Left: chartLeft, Top: chartTop, Bottom: float64(chartTop + rowHeight*len(rep.Rows)), Height: height,
		Machine: escape(rep.Machine["cpu"] + ", Linux " + rep.Machine["kernel"]), Date: rep.Date}
	for _, part := range []float64{0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5} {
		label := fmt.Sprintf("%g×", part)
		if part == 1 {
			label = "goal"
		}
		data.Ticks = append(data.Ticks, chartTick{X: across(part), Label: label, Goal: part == 1})
	}
	var words []string
	for i, r := range rep.Rows {
		data.Rows = append(data.Rows, chartRow{ID: r.ID, What: escape(r.What), Figure: escape(r.chartFigure()),
			Y: float64(chartTop + rowHeight*i), Width: max(across(r.part())-chartLeft, barLeast), Holds: r.Holds})
		words = append(words, r.ID+": "+r.chartFigure())
	}
	data.Description = escape(strings.Join(words, "; "))
	var b bytes.Buffer
	if err := chartTemplate.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("cannot draw the chart: %w", err)
	}
	return b.Bytes(), nil
}

// part is how much of its goal a row has used up; above 1 it misses it.
func (r *result) part() float64 {
	bounded := r.Ours
	if r.Ratio != nil {
		bounded = *r.Ratio
	}
	switch {
	case r.Goal > 0:
		return bounded / r.Goal
	case bounded > 0:
		return math.Inf(1)
	}
	return 0
}

// across is where a part of a goal is on the scale; what is beyond its ends is at
// them.
func across(part float64) float64 {
	part = min(max(part, scaleLow), scaleHigh)
	return chartLeft + (chartRight-chartLeft)*math.Log(part/scaleLow)/math.Log(scaleHigh/scaleLow)
}

func (r *result) chartFigure() string {
	if r.Ratio != nil {
		return fmt.Sprintf("%s× of %s, goal %s", figure(r.Ratio), r.Peer, r.goalText())
	}
	return fmt.Sprintf("%s %s, goal %s", figure(&r.Ours), r.Unit, r.goalText())
}

func escape(s string) string {
	var b bytes.Buffer
	template.HTMLEscape(&b, []byte(s))
	return b.String()
}
