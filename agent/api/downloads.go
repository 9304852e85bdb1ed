package api

import (
	"reflect"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/refresh/plan"
	bus "github.com/lull/lull/dbus"
)

// announced returns the refreshes under way whose download a user is notified of.
func (s *Service) announced() []plan.Refresh {
	return slices.DeleteFunc(s.m.Engine().All(), func(r plan.Refresh) bool { return !r.Announced() })
}

// sendDownloads sends each helper the large downloads that its user is notified of. One that
// no user was notified of goes to one user in the foreground. The service's goroutine calls
// it.
func (h *helpers) sendDownloads(s *Service) {
	list := h.sorted()
	if len(list) == 0 {
		return
	}
	all, sessions := s.announced(), s.m.Conditions().Sessions
	for _, x := range list {
		if x.told == nil {
			continue // it is greeted soon
		}
		now := []bus.LargeDownload{}
		var first []string
		for i := range all {
			r := &all[i]
			switch {
			case r.LargeNotified == nil && inFront(sessions, x.uid):
				first = append(first, r.ID)
				now = append(now, s.download(*r, x.uid))
				r.LargeNotified = &x.uid // and no other
			case r.LargeNotified != nil && *r.LargeNotified == x.uid:
				now = append(now, s.download(*r, x.uid))
			}
		}
		same := func(a, b bus.LargeDownload) bool {
			a.Notified, a.HoldUntil = b.Notified, b.HoldUntil
			return reflect.DeepEqual(a, b)
		}
		if !slices.EqualFunc(now, x.downloads, same) {
			x.downloads = now
			x.send(s, bus.HelperDownloads{Downloads: now})
		}
		for _, id := range first {
			s.wg.Go(func() { s.m.Engine().NoteLargeNotified(id, x.uid) })
		}
	}
}

func (s *Service) download(r plan.Refresh, uid uint32) bus.LargeDownload {
	name, desktop, icon := s.m.Reports().Before(r) // the new manifest is not here yet
	v := bus.LargeDownload{ID: r.ID, Instance: r.Instance, Name: name, Version: r.ToVersion, DesktopEntry: desktop, Icon: icon,
		Fetch: uint64(r.Large), Begins: micro(r.LargeFrom), Notified: r.LargeNotified != nil,
		Unmetered: s.m.Reports().FetchesUnmetered(r)}
	if !r.LargeFrom.After(time.Now()) {
		v.Begins = 0
	}
	// Whether polkit lets the user hold it is known when the user does.
	if end, limit := s.m.Holds().UserEnd(r.Instance, accounts.Name(uid), time.Time{}); limit == nil {
		v.HoldUntil = micro(end)
	}
	return v
}

// downloadNow takes the answer to a notice of a large download: it begins before its time. It
// needs no right, because it would begin within a minute.
func (o managerObject) downloadNow(uid uint32, id string) error {
	for _, r := range o.s.announced() {
		if r.ID == id && r.LargeNotified != nil && *r.LargeNotified == uid {
			o.s.log.Info("a user lets a large download begin", "refresh", id, "instance", r.Instance, "user", accounts.Name(uid))
			o.s.m.Engine().FetchNow(id)
			return nil
		}
	}
	return errkind.New(errkind.NotFound, "cannot answer: user %s was not notified of the download of a refresh %.40q", accounts.Name(uid), id)
}
