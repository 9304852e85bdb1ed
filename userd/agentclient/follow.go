package agentclient

import (
	"context"
	"sync"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
)

// follows are the instances whose refreshes are followed while a launch waits
// for them. At other times the agent's progress signals are ignored.
type follows map[string]*followed

type followed struct {
	notify.Progress
	refresh dbus.ObjectPath // under way, or "/"
}

// steps are how far a refresh is in the part that a launch waits for.
var steps = map[string]int{
	"inhibit": 5, "gather": 10, "stop-services": 20, "copy": 35, "link": 55, "start-services": 65, "health": 80, "commit": 85, "uninhibit": 95, "finish": 100,
}

// percent of a step; -1 for those before launches are inhibited, whose end is unknown.
func percent(step string) int {
	if p, ok := steps[step]; ok {
		return p
	}
	return -1
}

// unfollowed answers where there is no agent to ask.
func (r *Relay) unfollowed(c notify.Follow) {
	if c.Yes {
		r.event(notify.Progress{Instance: c.Instance, Percent: -1})
	}
}

var progressRules = [][]dbus.MatchOption{
	{dbus.WithMatchSender(bus.AgentName), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"),
		dbus.WithMatchPathNamespace(bus.AgentPath + "/refresh")},
	{dbus.WithMatchSender(bus.AgentName), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"),
		dbus.WithMatchPathNamespace(bus.AgentPath + "/package")},
}

func (l *link) followed(ctx context.Context, calls *sync.WaitGroup, c notify.Follow) {
	if l.follow == nil {
		l.follow = follows{}
	}
	before := len(l.follow)
	switch {
	case c.Yes && l.owner == "":
		l.unfollowed(c)
		return
	case c.Yes:
		l.follow[c.Instance] = &followed{Progress: notify.Progress{Instance: c.Instance, Percent: -1}, refresh: "/"}
	default:
		delete(l.follow, c.Instance)
	}
	listen := before == 0 && len(l.follow) > 0
	leave := before > 0 && len(l.follow) == 0
	l.call(ctx, calls, func(ctx context.Context) func() {
		for _, rule := range progressRules {
			var err error
			switch {
			case listen:
				err = l.conn.AddMatchSignalContext(ctx, rule...)
			case leave:
				err = l.conn.RemoveMatchSignalContext(ctx, rule...)
			}
			if err != nil {
				l.Log.Warn("cannot follow a refresh", "instance", c.Instance, "error", err)
			}
		}
		if !c.Yes {
			return func() {}
		}
		p, err := bus.NewPackageProxy(l.conn, bus.PackagePath(c.Instance)).Properties(ctx)
		if err != nil {
			l.Log.Info("cannot ask the agent what is launched", "instance", c.Instance, "error", err)
		}
		step := ""
		if err == nil && p.Refresh != "/" {
			step, _ = bus.NewRefreshProxy(l.conn, p.Refresh).GetStep(ctx) // it may have ended
		}
		return func() {
			f := l.follow[c.Instance]
			if f == nil {
				return
			}
			f.Name, f.DesktopEntry, f.Icon = p.Title, p.DesktopEntry, p.Icon
			if p.Refresh != "" && f.refresh == "/" {
				f.refresh = p.Refresh
			}
			f.Percent = max(f.Percent, percent(step))
			l.event(f.Progress)
		}
	})
}

// moved takes in a change of a package or of a refresh that is followed.
func (l *link) moved(s *dbus.Signal) {
	c, ok := bus.ParseChanged(s)
	if !ok {
		return
	}
	for instance, f := range l.follow {
		switch {
		case c.Interface == bus.PackageInterface && c.Path == bus.PackagePath(instance):
			if path, ok := c.Values["Refresh"].Value().(dbus.ObjectPath); ok && path != f.refresh {
				f.refresh = path
			}
		case c.Interface == bus.RefreshInterface && c.Path == f.refresh:
			step, _ := c.Values["Step"].Value().(string)
			if p := percent(step); p > f.Percent {
				f.Percent = p
				l.event(f.Progress)
			}
		}
	}
}
