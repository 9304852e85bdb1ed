// Package offers chooses between what the repositories offer: which repository a name comes
// from, which version reaches this machine, and which one an instance gets. It starts no
// refresh.
package offers

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/cost"
	"github.com/lull/lull/policy"
)

// Config has what Offers work with.
type Config struct {
	Version      string // of lull
	Root         string // of the agent, for the ID of a machine without machine-id(5)
	Repositories *repositories.Set
	State        *state.DB
	Links        current.Links
	Costs        *cost.Costs
	Log          *slog.Logger
	// Installed returns the record and the current version of an instance. Kind NotFound
	// means that none is current.
	Installed func(instance string) (i state.Instance, version string, err error)
	// UnderWay returns the refresh of an instance to a newer version, or nil.
	UnderWay func(instance string) *plan.Refresh
}

// Offers reads the offers of the repositories. It may be used from any goroutine.
type Offers struct {
	Config
	ctx context.Context // of readings that no caller waits for
	wg  sync.WaitGroup

	bucket   sync.Once // guards the writing of bucketID
	bucketID string    // see machineID
}

// New returns Offers. When ctx ends, call Wait.
func New(ctx context.Context, c Config) *Offers { return &Offers{Config: c, ctx: ctx} }

// Wait waits for the readings that go on by themselves.
func (o *Offers) Wait() { o.wg.Wait() }

// Mode is how newer versions are requested; the zero value is a scheduled check.
type Mode struct {
	Asked bool // by a user: backoff and conditions are ignored
	Now   bool // a rollout that has not reached this machine is ignored, too
}

// The reasons to withhold a newer version.
const (
	WithheldReverted = "reverted" // it was reverted
	WithheldFailed   = "failed"   // its health check failed; it is retried later
	WithheldRollout  = "rollout"  // it has not reached this machine
	WithheldHalted   = "halted"   // its publisher has ended its rollout
	WithheldNeeds    = "lull"     // it needs a later version of lull
)

// Choice is what the channel of an instance offers to it.
type Choice struct {
	Request  *refresh.Request // nil if the instance has the newest version that it may have
	Pointer  *repo.Pointer    // of request, or of the withheld version
	Withheld string           // why the newest version is withheld; empty if it is not
	Newest   *repo.Pointer    // the withheld version
	Offers   repo.Offers
}

// For chooses between the versions that the channel of an instance offers: the newest
// permitted one, down to the current one. So a machine outside of a rollout keeps the version
// before, and a machine that has a version keeps it. A reverted version is not offered again.
// A version that failed its health check is not offered before its time, unless a user
// requests it.
func (o *Offers) For(ctx context.Context, name string, client *repo.Client, how Mode) (c Choice, err error) {
	inst, err := o.State.Instance(name)
	if err != nil {
		return c, err
	}
	base, _ := manifest.SplitInstance(name)
	if c.Offers, err = client.Offers(ctx, base, inst.Channel); err != nil {
		return c, o.missing(client, base, err)
	}
	_, cur, err := o.Links.Read(name)
	if err != nil {
		return c, err
	}
	for i := range c.Offers {
		v := &c.Offers[i]
		if v.Package == cur {
			break
		}
		why := o.withholds(&inst, v, how, client.Time())
		if why == "" {
			c.Request = &refresh.Request{Kind: plan.Update, Instance: name, Package: v.Package,
				Version: v.Version, Urgency: string(v.Urgency), Published: v.Published, Notes: v.Notes, Now: how.Asked, Early: how.Now}
			c.Pointer = &v.Pointer
			break
		}
		if c.Withheld == "" {
			c.Withheld, c.Newest = why, &v.Pointer
		}
	}
	if c.Pointer == nil {
		c.Pointer = c.Newest
	}
	if c.Pointer == nil {
		return c, o.Repositories.Without(client.Name(), base) // no package could be made of a newer version
	}
	return c, nil
}

// withholds returns why an instance does not get an offer; "" means that it does.
func (o *Offers) withholds(inst *state.Instance, v *repo.Offer, how Mode, at time.Time) string {
	switch {
	case !manifest.Satisfies(o.Version, v.NeedsLull):
		return WithheldNeeds
	case slices.Contains(inst.Refused, v.Package):
		return WithheldReverted
	case !how.Asked && inst.Backoff != nil && inst.Backoff.Package == v.Package && backsOff(inst.Backoff, wallclock.Now()):
		return WithheldFailed
	case how.Now:
		return ""
	}
	return o.outside(v, at)
}

// outside returns why an offer does not reach this machine; "" means that it does.
func (o *Offers) outside(v *repo.Offer, at time.Time) string {
	switch {
	case !manifest.Satisfies(o.Version, v.NeedsLull):
		return WithheldNeeds
	case v.Halted != nil:
		return WithheldHalted
	case !v.Reaches(o.machineID(), at):
		return WithheldRollout
	}
	return ""
}

// Withheld is a newer version that a refresh leaves out.
type Withheld struct {
	Instance, Version, Why string
}

// Withheld lists the versions that refreshes of the instances leave out, by the last answers
// of the repositories; nil means all installed instances.
func (o *Offers) Withheld(ctx context.Context, names []string) (list []Withheld, err error) {
	if names == nil {
		if names, err = o.Links.Instances(); err != nil {
			return nil, err
		}
	}
	for _, n := range names {
		inst, err := o.State.Instance(n)
		if err != nil {
			return nil, err
		}
		client, err := o.Repositories.Client(inst.Repository)
		base, _ := manifest.SplitInstance(n)
		if err != nil || !client.Lists(base, inst.Channel) {
			continue
		}
		c, err := o.For(ctx, n, client, Mode{Asked: true})
		if err != nil || c.Withheld == "" {
			continue // the refresh has reported the error
		}
		list = append(list, Withheld{n, c.Newest.Version, c.Withheld})
	}
	return list, nil
}

// backsOff reports whether it is too early for another try. A delay that was computed with a
// wrong clock ends when the clock is right.
func backsOff(b *state.Backoff, now time.Time) bool {
	return policy.ClockAfter().Lasts(b.Until.Add(-b.Delay), b.Until, now)
}
