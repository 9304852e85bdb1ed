package desktop

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	fdo "github.com/esiqveland/notify"
	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"

	"github.com/lull/lull/userd/notify"
)

const (
	serverName = "org.freedesktop.Notifications"
	serverPath = dbus.ObjectPath("/org/freedesktop/Notifications")
	busDaemon  = "org.freedesktop.DBus"
	properties = "org.freedesktop.DBus.Properties"

	// A server that refuses a notice is asked again after retryPause, doubled
	// each time, maxTries times: for 8.5 minutes in all. Plasma refuses what
	// is
	// like the notice before and comes within a second or so.
	retryPause = 2 * time.Second
	maxTries   = 8
	// startPause keeps a server that dies of each notice from being started
	// all the time.
	startPause = time.Minute
	// A server that does not report its capabilities is re-queried after
	// firstInquiry, doubled each time up to lastInquiry.
	firstInquiry = 100 * time.Millisecond
	lastInquiry  = time.Hour
	warnInquiry  = 10 * time.Second // the pause from which on it is logged
	// maxEarly bounds what is kept of signals that overtake an answer.
	maxEarly = 64
)

// peer is the notification server.
type peer struct {
	owner     string // unique name; empty if absent
	ready     bool   // it has reported its capabilities
	name      string // and version
	kind      string // name alone
	looking   bool   // it is being asked whether it may be disturbed
	lookAgain bool   // and something has changed since
	caps      capabilities
	busy      bool           // a call about a notice is under way
	hung      bool           // and it takes too long
	started   bool           // the bus was asked to start a server, for what is wanted now
	early     []*dbus.Signal // heard while busy: perhaps about an id not known yet
	stray     []uint32       // ids to be closed that belong to no posting
	retry     *time.Timer

	pause   time.Duration // before the capabilities are re-queried
	inquiry *time.Timer   // ends that pause; nil if there is none
}

// stop stops the timers.
func (p *peer) stop() {
	for _, t := range []*time.Timer{p.retry, p.inquiry} {
		if t != nil {
			t.Stop()
		}
	}
}

func (p *peer) String() string {
	if !p.ready || p.hung {
		return ""
	}
	return p.name
}

// posting is a notice that the server was given.
type posting struct {
	id       uint32 // 0 if it was refused
	notice   notify.Notice
	up       bool
	obsolete bool // no longer true, in a history either
	tries    int  // refusals in a row
}

var nameOwner = []dbus.MatchOption{
	dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon),
	dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, serverName),
}

// watch finds the server, and later ones by the bus's signal.
func (d *Desktop) watch(ctx context.Context) error {
	if err := d.conn.AddMatchSignalContext(ctx, nameOwner...); err != nil {
		return err
	}
	var err error
	d.peer.owner, err = dialer.OwnerOf(ctx, d.conn, serverName)
	return err
}

// adopt makes owner the accepted server. The notices that the last one showed
// are gone with it.
func (l *loop) adopt(owner string) {
	old := l.peer
	old.stop()
	l.peer = peer{owner: owner, pause: firstInquiry}
	l.posted = map[string]*posting{}
	// A server is not disturbed before it has been asked whether it may be. No
	// server cannot be disturbed, and may be started by the first notice.
	l.event(notify.Disturb{No: owner != ""})
	l.call(func(ctx context.Context) func() {
		// The signals may be unicast to this connection or broadcast.
		rules := [][]dbus.MatchOption{
			{dbus.WithMatchInterface(serverName)},
			{dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged")},
		}
		for _, r := range rules {
			of := func(owner string) []dbus.MatchOption {
				return append(slices.Clone(r), dbus.WithMatchSender(owner), dbus.WithMatchObjectPath(serverPath))
			}
			if old.owner != "" {
				_ = l.conn.RemoveMatchSignalContext(ctx, of(old.owner)...)
			}
			if owner != "" {
				_ = l.conn.AddMatchSignalContext(ctx, of(owner)...)
			}
		}
		l.unfollow(ctx, old.kind)
		if owner == "" {
			return func() {}
		}
		return func() {
			if l.peer.owner == owner {
				l.inquire()
			}
		}
	})
}

// inquire queries the server's capabilities until it has answered. A server
// may own its name before it serves its object, as GNOME's does, so an error
// gives no information about the server. The query is repeated with a growing
// pause.
func (l *loop) inquire() {
	owner := l.peer.owner
	l.call(func(ctx context.Context) func() {
		server := l.conn.Object(owner, serverPath)
		var caps []string
		var info fdo.ServerInformation
		err := server.CallWithContext(ctx, serverName+".GetServerInformation", dbus.FlagNoAutoStart).
			Store(&info.Name, &info.Vendor, &info.Version, &info.SpecVersion)
		if err == nil {
			err = server.CallWithContext(ctx, serverName+".GetCapabilities", dbus.FlagNoAutoStart).Store(&caps)
		}
		var languages []string
		imported := false
		if err == nil {
			l.follow(ctx, info.Name)
			languages, imported = sessionLanguages(ctx, l.conn)
		}
		return func() {
			if l.peer.owner != owner {
				return
			}
			if err != nil {
				l.unanswered(err)
				return
			}
			if imported {
				l.event(notify.Language{Names: languages})
			}
			l.peer.ready = true
			l.peer.name, l.peer.kind = info.Name+" "+info.Version, info.Name
			l.peer.caps = newCapabilities(info.Name, caps)
			l.look()
		}
	})
}

// unanswered schedules the next query of a server that did not answer.
func (l *loop) unanswered(err error) {
	if l.peer.pause >= warnInquiry && l.peer.pause < 2*warnInquiry {
		l.Log.Warn("the notification server does not report what it can do", "error", err)
	}
	l.peer.inquiry = time.NewTimer(l.peer.pause)
	l.peer.pause = min(2*l.peer.pause, lastInquiry)
}

// inquireAgain repeats the question that was not answered.
func (l *loop) inquireAgain() {
	l.peer.inquiry = nil
	if l.peer.ready {
		l.look()
	} else {
		l.inquire()
	}
}

// wake returns a channel that is ready when the server must be re-queried.
func (p *peer) wake() <-chan time.Time {
	if p.inquiry == nil {
		return nil
	}
	return p.inquiry.C
}

// heard handles a signal, if it is from the right sender.
func (l *loop) heard(s *dbus.Signal) {
	if s.Name == busDaemon+".NameOwnerChanged" && s.Sender == busDaemon {
		var who, was, is string
		if dbus.Store(s.Body, &who, &was, &is) == nil && who == serverName && is != l.peer.owner {
			l.adopt(is)
		}
		return
	}
	if l.peer.ready && l.disturbing(s) {
		l.look()
		return
	}
	if l.peer.owner == "" || s.Sender != l.peer.owner || s.Path != serverPath {
		return
	}
	switch s.Name {
	case serverName + ".NotificationClosed", serverName + ".ActionInvoked":
		if l.peer.busy && len(l.peer.early) < maxEarly {
			l.peer.early = append(l.peer.early, s)
			return
		}
		l.about(s)
	}
}

// about takes in a signal about a notice, if the notice is ours.
func (l *loop) about(s *dbus.Signal) {
	// Strictly by type: the library would make one of what comes near.
	if len(s.Body) != 2 {
		return
	}
	id, ok := s.Body[0].(uint32)
	action, isAction := s.Body[1].(string)
	_, isReason := s.Body[1].(uint32)
	switch {
	case !ok:
	case isAction && s.Name == serverName+".ActionInvoked":
		_, p := l.find(id)
		if p == nil || !slices.ContainsFunc(p.notice.Buttons, func(b notify.Button) bool { return b.Action == action }) {
			return
		}
		l.event(notify.Invoked{Agent: p.notice.Agent, Instance: p.notice.Instance, Action: action})
	case isReason && s.Name == serverName+".NotificationClosed":
		k, p := l.find(id)
		if p == nil {
			return
		}
		// Whatever the reason, the buttons may still work in a history. A
		// notice that this helper has withdrawn is no event.
		if !p.up {
			return
		}
		p.up = false
		if w, ok := l.wanted[k]; ok && w.Serial == p.notice.Serial {
			delete(l.wanted, k)
		}
		l.event(notify.Closed{Agent: p.notice.Agent, Instance: p.notice.Instance, Serial: p.notice.Serial})
	}
}

func (l *loop) find(id uint32) (string, *posting) {
	for k, p := range l.posted {
		if p.id == id && id != 0 {
			return k, p
		}
	}
	return "", nil
}

func (l *loop) keys() []string {
	all := maps.Clone(l.wanted)
	for k := range l.posted {
		all[k] = notify.Notice{}
	}
	return slices.Sorted(maps.Keys(all))
}

// reconcile starts the next call that brings what is posted closer to what is
// wanted, if there is one and none is under way.
func (l *loop) reconcile() {
	if l.peer.owner == "" {
		l.start()
		return
	}
	if !l.peer.ready || l.peer.busy {
		return
	}
	if n := len(l.peer.stray); n > 0 {
		id := l.peer.stray[n-1]
		l.peer.stray = l.peer.stray[:n-1]
		l.close(id)
		return
	}
	for _, k := range l.keys() {
		w, wanted := l.wanted[k]
		p := l.posted[k]
		switch {
		case wanted && (p == nil || p.notice.Serial != w.Serial):
			if p != nil && p.up && p.id != 0 && w.Alert {
				// Some servers, as GNOME's, show a replaced notice in their list only.
				delete(l.posted, k)
				l.close(p.id)
				return
			}
			l.post(w, p)
			return
		case wanted || p == nil: // as it should be, or refused for now
		case p.id == 0:
			delete(l.posted, k)
		case p.up || p.obsolete:
			p.up = false
			if p.obsolete {
				delete(l.posted, k)
			}
			l.close(p.id)
			return
		}
	}
}

// start asks the bus for a server, once for what is wanted now: on small
// desktops the first notice starts it.
func (l *loop) start() {
	if len(l.wanted) == 0 {
		l.peer.started = false
		return
	}
	if l.peer.started || time.Since(l.startedAt) < startPause {
		return
	}
	l.peer.started, l.startedAt = true, time.Now()
	l.call(func(ctx context.Context) func() {
		err := l.conn.BusObject().CallWithContext(ctx, busDaemon+".StartServiceByName", 0, serverName, uint32(0)).Err
		return func() {
			if err != nil {
				l.Log.Info("there is no notification server yet", "error", err)
			}
		}
	})
}

// operate makes one call about a notice. F runs in a goroutine; what it
// returns runs here, unless the server has changed since.
func (l *loop) operate(f func() func()) {
	owner := l.peer.owner
	l.peer.busy = true
	hang := time.AfterFunc(l.Hang, func() {
		select {
		case l.results <- func() { l.peer.hung = l.peer.hung || l.peer.owner == owner && l.peer.busy }:
		case <-l.ctx.Done():
		}
	})
	l.calls.Go(func() {
		then := f()
		hang.Stop()
		done := func() {
			if l.peer.owner != owner {
				return
			}
			l.peer.busy, l.peer.hung = false, false
			then()
			early := l.peer.early
			l.peer.early = nil
			for _, s := range early {
				l.about(s)
			}
		}
		select {
		case l.results <- done:
		case <-l.ctx.Done():
		}
	})
}

// close withdraws a notice. An error is ignored: the server may have closed it
// already.
func (l *loop) close(id uint32) {
	server := l.conn.Object(l.peer.owner, serverPath)
	l.operate(func() func() {
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		defer cancel()
		_ = server.CallWithContext(ctx, serverName+".CloseNotification", dbus.FlagNoAutoStart, id).Err
		return func() {}
	})
}

// post gives the server a notice, in the place of the posting p if that is up.
// It has no time limit: a server that hangs may show the notice when it comes
// to itself, and then the id is needed. The call ends with the server at the
// latest.
func (l *loop) post(n notify.Notice, p *posting) {
	note := render(n, l.peer.caps)
	if p != nil && p.up {
		note.ReplacesID = p.id
	}
	owner := l.peer.owner
	l.operate(func() func() {
		id, err := send(l.conn.Object(owner, serverPath), note)
		if err == nil && id == 0 {
			err = errors.New("it gave the notice no id")
		}
		return func() {
			if l.peer.owner != owner {
				return // all notices have been re-posted
			}
			l.postedAs(n, p, note.ReplacesID, id, err)
		}
	})
}

// send is the library's SendNotification, to a server rather than to the name that
// another one may just have taken over, with other habits.
func send(server dbus.BusObject, n fdo.Notification) (id uint32, err error) {
	actions := []string{}
	for _, a := range n.Actions {
		actions = append(actions, a.Key, a.Label)
	}
	err = server.Call(serverName+".Notify", dbus.FlagNoAutoStart, n.AppName, n.ReplacesID, n.AppIcon, n.Summary, n.Body,
		actions, n.Hints, int32(n.ExpireTimeout.Milliseconds())).Store(&id)
	return id, err
}

func (l *loop) postedAs(n notify.Notice, p *posting, replaced, id uint32, err error) {
	if replaced != 0 && replaced != id && err == nil {
		l.peer.stray = append(l.peer.stray, replaced)
	}
	fresh := &posting{id: id, notice: n, up: err == nil}
	if err != nil {
		if p != nil && p.notice.Serial == n.Serial {
			fresh.tries = p.tries
		}
		fresh.tries++
		if replaced != 0 { // the old one is no longer true
			l.peer.stray = append(l.peer.stray, replaced)
		}
		l.Log.Warn("the notification server refuses a notice", "instance", n.Instance, "error", err)
		if fresh.tries <= maxTries {
			l.peer.retry = time.NewTimer(retryPause << (fresh.tries - 1))
		}
	} else if p != nil && p.id != 0 && p.id != id && !p.up {
		l.peer.stray = append(l.peer.stray, p.id) // is in a history
	}
	k := key(n.Agent, n.Instance)
	if other, q := l.find(id); err == nil && q != nil && other != k {
		delete(l.posted, other) // a server that gives an id twice
	}
	l.posted[k] = fresh
}

func (l *loop) retry() <-chan time.Time {
	if l.peer.retry == nil {
		return nil
	}
	return l.peer.retry.C
}

// again drops the refusals.
func (l *loop) again() {
	l.peer.retry = nil
	for k, p := range l.posted {
		if p.id == 0 && p.notice.Serial == l.wanted[k].Serial {
			p.notice.Serial = 0
		}
	}
}
