package api

import (
	"context"
	"fmt"
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
	c := doctor.Check{Name: "bus", State: doctor.OK, Seen: bus.AgentName + " is " + s.server.Conn().Names()[0]}
	if s.m.User || !units.Booted() {
		return c
	}
	var names []string
	err := s.server.Conn().BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&names)
	switch {
	case err != nil:
		c.State, c.Seen, c.Advice = doctor.Fail, err.Error(), "see that the message bus runs: systemctl status dbus"
	case slices.Contains(names, bus.AgentName):
		c.Seen += ", and started when it is called"
	default:
		c.State, c.Seen = doctor.Warn, "it does not start lulld when it is called"
		c.Advice = bus.AgentName + ".service belongs into /usr/share/dbus-1/system-services"
	}
	return c
}

func (s *Service) checkPolkit(ctx context.Context) doctor.Check {
	c := doctor.Check{Name: "polkit", State: doctor.OK}
	if s.m.User {
		c.Seen = "is not asked: " + accounts.Name(uint32(os.Getuid())) + " alone may do everything"
		return c
	}
	unknown, err := s.auth.Unknown(ctx)
	switch {
	case err != nil:
		c.State, c.Seen, c.Advice = doctor.Warn, err.Error(), errkind.HintOf(err)
	case len(unknown) > 0:
		c.State, c.Seen = doctor.Fail, "unknown actions: "+strings.Join(unknown, ", ")
		c.Advice = "org.lull.policy belongs into /usr/share/polkit-1/actions; without it users may do nothing"
	default:
		c.Seen = "decides about users"
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
	c := doctor.Check{Name: "helper", State: doctor.OK, Seen: fmt.Sprintf("has registered for %d users", len(users))}
	switch {
	case users[uid]:
		c.Seen = "lull-userd has registered for you"
	case uid != 0 && !s.m.HelpersWanted():
		c.Seen = "no lull-userd has registered for you; none is needed while nothing is pending"
	case uid != 0:
		c.State, c.Seen = doctor.Warn, "no lull-userd has registered for you"
		c.Advice = "systemctl --user start lull-userd, and enable it, which has it started whenever something is pending; without it there are no notices, and your data is brought over at the first launch"
	case len(users) == 1:
		c.Seen = "has registered for one user"
	case len(users) == 0:
		c.Seen = "none has registered; each user's systemd starts one when something is pending"
	}
	return c
}
