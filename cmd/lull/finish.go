package main

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// waitFlags are those of every verb that starts a refresh.
type waitFlags struct{ detach, noWait, wait bool }

func (w *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.detach, "detach", false, "return at once, and let the agent go on")
	cmd.Flags().BoolVar(&w.noWait, "no-wait", false, "it is fine if it has to wait for running applications")
	cmd.Flags().BoolVar(&w.wait, "wait", false, "stay until it is done, also if an application runs")
	cmd.MarkFlagsMutuallyExclusive("detach", "wait")
	cmd.MarkFlagsMutuallyExclusive("no-wait", "wait")
}

func (w waitFlags) until() until {
	switch {
	case w.detach:
		return untilStarted
	case w.wait:
		return untilDone
	}
	return untilWaiting
}

// refreshing follows the refreshes that start begins and says what becomes of
// them. Lenient: those that wait for an application are no error.
func (a *app) refreshing(ctx context.Context, w waitFlags, lenient bool, start func(context.Context, *agent) ([]dbus.ObjectPath, error)) error {
	var ag *agent
	out, err := a.follow(ctx, w.until(), func(ctx context.Context, g *agent) ([]dbus.ObjectPath, error) {
		ag = g
		return start(ctx, g)
	})
	if err != nil && len(out) == 0 {
		return err
	}
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	if many, ok := err.(*several); ok {
		errs = many.errs
	}
	var at map[string]string
	doc := struct {
		document
		Refreshes []refreshJSON `json:"refreshes"`
	}{one, []refreshJSON{}}
	for _, o := range out {
		p := o.props
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(p))
		verb, _ := verbOf(p.Kind)
		switch {
		case over(p.State):
			if e := failure(verb, p); e != nil {
				errs = append(errs, e)
				continue
			}
		case p.State == "waiting" && w.until() == untilWaiting:
			if at == nil {
				at = ag.atDeadlines(ctx)
			}
			b := busy(p, at[p.ID], a.now())
			if !lenient && !w.noWait {
				errs = append(errs, b)
				continue
			}
			if !a.json {
				if err := a.postponed(p, b); err != nil {
					return err
				}
			}
			continue
		case err != nil:
			continue
		}
		if !a.json {
			if err := a.say(result(p)); err != nil {
				return err
			}
		}
	}
	if a.json {
		if err := a.writeJSON(doc); err != nil {
			return err
		}
	}
	return join(errs)
}

// postponed says the same as the error, as news.
func (a *app) postponed(p bus.RefreshProperties, busy error) error {
	text := p.Instance + " waits: it is running"
	if len(p.Waiting) > 0 {
		text = fmt.Sprintf("%s waits for %s: %s", p.Instance, count(len(p.Waiting), "process", "processes"), who(p.Waiting))
	}
	if err := a.say(text); err != nil {
		return err
	}
	return a.say("  " + problem.HintOf(busy))
}

// result says how a refresh stands.
func result(p bus.RefreshProperties) string {
	verb, done := verbOf(p.Kind)
	switch {
	case !over(p.State):
		return fmt.Sprintf("%s: the %s goes on in the background (refresh %s)", either(p.Instance, "?"), either(p.Kind, verb), p.ID)
	case p.Kind == "remove":
		return p.Instance + " is removed"
	case p.Kind == "refresh" && p.FromVersion != "" && p.FromVersion != p.ToVersion:
		return fmt.Sprintf("%s is refreshed from %s to %s", p.Instance, p.FromVersion, p.ToVersion)
	case p.Kind == "revert" && p.ToVersion != "":
		return fmt.Sprintf("%s %s is current again", p.Instance, p.ToVersion)
	case p.ToVersion != "":
		return fmt.Sprintf("%s %s is %s", p.Instance, p.ToVersion, done)
	}
	return fmt.Sprintf("%s is %s", p.Instance, done)
}
