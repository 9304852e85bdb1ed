package notify

import (
	"strings"
	"time"
	"unicode"
)

const (
	security = "security"

	keepWaiting = "keep-waiting"
	sideBySide  = "side-by-side"
	terminate   = "terminate"

	maxName    = 60  // of an application, in characters
	maxVersion = 40  // of a version
	maxNotes   = 160 // of what is new

	// doneFor is how long the news of an update that is done stays.
	doneFor = 10 * time.Second
)

// ready is the notice of a refresh that waits. It says what will happen, and
// by which action.
func (c *Core) ready(p Pending, now time.Time) Notice {
	n := Notice{
		Kind: Ready, Refresh: p.ID, Instance: p.Instance, DesktopEntry: entry(p.DesktopEntry), Icon: p.Icon,
		Summary: title(p.Name, p.Instance, p.ToVersion) + " is ready",
		Buttons: []Button{
			{RestartNow, "Restart now"}, {WhenClosed, "When I close it"}, {Later, "Later"}, {Default, "OK"},
		},
	}
	near := c.Schedule.near(p, now)
	if near || p.Urgency == security {
		n.Urgency = Normal
	}
	what := "It will be installed when you close it"
	switch {
	case p.AtDeadline == terminate && !p.Deadline.IsZero():
		// Said from the first day: work may be lost.
		what += ". If it is still open " + c.when(p.Deadline, now) + ", it will be closed then: save your work before"
	case near && p.AtDeadline == sideBySide && now.Before(p.Deadline):
		what += ", at the latest " + c.when(p.Deadline, now) + ". If it is open then, it stays " +
			onVersion(p.FromVersion) + " until you close it"
	case near && p.AtDeadline != sideBySide:
		what += ", at the latest when you log out"
	}
	n.Body = what + "."
	if p.Urgency == security {
		n.Body = "It fixes a security problem. " + n.Body
	}
	if notes := clean(p.Notes, maxNotes); notes != "" {
		n.Body += "\nNew: " + notes
	}
	return n
}

// open is the notice of an application that was asked to quit and did not.
func (c *Core) open(p Pending, now time.Time) Notice {
	n := c.ready(p, now)
	n.Kind = Open
	n.Urgency = Normal // the person is waiting for it
	n.Summary = name(p.Name, p.Instance) + " is still open"
	n.Body = "It may be waiting for you, to save your work for example. When it is closed, " +
		version(p.ToVersion) + " will be installed and it will start again."
	n.Buttons = []Button{{RestartNow, "Try again"}, {WhenClosed, "Do not start it again"}, {Default, "OK"}}
	return n
}

// after is the notice of a refresh that is done.
func after(d Done, restarted bool) Notice {
	n := Notice{
		Kind: After, Refresh: d.ID, Instance: d.Instance, DesktopEntry: entry(d.DesktopEntry), Icon: d.Icon,
		Summary: name(d.Name, d.Instance) + " was updated", Expire: doneFor,
	}
	if v := clean(d.ToVersion, maxVersion); v != "" {
		n.Body = "It is now version " + v + "."
	}
	if restarted {
		n.Body = strings.TrimSpace(n.Body + " It is starting again.")
	}
	return n
}

// when names a time near now in the person's time zone.
func (c *Core) when(t, now time.Time) string {
	if c.Zone != nil {
		t, now = t.In(c.Zone), now.In(c.Zone)
	}
	switch {
	case !t.After(now):
		return "now"
	case t.Year() == now.Year() && t.YearDay() == now.YearDay():
		return "today at " + t.Format("15:04")
	case t.Sub(now) < 6*24*time.Hour:
		return "on " + t.Format("Monday at 15:04")
	}
	return "on " + t.Format("Monday, 2 January at 15:04")
}

func title(appName, instance, ver string) string {
	n := name(appName, instance)
	if v := clean(ver, maxVersion); v != "" {
		return n + " " + v
	}
	return "An update of " + n
}

func name(appName, instance string) string {
	if n := clean(appName, maxName); n != "" {
		return n
	}
	return clean(instance, maxName)
}

func version(v string) string {
	if v = clean(v, maxVersion); v != "" {
		return "version " + v
	}
	return "the new version"
}

func onVersion(v string) string {
	if v = clean(v, maxVersion); v != "" {
		return "on version " + v
	}
	return "as it is"
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
		case unicode.Is(unicode.C, r), r == unicode.ReplacementChar:
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
