package api

import (
	"context"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	bus "github.com/lull/lull/dbus"
)

// asked returns the agent's context with the caller as the one who asks. A caller that
// has left the bus meanwhile is recorded as unknown.
func (o managerObject) asked(c bus.Caller) context.Context {
	uid, err := c.UID()
	if err != nil {
		return o.s.ctx
	}
	return refresh.AskedBy(o.s.ctx, plan.Asker{UID: uid, Name: accounts.Name(uid)})
}
