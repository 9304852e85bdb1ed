package output

import (
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	bus "github.com/lull/lull/dbus"
)

// Progress shows the progress of refreshes.
type Progress interface {
	Update(dbus.ObjectPath, bus.RefreshProperties)
	Close()
}

// Progress returns bars if stderr is a terminal, else one line per step, and no output if the
// output is for programs.
func (a *Printer) Progress() Progress {
	switch {
	case a.JSON:
		return quiet{}
	case IsTerminal(a.Stderr) && !asLines():
		return newBars(a.Stderr, max(20, min(a.ErrWidth, 80)))
	}
	return &lines{w: a.Stderr, last: map[dbus.ObjectPath]string{}, sized: sized{}}
}

// NoProgress shows nothing.
func NoProgress() Progress { return quiet{} }

type quiet struct{}

func (quiet) Update(dbus.ObjectPath, bus.RefreshProperties) {}
func (quiet) Close()                                        {}

// stepWords describe the steps.
var stepWords = map[string]string{
	"resolve":        Mark("looking for what is needed"),
	"fetch":          Mark("downloading"),
	"stage":          Mark("unpacking"),
	"precopy":        Mark("copying data"),
	"wait":           Mark("waiting until it is closed"),
	"inhibit":        Mark("holding back launches"),
	"stop-services":  Mark("stopping services"),
	"copy":           Mark("copying what has changed"),
	"link":           Mark("switching over"),
	"start-services": Mark("starting services"),
	"health":         Mark("checking that it works"),
	"uninhibit":      Mark("allowing launches"),
	"finish":         Mark("cleaning up"),
	"verify":         Mark("checking"),
	"collect":        Mark("collecting"),
	"convert":        Mark("reading the file"),
	"compress":       Mark("compressing"),

	"system-resolve":  Mark("looking for what is needed"),
	"system-images":   Mark("downloading what installs it"),
	"system-install":  Mark("installing images"),
	"system-set":      Mark("downloading the system"),
	"system-activate": Mark("activating the system"),
}

// downloads reports whether a step counts bytes.
func downloads(step string) bool {
	return step == "fetch" || step == "verify" || step == "convert" || step == "compress" || step == "system-images" || step == "system-set"
}

func StepText(p bus.RefreshProperties) string {
	switch p.State {
	case "undoing":
		return T("going back")
	case Stuck:
		return T("stuck: %s", OneLine(p.ErrorText))
	}
	if p.State == "waiting" && p.Step == "fetch" {
		return T("waiting to be downloaded")
	}
	if p.State == "waiting" && len(p.Conditions) > 0 && len(p.Waiting) == 0 {
		return T("waiting")
	}
	if w, ok := stepWords[p.Step]; ok {
		return Marked(w)
	}
	return Either(p.Step, T("starting"))
}

// sized has the refreshes whose sizes were shown.
type sized map[dbus.ObjectPath]bool

// text returns once, as soon as it is known, how much a refresh downloads and how much space
// on the disk that takes; "" at other times.
func (s sized) text(path dbus.ObjectPath, p bus.RefreshProperties) string {
	if p.BytesToFetch == 0 || p.Instance == "" || s[path] {
		return ""
	}
	s[path] = true
	return OneLine(p.Instance+": ") + T("%[1]s to download, %[2]s to write", Size(p.BytesToFetch), Size(p.BytesToWrite))
}

// lines prints one line per step, and the sizes before the download.
type lines struct {
	w    io.Writer
	last map[dbus.ObjectPath]string
	sized
}

func (l *lines) Update(path dbus.ObjectPath, p bus.RefreshProperties) {
	if sizes := l.sized.text(path, p); sizes != "" {
		fmt.Fprintln(l.w, sizes)
	}
	text := StepText(p)
	if Over(p.State) || p.State == Stuck || p.Instance == "" || p.State == "waiting" || l.last[path] == text {
		return // its result is reported at the end
	}
	l.last[path] = text
	if downloads(p.Step) && p.BytesTotal > p.BytesDone && !l.sized[path] {
		text += " " + Size(p.BytesTotal-p.BytesDone)
	}
	fmt.Fprintln(l.w, OneLine(p.Instance+": "+text))
}

func (l *lines) Close() {}

// bars shows one bar for each refresh.
type bars struct {
	p     *mpb.Progress
	width int
	all   map[dbus.ObjectPath]*bar
	sized
}

func newBars(w io.Writer, width int) *bars {
	return &bars{p: mpb.New(mpb.WithOutput(w), mpb.WithWidth(width), mpb.WithAutoRefresh()), width: width, all: map[dbus.ObjectPath]*bar{}, sized: sized{}}
}

type bar struct {
	bar  *mpb.Bar
	text *label
	rate rate
}

// rate is the speed of a step's download, on average since it began here.
type rate struct {
	step  string
	since time.Time
	from  uint64 // bytes that existed at that time
}

// rateAfter is the time before a rate is shown: an earlier one is inexact.
const rateAfter = time.Second

// leftAtMost bounds the remaining time that is shown: later the speed will have changed.
const leftAtMost = 100 * time.Hour

// text returns the progress of a download and, in at most room columns, its speed and the
// remaining time.
func (r *rate) text(now time.Time, p bus.RefreshProperties, room int) string {
	if r.step != p.Step || p.BytesDone < r.from {
		*r = rate{p.Step, now, p.BytesDone}
	}
	text := T("%[1]s of %[2]s", Size(p.BytesDone), Size(p.BytesTotal))
	spent := now.Sub(r.since)
	if spent < rateAfter || p.BytesDone == r.from || p.BytesDone >= p.BytesTotal {
		return text
	}
	speed := float64(p.BytesDone-r.from) / spent.Seconds()
	parts := []string{", " + Size(uint64(speed)) + "/s"}
	if left := float64(p.BytesTotal-p.BytesDone) / speed; left < leftAtMost.Seconds() {
		parts = append(parts, ", "+T("%s left", clock(time.Duration(left*float64(time.Second)))))
	}
	for _, more := range parts {
		if utf8.RuneCountInString(text+more) > room {
			break
		}
		text += more
	}
	return text
}

// label is a text that the goroutine of the bars reads while the caller writes it.
type label struct{ c chan string } // holds the text while it is not in use

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

func (b *bars) Update(path dbus.ObjectPath, p bus.RefreshProperties) {
	if sizes := b.sized.text(path, p); sizes != "" {
		_, _ = fmt.Fprintln(b.p, sizes) // above the bars; what it cannot write, they cannot
	}
	one := b.all[path]
	if one == nil {
		one = &bar{text: newLabel()}
		text := one.text
		name := Cut(OneLine(p.Instance), b.width/3)
		one.bar = b.p.AddBar(0,
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(name+"  ")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + text.get() })),
		)
		b.all[path] = one
	}
	text := StepText(p)
	room := b.width / 3
	if downloads(p.Step) && p.BytesTotal > 0 {
		room = b.width / 2
		text = one.rate.text(time.Now(), p, room)
	}
	one.text.set(Cut(text, room))
	const most = 1 << 62
	one.bar.SetTotal(int64(max(1, min(p.BytesTotal, most))), false)
	one.bar.SetCurrent(int64(min(p.BytesDone, p.BytesTotal, most)))
	if Over(p.State) || p.State == "waiting" {
		one.bar.Abort(true)
	}
}

// close removes the bars; words report the rest.
func (b *bars) Close() {
	for _, one := range b.all {
		one.bar.Abort(true)
	}
	b.p.Wait()
}
