package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/texts"
	"github.com/lull/lull/agent/lib/words"
)

const (
	security = "security"

	keepWaiting = "keep-waiting"
	sideBySide  = "side-by-side"
	terminate   = "terminate"

	maxName    = 40  // of an application, in characters
	maxVersion = 24  // of a version
	maxNotes   = 160 // of what is new

	// doneFor is how long the news of an update that is done stays.
	doneFor = 10 * time.Second
)

// of begins a notice about an application.
func of(kind Kind, refresh, instance, appName, desktop, icon string) Notice {
	return Notice{Kind: kind, Refresh: refresh, Instance: instance, App: name(appName, instance), DesktopEntry: entry(desktop), Icon: icon}
}

// ready is the notice of a refresh that waits. It describes what will happen,
// and by which action.
func (c *Core) ready(p Pending, now time.Time) Notice {
	n := of(Ready, p.ID, p.Instance, p.Name, p.DesktopEntry, p.Icon)
	if v := clean(p.ToVersion, maxVersion); v != "" {
		n.Summary = c.Texts.T("%[1]s %[2]s is ready", n.App, v)
	} else {
		n.Summary = c.Texts.T("An update of %s is ready", n.App)
	}
	near := c.Schedule.near(p, now)
	if near || p.Urgency == security {
		n.Urgency = Normal
	}
	// Two effects: it is restarted now, or updated when it is closed. A click on the
	// notice, and taking it away, are the second one.
	if len(p.Conditions) == 0 {
		n.Buttons = []Button{{RestartNow, c.Texts.T("Restart now")}, {WhenClosed, c.Texts.T("When I close it")}}
	}
	if c.helpsToLogOut(p) { // there is nothing to close
		n.Buttons[1] = Button{LogOut, c.Texts.T("Log out…")}
	}
	n.Buttons = append(n.Buttons, Button{Default, c.clickLabel(n.Buttons)})
	n.Body = c.consequence(p, near, now)
	if p.Urgency == security {
		n.Body = c.Texts.T("It fixes a security problem.") + " " + n.Body
	}
	if len(p.Conditions) == 0 && !p.QuitHook && (p.AtDeadline != terminate || p.Deadline.IsZero()) {
		n.Body += " " + c.Texts.T("Save your work before you restart it.")
	}
	if notes := clean(p.Notes, maxNotes); notes != "" {
		n.Body += "\n" + c.Texts.T("New: %s", notes)
	}
	return n
}

// clickLabel is the label of a click on the notice. Plasma's list of notifications shows it
// as one more button, unless another button has the same label.
func (c *Core) clickLabel(buttons []Button) string {
	for _, b := range buttons {
		if b.Action == WhenClosed {
			return b.Label
		}
	}
	return c.Texts.T("OK")
}

// helpsToLogOut reports whether a refresh waits for programs that the user has not started
// and has no window to close, in a session that the desktop can end.
func (c *Core) helpsToLogOut(p Pending) bool {
	return c.mayLogOut && p.Background && len(p.Conditions) == 0
}

// consequence describes what will happen to a refresh that waits.
func (c *Core) consequence(p Pending, near bool, now time.Time) string {
	if len(p.Conditions) > 0 {
		return c.conditional(p, near, now)
	}
	switch {
	case p.Background && p.RestartBackground:
		return c.Texts.T("It runs in the background. It will be updated when the computer is not in use, or when you restart it or log out.")
	case p.Background && p.AtDeadline != terminate:
		return c.Texts.T("It runs in the background. It will be updated when you restart it or log out.")
	case p.AtDeadline == terminate && !p.Deadline.IsZero():
		// Shown from the first day: work may be lost.
		return c.Texts.T("It will be installed when you close it. If it is still open %s, it will be closed then: save your work before.", c.when(p.Deadline, now))
	case near && p.AtDeadline == sideBySide && now.Before(p.Deadline):
		if v := clean(p.FromVersion, maxVersion); v != "" {
			return c.Texts.T("It will be installed when you close it, at the latest %[1]s. If it is open then, it stays on version %[2]s until you close it.", c.when(p.Deadline, now), v)
		}
		return c.Texts.T("It will be installed when you close it, at the latest %s. If it is open then, it stays as it is until you close it.", c.when(p.Deadline, now))
	case near && p.AtDeadline != sideBySide:
		return c.Texts.T("It will be installed when you close it, at the latest when you log out.")
	}
	return c.Texts.T("It will be installed when you close it.")
}

// conditional is the consequence where closing the application is not enough: policy
// requires something of the machine that is not so. At the deadline that ends.
func (c *Core) conditional(p Pending, near bool, now time.Time) string {
	text := ""
	switch strings.Join(p.Conditions, " ") {
	case "mains":
		text = c.Texts.T("It will be installed once it is closed and the computer does not run on battery.")
	case "idle":
		text = c.Texts.T("It will be installed once it is closed and the computer is not in use.")
	case "window":
		text = c.Texts.T("It will be installed once it is closed, in the next maintenance window.")
	default:
		text = c.Texts.T("It will be installed once it is closed and the computer is ready for it.")
	}
	switch {
	case p.AtDeadline == terminate && !p.Deadline.IsZero():
		text += " " + c.Texts.T("If it is still open %s, it will be closed then: save your work before.", c.when(p.Deadline, now))
	case near && p.AtDeadline == sideBySide && now.Before(p.Deadline):
		text += " " + c.Texts.T("It will be installed %s at the latest, and an open one stays as it is.", c.when(p.Deadline, now))
	}
	return text
}

// maxOthers is how many programs are named that an application has started.
const maxOthers = 3

// others names the programs that an application has started and that still run; "" if
// there are none.
func others(p Pending) string {
	var list []string
	for _, q := range p.Processes {
		if n := clean(q.Command, maxName); q.Other && n != "" && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	if len(list) > maxOthers {
		list = append(list[:maxOthers], "…")
	}
	return strings.Join(list, ", ")
}

// open is the notice of an application that was asked to quit and did not.
func (c *Core) open(p Pending, now time.Time) Notice {
	n := c.ready(p, now)
	n.Kind = Open
	n.Urgency = Normal // the person is waiting for it
	n.Summary = c.Texts.T("%s is still open", n.App)
	if v := clean(p.ToVersion, maxVersion); v != "" {
		n.Body = c.Texts.T("It may be waiting for you, to save your work for example. When it is closed, version %s will be installed and it will start again.", v)
	} else {
		n.Body = c.Texts.T("It may be waiting for you, to save your work for example. When it is closed, the new version will be installed and it will start again.")
	}
	if names := others(p); names != "" {
		if slices.ContainsFunc(p.Processes, func(q Process) bool { return !q.Other }) {
			n.Body += " " + c.Texts.T("Programs that it has started have to be closed, too: %s.", names)
		} else {
			n.Summary = c.Texts.T("Programs of %s are still open", n.App)
			n.Body = c.Texts.T("It has started programs that have to be closed before it can be updated: %s.", names)
		}
	}
	n.Buttons = []Button{{RestartNow, c.Texts.T("Try again")}, {WhenClosed, c.Texts.T("Do not start it again")}, {Default, c.Texts.T("OK")}}
	if c.helpsToLogOut(p) { // the next session starts without it: three buttons are enough
		n.Buttons[1] = Button{LogOut, c.Texts.T("Log out…")}
	}
	return n
}

// after is the notice of a refresh that is done.
func (c *Core) after(d Done, restarted bool) Notice {
	n := of(After, d.ID, d.Instance, d.Name, d.DesktopEntry, d.Icon)
	n.Summary, n.Expire = c.Texts.T("%s was updated", n.App), doneFor
	if v := clean(d.ToVersion, maxVersion); v != "" {
		n.Body = c.Texts.T("It is now version %s.", v)
	}
	if restarted {
		n.Body = strings.TrimSpace(n.Body + " " + c.Texts.T("It is starting again."))
	}
	return n
}

// failed is the notice of an update that was undone because it did not work.
func (c *Core) failed(p Pending) Notice {
	n := of(Undone, p.ID, p.Instance, p.Name, p.DesktopEntry, p.Icon)
	n.Urgency = Normal
	n.Summary = c.Texts.T("The update of %s did not work", n.App)
	if v := clean(p.FromVersion, maxVersion); v != "" {
		n.Body = c.Texts.T("It is version %s again, with all of its data. The update will be retried later.", v)
	} else {
		n.Body = c.Texts.T("It is as it was before, with all of its data. The update will be retried later.")
	}
	return n
}

// maxPath is how much of a path is shown, in characters.
const maxPath = 120

// lacks is the notice of data that could not be brought over; p is the refresh that was
// pending last, for its icon.
func (c *Core) lacks(e DataIncomplete, p Pending) Notice {
	n := of(Lacks, p.ID, e.Instance, e.Name, p.DesktopEntry, p.Icon)
	n.Urgency = Normal
	first, directory := clean(e.First, maxPath), clean(e.Directory, maxPath)
	if e.Count == 1 {
		n.Summary = c.Texts.T("A file of %s could not be brought over", n.App)
		n.Body = c.Texts.T("The new version works without %[1]s, which is still in %[2]s.", first, directory)
	} else {
		n.Summary = c.Texts.T("%[2]d files of %[1]s could not be brought over", n.App, e.Count)
		n.Body = c.Texts.T("The new version works without them, for example %[1]s. They are still in %[2]s.", first, directory)
	}
	return n
}

// wait is the notice of a launch that has to wait.
func (c *Core) wait(w *launch) Notice {
	n := of(Wait, "", w.Instance, w.Name, w.DesktopEntry, w.Icon)
	n.Percent = w.percent
	n.Urgency = Normal // the person has just asked for it
	switch w.Why {
	case words.RefreshPending:
		n.Summary = c.Texts.T("%s starts later", n.App)
		n.Body = c.Texts.T("An update has to be installed first, and waits until every open window of it is closed. Then it starts by itself.")
	case words.RefreshStarting:
		n.Summary = c.Texts.T("%s is about to start", n.App)
		n.Body = c.Texts.T("It was updated and is being checked.")
	default:
		n.Summary = c.Texts.T("%s is about to start", n.App)
		n.Body = c.Texts.T("It is being updated. It starts when that is done.")
	}
	return n
}

// goingDown is the warning that the machine goes off while something is updated.
func (c *Core) goingDown(e ShuttingDown) Notice {
	n := of(Down, "", "", "", "", "")
	n.App, n.Urgency, n.Expire = "", Normal, -1
	n.Summary = c.Texts.T("Do not switch off yet")
	what := ""
	if len(e.Names) == 1 {
		what = c.Texts.T("%s is being updated.", name(e.Names[0], ""))
	} else {
		what = c.Texts.N("%d application is being updated.", "%d applications are being updated.", len(e.Names), len(e.Names))
	}
	n.Body = what + " " + c.Texts.T("The computer goes on shutting down by itself when that is done, in about %s.", c.length(e.Left))
	n.Buttons = []Button{{NextStart, c.Texts.T("At the next start")}, {Default, c.Texts.T("Finish now")}}
	return n
}

// length is a duration in words.
func (c *Core) length(d time.Duration) string {
	if d < 90*time.Second {
		s := max(1, int((d+time.Second/2)/time.Second))
		return c.Texts.N("%d second", "%d seconds", s, s)
	}
	m := int((min(d, 24*time.Hour) + time.Minute/2) / time.Minute)
	return c.Texts.N("%d minute", "%d minutes", m, m)
}

// size is a number of bytes in words, as the command line has it.
func (c *Core) size(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	v, unit := float64(n), 0
	for ; v >= 999.5 && unit < len(units)-1; unit++ {
		v /= 1000
	}
	digits := 0
	if v < 9.95 && unit > 0 {
		digits = 1
	}
	return Decimal(c.Texts, fmt.Sprintf("%.*f %s", digits, v, units[unit]))
}

// Decimal writes a number with a decimal point, which a unit follows, as the language does.
func Decimal(t texts.Texts, number string) string {
	separator := t.T("decimal separator|.")
	return strings.Replace(number, ".", separator[strings.LastIndexByte(separator, '|')+1:], 1)
}

// when names a time near now in the person's time zone.
func (c *Core) when(t, now time.Time) string {
	if c.Zone != nil {
		t, now = t.In(c.Zone), now.In(c.Zone)
	}
	clock := t.Format("15:04")
	switch {
	case !t.After(now):
		return c.Texts.T("now")
	case t.Year() == now.Year() && t.YearDay() == now.YearDay():
		return c.Texts.T("today at %s", clock)
	case t.Sub(now) < 6*24*time.Hour:
		return c.Texts.T("on %[1]s at %[2]s", c.weekday(t), clock)
	}
	return c.Texts.T("on %[1]s, %[2]s at %[3]s", c.weekday(t), c.date(t), clock)
}

func (c *Core) weekday(t time.Time) string {
	return []string{
		c.Texts.T("Sunday"), c.Texts.T("Monday"), c.Texts.T("Tuesday"), c.Texts.T("Wednesday"),
		c.Texts.T("Thursday"), c.Texts.T("Friday"), c.Texts.T("Saturday"),
	}[t.Weekday()]
}

// date has the day in its month: in some languages the month's name changes with it.
func (c *Core) date(t time.Time) string {
	return fmt.Sprintf([]string{
		c.Texts.T("%d January"), c.Texts.T("%d February"), c.Texts.T("%d March"), c.Texts.T("%d April"), c.Texts.T("%d May"), c.Texts.T("%d June"),
		c.Texts.T("%d July"), c.Texts.T("%d August"), c.Texts.T("%d September"), c.Texts.T("%d October"), c.Texts.T("%d November"), c.Texts.T("%d December"),
	}[t.Month()-1], t.Day())
}

func name(appName, instance string) string {
	if n := clean(appName, maxName); n != "" {
		return n
	}
	return clean(instance, maxName)
}

func entry(s string) string { return strings.TrimSuffix(clean(s, 255), ".desktop") }

// clean makes one line of at most limit characters from text that a package
// brings: no control characters, and none that turn the writing direction and
// could make the notice say something else.
func clean(s string, limit int) string {
	var b strings.Builder
	count, space := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case printable.Hostile(r), unicode.Is(unicode.Co, r):
			continue
		}
		if space {
			if count++; count < limit {
				b.WriteByte(' ')
			}
			space = false
		}
		if count++; count > limit {
			return cut(b.String(), limit)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// cut ends s with an ellipsis within limit characters.
func cut(s string, limit int) string {
	runes := []rune(s)
	if len(runes) >= limit {
		runes = runes[:limit-1]
	}
	return strings.TrimRight(string(runes), " ") + "…"
}
