package api

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/units"
	bus "github.com/lull/lull/dbus"
)

// peerTime is how long the bus and polkit may take for an answer.
const peerTime = 5 * time.Second

// peers checks what the agent works with on the bus, for a user.
func (s *Service) peers(uid uint32) []doctor.Check {
	ctx, cancel := context.WithTimeout(s.ctx, peerTime)
	defer cancel()
	return []doctor.Check{s.checkBus(ctx), s.checkPolkit(ctx), s.checkHelper(uid)}
}

// checkBus: where systemd is, the bus should be able to start the agent.
func (s *Service) checkBus(ctx context.Context) doctor.Check {
	c := doctor.Check{Name: "bus", State: doctor.OK, Seen: errkind.Text("%s is %s", bus.AgentName, s.server.Conn().Names()[0])}
	if s.m.User || !units.Booted() {
		return c
	}
	var names []string
	err := s.server.Conn().BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&names)
	switch {
	case err != nil:
		c.State, c.Seen, c.Advice = doctor.Fail, err.Error(), errkind.Text("see that the message bus runs: systemctl status dbus")
	case slices.Contains(names, bus.AgentName):
		c.Seen = errkind.Text("%s, and started when it is called", c.Seen)
	default:
		c.State, c.Seen = doctor.Warn, errkind.Text("it does not start lulld when it is called")
		c.Advice = errkind.Text("%s belongs into /usr/share/dbus-1/system-services", bus.AgentName+".service")
	}
	return c
}

func (s *Service) checkPolkit(ctx context.Context) doctor.Check {
	c := doctor.Check{Name: "polkit", State: doctor.OK}
	if s.m.User {
		c.Seen = errkind.Text("is not asked: %s alone may do everything", accounts.Name(uint32(os.Getuid())))
		return c
	}
	unknown, err := s.auth.Unknown(ctx)
	switch {
	case err != nil:
		c.State, c.Seen, c.Advice = doctor.Warn, err.Error(), errkind.HintOf(err)
	case len(unknown) > 0:
		c.State, c.Seen = doctor.Fail, errkind.Text("unknown actions: %s", strings.Join(unknown, ", "))
		c.Advice = errkind.Text("org.lull.policy belongs into /usr/share/polkit-1/actions; without it users may do nothing")
	default:
		c.Seen = errkind.Text("decides about users")
	}
	return c
}

func (s *Service) checkHelper(uid uint32) doctor.Check {
	users := map[uint32]bool{}
	s.helpers.mu.Lock()
	for _, h := range s.helpers.list {
		users[h.uid] = true
	}
	s.helpers.mu.Unlock()
	c := doctor.Check{Name: "helper", State: doctor.OK, Seen: errkind.Text("has registered for %d users", len(users))}
	switch {
	case users[uid]:
		c.Seen = errkind.Text("lull-userd has registered for you")
	case uid != 0 && !s.m.Engine().UnderWay():
		c.Seen = errkind.Text("no lull-userd has registered for you; none is needed while nothing is pending")
	case uid != 0:
		c.State, c.Seen = doctor.Warn, errkind.Text("no lull-userd has registered for you")
		c.Advice = errkind.Text("systemctl --user start lull-userd, and enable it, which has it started whenever something is pending; without it there are no notices, and your data is brought over at the first launch")
	case len(users) == 1:
		c.Seen = errkind.Text("has registered for one user")
	case len(users) == 0:
		c.Seen = errkind.Text("none has registered; each user's systemd starts one when something is pending")
	}
	return c
}
