package notify

import (
	"slices"
	"time"
)

// downloadsKey is in the place of an instance in the notice about large downloads. It is no
// valid instance.
const downloadsKey = ":downloads"

// putOff is how long Tomorrow puts a download off.
const putOff = 24 * time.Hour

// nowDownloading takes over the agent's list.
func (c *Core) nowDownloading(list []Download) {
	owed := map[string]bool{}
	for _, d := range list {
		if !d.Notified || c.owedDownloads[d.ID] {
			owed[d.ID] = true
		}
	}
	c.downloading, c.owedDownloads = list, owed
}

// showDownloads shows one notice of all large downloads, once for each, and takes it down when
// none is left. The notice that is up changes with the list.
func (c *Core) showDownloads(now time.Time) {
	if len(c.downloading) == 0 {
		c.takeDownloads()
		return
	}
	m := c.memory[downloadsKey]
	var ids []string
	fresh := false
	for _, d := range c.downloading {
		ids = append(ids, d.ID)
		fresh = fresh || c.owedDownloads[d.ID] && !slices.Contains(m.Downloads, d.ID)
	}
	if c.showList(&c.downloads, c.fetches(now), fresh) {
		m.Shown, m.Downloads = now, ids
		c.memory[downloadsKey] = m
	}
}

// takeDownloads takes the notice down.
func (c *Core) takeDownloads() {
	c.takeList(&c.downloads, downloadsKey)
}

// answerDownloads handles a button of the notice: it is about each download on the list.
func (c *Core) answerDownloads(now time.Time, action string) {
	for _, d := range c.downloading {
		switch until := now.Add(putOff); {
		case action == FetchNow && !d.Begins.IsZero():
			c.do(Answer{d.ID, FetchNow})
		case action == Tomorrow && !d.HoldUntil.IsZero():
			if d.HoldUntil.Before(until) {
				until = d.HoldUntil
			}
			c.do(PutOff{Instance: d.Instance, Reason: c.Texts.T("large download"), Until: until})
		}
	}
	c.takeDownloads()
}

// fetches is the notice of large downloads, with what the person can do about them.
func (c *Core) fetches(now time.Time) Notice {
	d := c.downloading[0]
	n := of(Fetch, "", downloadsKey, "", d.DesktopEntry, d.Icon)
	n.App, n.Urgency, n.Expire = "", Normal, -1
	title := name(d.Name, d.Instance)
	if more := len(c.downloading) - 1; more > 0 {
		n.Summary = c.Texts.T("Large updates of %[1]s and %[2]d more", title, more)
		n.DesktopEntry, n.Icon = "", ""
	} else {
		n.Summary = c.Texts.T("Large update of %s", title)
	}
	var bytes uint64
	begun, mayHold, unmetered := true, true, true
	for _, d := range c.downloading {
		bytes += d.Bytes
		begun = begun && !d.Begins.After(now)
		mayHold = mayHold && !d.HoldUntil.IsZero()
		unmetered = unmetered && d.Unmetered
	}
	if begun {
		n.Body = c.Texts.T("%s are being downloaded in the background.", c.size(bytes))
	} else {
		n.Body = c.Texts.T("The download of %s begins in a minute, in the background.", c.size(bytes))
	}
	if unmetered {
		n.Body += " " + c.Texts.T("On a network that is set as metered, the download waits by itself.")
	}
	if !begun {
		n.Buttons = append(n.Buttons, Button{FetchNow, c.Texts.T("Download now")})
	}
	if mayHold {
		n.Buttons = append(n.Buttons, Button{Tomorrow, c.Texts.T("Tomorrow")})
	}
	n.Buttons = append(n.Buttons, Button{Default, c.Texts.T("OK")})
	return n
}
