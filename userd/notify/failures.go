package notify

import (
	"slices"
	"strconv"
	"time"
)

// failuresKey is in the place of an instance in the notice about failures. It is no valid
// instance.
const failuresKey = ":failures"

// id distinguishes a failure from those before it.
func (f Failure) id() string {
	kind := "package "
	if f.Repository {
		kind = "repository "
	}
	return kind + f.Name + " " + strconv.FormatInt(f.Since.UnixMicro(), 10)
}

// nowFailing takes over the agent's list.
func (c *Core) nowFailing(list []Failure) {
	owed := map[string]bool{}
	for _, f := range list {
		if !f.Notified || c.owed[f.id()] {
			owed[f.id()] = true
		}
	}
	c.failing, c.owed = list, owed
}

// showFailures shows one notice of all that has failed for long, once for each failure, and
// takes it down when nothing fails any more. The notice that is up changes with the list.
func (c *Core) showFailures(now time.Time) {
	if len(c.failing) == 0 {
		c.takeFailures()
		return
	}
	m := c.memory[failuresKey]
	var ids []string
	fresh := false
	for _, f := range c.failing {
		ids = append(ids, f.id())
		fresh = fresh || c.owed[f.id()] && !slices.Contains(m.Failures, f.id())
	}
	if c.showList(&c.failures, c.fails(now), fresh) {
		m.Shown, m.Failures = now, ids
		c.memory[failuresKey] = m
	}
}

// takeFailures takes the notice down.
func (c *Core) takeFailures() {
	c.takeList(&c.failures, failuresKey)
}

// failuresClosed notes that the user or the server has closed it.
func (c *Core) failuresClosed(serial uint64) {
	if c.failures != nil && c.failures.Serial == serial {
		c.failures = nil
	}
}

// fails is the notice about what has failed for long.
func (c *Core) fails(now time.Time) Notice {
	f := c.failing[0]
	n := of(Fails, "", failuresKey, "", "", "")
	n.App, n.Urgency, n.Expire = "", Normal, -1
	title := name(f.Title, f.Name)
	since := f.Since
	if c.Zone != nil {
		since = since.In(c.Zone)
	}
	switch more := len(c.failing) - 1; {
	case more > 0:
		n.Summary = c.Texts.T("%[1]s and %[2]d more get no updates", title, more)
	case f.Repository:
		n.Summary = c.Texts.T("No updates from %s", title)
	default:
		n.Summary = c.Texts.T("%s gets no updates", title)
	}
	if f.Repository {
		n.Body = c.Texts.T("The repository %[1]s has been unusable since %[2]s.", title, c.date(since))
	} else {
		n.Body = c.Texts.T("The update of %[1]s has failed each time since %[2]s.", title, c.date(since))
	}
	if why := c.cause(f); why != "" {
		n.Body += " " + why
	}
	n.Body += " " + c.Texts.T("An administrator can see more with “lull status”.")
	if text := clean(f.Text, maxCause); text != "" {
		n.Body += "\n" + c.Texts.T("Cause: %s", text)
	}
	n.Buttons = []Button{{Default, c.Texts.T("OK")}}
	return n
}

// maxCause is how much of an error is shown, in characters.
const maxCause = 240

// cause describes the kind of an error; "" if the error itself has to do.
func (c *Core) cause(f Failure) string {
	switch f.Cause {
	case "Unavailable":
		return c.Texts.T("Its server cannot be reached, or does not answer.")
	case "Untrusted":
		return c.Texts.T("What its server sends cannot be trusted, and was refused.")
	case "NoSpace":
		return c.Texts.T("There is not enough space on the disk.")
	case "BadPolicy":
		return c.Texts.T("A file of the configuration has an error.")
	case "NotPermitted":
		return c.Texts.T("Something that it needs is not permitted.")
	case "LimitsExceeded":
		return c.Texts.T("It has reached a limit.")
	case "NotFound":
		if !f.Repository {
			return c.Texts.T("Its repository does not offer it any more.")
		}
	}
	return ""
}
