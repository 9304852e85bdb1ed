package main

import (
	"context"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// waitFlags are those of every verb that starts a refresh.
type waitFlags struct{ detach, noWait, wait bool }

func (w *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.detach, "detach", false, "return at once, and let the agent go on")
	cmd.Flags().BoolVar(&w.noWait, "no-wait", false, "accept that it has to wait for running applications")
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

// refreshesJSON is what the verbs that change applications write.
type refreshesJSON struct {
	output.Document
	Refreshes []refreshJSON `json:"refreshes"` // empty: there was nothing to do
}

// refreshing follows the refreshes that start begins and reports their results. If lenient is
// set, refreshes that wait for an application are no error.
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
	if many, ok := err.(*output.Several); ok {
		errs = many.Errs
	}
	var at map[string]bus.PendingRefresh
	doc := refreshesJSON{output.One, []refreshJSON{}}
	for _, o := range out {
		p := o.props
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(p))
		verb, _ := verbOf(p.Kind)
		switch {
		case output.Over(p.State):
			if e := failure(verb, p); e != nil {
				errs = append(errs, e)
				continue
			}
		case p.State == output.Stuck:
			errs = append(errs, &errkind.Error{Kind: errkind.Failed, Text: p.ErrorText, Hint: p.ErrorHint})
			continue
		case p.State == "waiting" && w.until() == untilWaiting:
			if at == nil {
				at = ag.pendingByID(ctx)
			}
			hold := ""
			if h := at[p.ID]; h.HeldUntil != 0 {
				hold = holdText(h.HeldUntil, h.HeldBy, h.HeldReason, a.Now())
			}
			b := busy(p, at[p.ID].AtDeadline, hold, a.Now())
			if !lenient && !w.noWait {
				errs = append(errs, b)
				continue
			}
			if !a.JSON {
				if err := a.postponed(p, b, hold); err != nil {
					return err
				}
			}
			continue
		case err != nil:
			continue
		}
		if !a.JSON {
			if err := a.Say(result(p)); err != nil {
				return err
			}
		}
	}
	if a.JSON {
		if err := a.WriteJSON(doc); err != nil {
			return err
		}
	}
	return output.Join(errs)
}

// already reports that there is nothing to do for the request. In JSON the empty list of
// refreshes shows it.
func (a *app) already(text string) error {
	if a.JSON {
		return nil
	}
	return a.Say(text)
}

// postponed reports the content of the error as a normal message.
func (a *app) postponed(p bus.RefreshProperties, busy error, hold string) error {
	text := output.T("%s waits: it is held or still running", p.Instance)
	switch {
	case len(p.Waiting) > 0:
		text = output.T("%s waits for %s: %s", p.Instance, output.Count(len(p.Waiting), "process", "processes"), who(p.Waiting))
	case len(p.Together) > 0:
		text = output.T("%s waits: it goes together with %s, which cannot go yet", p.Instance, output.List(p.Together))
	case len(p.Conditions) > 0:
		text = output.T("%s waits for %s", p.Instance, conditionText(p.Conditions))
	case hold != "":
		text = output.T("%s waits: it is held %s", p.Instance, hold)
	}
	if err := a.Say(text); err != nil {
		return err
	}
	return a.Say("  " + errkind.HintOf(busy))
}

// result describes the state of a refresh.
func result(p bus.RefreshProperties) string {
	_, done := verbOf(p.Kind)
	switch {
	case !output.Over(p.State):
		return output.T("%s: the %s goes on in the background (refresh %s)", output.Either(p.Instance, "?"), nounOf(p.Kind), p.ID)
	case p.Kind == "remove":
		return output.T("%s is removed", p.Instance)
	case p.Kind == "refresh" && p.FromVersion != "" && p.FromVersion != p.ToVersion:
		return output.T("%s is refreshed from %s to %s", p.Instance, p.FromVersion, p.ToVersion)
	case p.Kind == "revert" && p.ToVersion != "":
		return output.T("%s %s is current again", p.Instance, p.ToVersion)
	case p.ToVersion != "":
		return output.T("%s %s is %s", p.Instance, p.ToVersion, done)
	}
	return output.T("%s is %s", p.Instance, done)
}
