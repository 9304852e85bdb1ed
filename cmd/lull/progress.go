package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/godbus/dbus/v5"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	bus "github.com/lull/lull/dbus"
)

// progress returns bars where stderr is a terminal, one line per step where it
// is not, and nothing where the output is for programs.
func (a *app) progress() progress {
	switch {
	case a.json:
		return quiet{}
	case isTerminal(a.stderr):
		return newBars(a.stderr, max(20, min(a.errWidth, 80)))
	}
	return &lines{w: a.stderr, last: map[dbus.ObjectPath]string{}}
}

type quiet struct{}

func (quiet) update(dbus.ObjectPath, bus.RefreshProperties) {}
func (quiet) close()                                        {}

// stepWords say what happens in a step.
var stepWords = map[string]string{
	"resolve":        "looking for what is needed",
	"fetch":          "downloading",
	"stage":          "unpacking",
	"precopy":        "copying data",
	"wait":           "waiting until it is closed",
	"inhibit":        "keeping it from starting",
	"stop-services":  "stopping services",
	"copy":           "copying what has changed",
	"link":           "switching over",
	"start-services": "starting services",
	"health":         "checking that it works",
	"uninhibit":      "letting it start again",
	"finish":         "tidying up",

	"system-resolve": "looking for what is needed",
	"system-images":  "downloading what installs it",
	"system-install": "installing images",
	"system-set":     "downloading the system",
}

// downloads says whether bytes are counted in a step.
func downloads(step string) bool {
	return step == "fetch" || step == "system-images" || step == "system-set"
}

func stepText(p bus.RefreshProperties) string {
	if p.State == "undoing" {
		return "going back"
	}
	if p.State == "waiting" && p.Step == "fetch" {
		return "waiting to be downloaded"
	}
	if p.State == "waiting" && len(p.Conditions) > 0 && len(p.Waiting) == 0 {
		return "waiting"
	}
	if w, ok := stepWords[p.Step]; ok {
		return w
	}
	return either(p.Step, "starting")
}

// lines prints one line per step.
type lines struct {
	w    io.Writer
	last map[dbus.ObjectPath]string
}

func (l *lines) update(path dbus.ObjectPath, p bus.RefreshProperties) {
	text := stepText(p)
	if over(p.State) || p.Instance == "" || p.State == "waiting" || l.last[path] == text {
		return // what becomes of it is said at the end
	}
	l.last[path] = text
	if downloads(p.Step) && p.BytesTotal > p.BytesDone {
		text += " " + size(p.BytesTotal-p.BytesDone)
	}
	fmt.Fprintln(l.w, oneLine(p.Instance+": "+text))
}

func (l *lines) close() {}

// bars shows one bar for each refresh.
type bars struct {
	p     *mpb.Progress
	width int
	all   map[dbus.ObjectPath]*bar
}

func newBars(w io.Writer, width int) *bars {
	return &bars{p: mpb.New(mpb.WithOutput(w), mpb.WithWidth(width), mpb.WithAutoRefresh()), width: width, all: map[dbus.ObjectPath]*bar{}}
}

type bar struct {
	bar  *mpb.Bar
	text *label
}

// label is text that the goroutine of the bars reads while ours writes it.
type label struct{ c chan string } // holds the text while nobody uses it

func newLabel() *label {
	l := &label{make(chan string, 1)}
	l.c <- ""
	return l
}

func (l *label) set(s string) {
	<-l.c
	l.c <- s
}

func (l *label) get() string {
	s := <-l.c
	l.c <- s
	return s
}

func (b *bars) update(path dbus.ObjectPath, p bus.RefreshProperties) {
	one := b.all[path]
	if one == nil {
		one = &bar{text: newLabel()}
		text := one.text
		name := cut(oneLine(p.Instance), b.width/3)
		one.bar = b.p.AddBar(0,
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(name+"  ")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + text.get() })),
		)
		b.all[path] = one
	}
	text := stepText(p)
	if downloads(p.Step) && p.BytesTotal > 0 {
		text = humanize.Bytes(p.BytesDone) + " of " + humanize.Bytes(p.BytesTotal)
	}
	one.text.set(cut(text, b.width/3))
	const most = 1 << 62
	one.bar.SetTotal(int64(max(1, min(p.BytesTotal, most))), false)
	one.bar.SetCurrent(int64(min(p.BytesDone, p.BytesTotal, most)))
	if over(p.State) || p.State == "waiting" {
		one.bar.Abort(true)
	}
}

// close takes the bars away: what remains is said in words.
func (b *bars) close() {
	for _, one := range b.all {
		one.bar.Abort(true)
	}
	b.p.Wait()
}
