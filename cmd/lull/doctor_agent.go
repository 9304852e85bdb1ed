package main

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

const (
	// pingTime bounds the reply of a process on the bus to a ping, which needs none of
	// its own work.
	pingTime = 5 * time.Second
	// slowAnswer is the shortest duration of the checks that the doctor mentions.
	slowAnswer = 5 * time.Second
)

// The states of the agent that the doctor distinguishes.
var (
	agentAnswers    = output.Mark("answers")
	agentNoBus      = output.Mark("cannot be reached")
	agentNotRunning = output.Mark("is not running")
	agentMute       = output.Mark("does not answer")
	agentSlow       = output.Mark("is slow")
	agentRefuses    = output.Mark("refuses")
)

// agentState returns the state of the agent, after a call to it took that long and ended with
// err. ag is nil without a connection.
func agentState(ctx context.Context, ag *agent, took time.Duration, err error) string {
	switch {
	case err == nil && took < slowAnswer:
		return agentAnswers
	case err == nil:
		return agentSlow
	case ag == nil || !ag.conn.Connected():
		return agentNoBus
	}
	switch owner, ownerErr := ownerOf(ctx, ag); {
	case ownerErr != nil:
		return agentNoBus
	case owner == "":
		return agentNotRunning
	case mute(ctx, ag):
		return agentMute
	}
	if errkind.Is(err, errkind.Unavailable) {
		return agentSlow // it is running, and has not answered in time
	}
	return agentRefuses
}

func ownerOf(ctx context.Context, ag *agent) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return dialer.OwnerOf(ctx, ag.conn, bus.AgentName)
}

// mute reports whether a process owns the agent's name and does not answer.
func mute(ctx context.Context, ag *agent) bool {
	owner, err := ownerOf(ctx, ag)
	if err != nil || owner == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	err = ag.conn.Object(owner, bus.AgentPath).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", dbus.FlagNoAutoStart).Err
	return err != nil && errkind.Is(bus.FromBus(err), errkind.Unavailable)
}

// statusCommand returns the command that shows the agent's unit.
func (a *app) statusCommand() string {
	if a.user {
		return "systemctl --user status lulld"
	}
	return "systemctl status lulld"
}

// agentCheck returns the doctor's line about the agent itself, and its state.
func (a *app) agentCheck(ctx context.Context, ag *agent, took time.Duration, err error) (bus.Check, string) {
	state := agentState(ctx, ag, took, err)
	ctl, unit := "systemctl", "journalctl -u lulld"
	if a.user {
		ctl, unit = "systemctl --user", "journalctl --user -u lulld"
	}
	c := bus.Check{Name: "agent", State: "fail"}
	pid := ""
	if state == agentMute || state == agentSlow || state == agentRefuses {
		var n uint32
		ctx, cancel := context.WithTimeout(ctx, pingTime)
		defer cancel()
		if ag.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, bus.AgentName).Store(&n) == nil {
			pid = output.T(" (process %d)", n)
		}
	}
	switch state {
	case agentAnswers:
		c.State, c.Seen = "ok", output.Marked(agentAnswers)
	case agentNoBus:
		c.Seen, c.Advice = err.Error(), errkind.HintOf(err)
	case agentNotRunning:
		c.Seen = output.T("is not running, and the bus cannot start it: %s", err.Error())
		c.Advice = output.T("%[1]s status lulld shows why; %[2]s start lulld starts it", ctl, ctl)
		if a.user {
			c.Advice = output.T("%[1]s status lulld shows why; %[2]s enable --now lulld starts it", ctl, ctl)
		}
	case agentMute:
		c.Seen = output.T("runs%s, but does not answer: it is stopped or stuck", pid)
		c.Advice = output.T("%[1]s shows what it does; %[2]s restart lulld ends it and starts another", unit, ctl)
	case agentSlow:
		c.Seen = output.T("runs%s, but took %s for its checks", pid, output.Duration(took))
		if err == nil {
			c.State = "warn"
		} else {
			c.Seen = output.T("runs%s, but has not finished its checks within %s", pid, output.Duration(took))
		}
		c.Advice = output.T("the machine or its disk is very busy, or something that it asks (systemd, logind, polkit) is slow; %s may show which", unit)
	case agentRefuses:
		c.Seen = output.T("runs%[1]s, and refuses to answer: %[2]s", pid, err.Error())
		if c.Advice = errkind.HintOf(err); c.Advice == "" {
			c.Advice = output.T("%s shows why; the bus's policy in org.lull.Agent1.conf decides who may ask", unit)
		}
	}
	return c, state
}
