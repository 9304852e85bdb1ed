package main

import (
	"context"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) refreshCmd() *cobra.Command {
	var w waitFlags
	var o bus.RefreshOptions
	var cancel, retry, listed bool
	var prepared preparedFlags
	cmd := &cobra.Command{
		Use:   "refresh [APP...]",
		Short: "Refresh applications to newer versions",
		Long: `Checks the applications, or all of them, for newer versions and refreshes them.
A running application is refreshed when it is closed: the command exits with
status 75 and names the processes. (Without APP that is no failure: each is
refreshed in its own time.)`,
		Example: `  lull refresh                               everything
  lull refresh --list                        only show what has a newer version
  lull refresh org.example.notes             one
  lull refresh --wait org.example.notes      and stay until it is done
  lull refresh --atomic server client        both, or none of them
  lull refresh --side-by-side notes          now, beneath what runs
  lull refresh --cancel org.example.notes    give up a refresh that waits
  lull refresh --retry org.example.notes     undo one that is stuck`,
		Args: args(0, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			if prepared.on {
				return a.applyPrepared(cmd.Context(), prepared, names)
			}
			names, err := a.instances(cmd.Context(), names)
			if err != nil {
				return err
			}
			if listed {
				return a.updates(cmd.Context(), names)
			}
			if cancel {
				return a.cancelRefreshes(cmd.Context(), names)
			}
			if retry {
				return a.retryRefreshes(cmd.Context(), w, names)
			}
			if o.Atomic && len(names) == 0 {
				return output.Error(errkind.Usage, "cannot refresh all or nothing: no application is named")
			}
			if o.SideBySide && (len(names) == 0 || o.Atomic) {
				return output.Error(errkind.Usage, "cannot refresh side by side: name the applications, without --atomic")
			}
			// The agent need not report the running applications: the refresh
			// objects do, once all possible steps are done.
			o.NoWait = true
			none := false
			var withheld []bus.WithheldVersion
			err = a.refreshing(cmd.Context(), w, len(names) == 0, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
				paths, err := ag.refresh(ctx, names, o)
				none = err == nil && len(paths) == 0
				if err == nil && !o.Now {
					// An older agent does not have the method.
					withheld, _ = ag.manager.Withheld(ctx, append([]string{}, names...))
				}
				return paths, err
			})
			if err != nil || a.JSON {
				return err
			}
			if none && len(withheld) == 0 {
				return a.Say(output.T("everything is up to date"))
			}
			return a.withheld(withheld, none)
		},
		ValidArgsFunction: a.completeInstances,
	}
	w.add(cmd)
	cmd.Flags().BoolVar(&o.Atomic, "atomic", false, "refresh all of APP, or none: when all are closed, and undone if one fails")
	cmd.Flags().BoolVar(&o.SideBySide, "side-by-side", false, "switch APP now, this once: what runs keeps the version it has")
	cmd.Flags().BoolVar(&o.Now, "now", false, "also to versions whose rollout has not reached this machine")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "give up the refreshes of APP that still wait")
	cmd.Flags().BoolVar(&retry, "retry", false, "undo the refreshes of APP that are stuck, when the cause has gone")
	cmd.Flags().BoolVar(&listed, "list", false, "list what has a newer version, by the last known state of the repositories, and refresh nothing")
	cmd.MarkFlagsMutuallyExclusive("cancel", "retry", "list")
	prepared.add(cmd)
	return cmd
}

// refresh sends one request for each of the instances (all, if none is named), so that an
// error belongs to one instance and does not hide the results of the others.
func (ag *agent) refresh(ctx context.Context, names []string, o bus.RefreshOptions) ([]dbus.ObjectPath, error) {
	if o.Atomic || len(names) == 1 {
		paths, err := ag.manager.Refresh(ctx, names, o)
		if len(names) == 1 {
			err = ag.ofGone(ctx, names, []error{err})[0]
		}
		return paths, goesOn(ctx, output.T("refresh of %s", strings.Join(names, ", ")), names, err)
	}
	if len(names) == 0 {
		s, err := ag.overview(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range s.packages {
			names = append(names, p.Instance)
		}
	}
	all := make([][]dbus.ObjectPath, len(names))
	failed := make([]error, len(names))
	var g errgroup.Group
	g.SetLimit(callsAtOnce)
	for i, name := range names {
		g.Go(func() error {
			paths, err := ag.manager.Refresh(ctx, []string{name}, o)
			all[i], failed[i] = paths, goesOn(ctx, output.T("refresh of %s", name), []string{name}, err)
			return nil
		})
	}
	_ = g.Wait() // the errors are in failed
	failed = ag.ofGone(ctx, names, failed)
	var paths []dbus.ObjectPath
	var errs []error
	for i := range names {
		for _, p := range all[i] {
			if !slices.Contains(paths, p) {
				paths = append(paths, p)
			}
		}
		// An error of a repository is the same for all its instances.
		if err := failed[i]; err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	return paths, output.Join(errs)
}

// callsAtOnce bounds the concurrent calls of one command to the agent.
const callsAtOnce = 4

// goesOn replaces the error of a call that was interrupted here: the agent does not cancel
// running work.
func goesOn(ctx context.Context, what string, names []string, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if len(names) == 0 {
		names = []string{"APP"}
	}
	return output.Error(errkind.Interrupted, "cannot wait for the %s: interrupted", what).
		WithHint("it continues in the background; `lull pending` and `lull monitor` show it, `lull refresh --cancel %s` cancels it", output.OneLine(strings.Join(names, " ")))
}

// sent replaces the error of a call that was interrupted here, as goesOn does, for calls that
// make no refresh. The agent continues with those, too. See is the command that shows the
// result.
func sent(ctx context.Context, what, see string, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return output.Error(errkind.Interrupted, "cannot wait for the %s: interrupted", what).
		WithHint("the agent goes on with it, unless it waits for a password; %s", see)
}

// stopped replaces the error of a read that was interrupted here. The library's text is for
// programmers.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil || !errkind.Is(err, errkind.Interrupted) || !strings.HasSuffix(err.Error(), context.Canceled.Error()) {
		return err
	}
	return output.Error(errkind.Interrupted, "%s: interrupted", strings.TrimSuffix(err.Error(), ": "+context.Canceled.Error()))
}

// withheld reports the newer versions that were left out, and the reasons.
func (a *app) withheld(list []bus.WithheldVersion, none bool) error {
	for _, w := range list {
		version, text := output.Either(w.Version, "?"), ""
		switch w.Why {
		case "reverted":
			text = output.T("%s %s is left out: you went back from it; a later version is offered again", w.Instance, version)
		case "rollout":
			text = output.T("%s %s is left out: it is being rolled out, and has not reached this machine; --now takes it all the same", w.Instance, version)
		case "lull":
			text = output.T("%s %s is left out: it needs a later version of lull", w.Instance, version)
		case "halted":
			text = output.T("%s %s is left out: its publisher has halted it; --now takes it all the same", w.Instance, version)
		default:
			text = output.T("%s %s is left out: %s", w.Instance, version, w.Why)
		}
		if err := a.Say(text); err != nil {
			return err
		}
	}
	if none {
		return a.Say(output.T("everything else is up to date"))
	}
	return nil
}

// retryRefreshes undoes the stuck refreshes of the instances, and follows that.
func (a *app) retryRefreshes(ctx context.Context, w waitFlags, names []string) error {
	if len(names) == 0 {
		return output.Error(errkind.Usage, "cannot retry: no application is named").WithHint("`lull pending` shows what is stuck")
	}
	out, err := a.follow(ctx, w.until(), func(ctx context.Context, ag *agent) (paths []dbus.ObjectPath, err error) {
		s, err := ag.overview(ctx)
		if err != nil {
			return nil, err
		}
		var errs []error
		for _, name := range names {
			found := false
			for path, r := range s.refreshes {
				if r.Instance != name || r.State != output.Stuck {
					continue
				}
				found = true
				if err := bus.NewRefreshProxy(ag.conn, path).Retry(ctx); err != nil {
					errs = append(errs, goesOn(ctx, output.T("%[1]s of %[2]s", nounOf(r.Kind), name), []string{name}, err))
				} else {
					paths = append(paths, path)
				}
			}
			if !found {
				errs = append(errs, output.Error(errkind.NotFound, "cannot retry the refresh of %s: none is stuck", name).
					WithHint("lull refresh %s checks for a newer version and tries at once", name))
			}
		}
		return paths, output.Join(errs)
	})
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	doc := refreshesJSON{output.One, []refreshJSON{}}
	for _, o := range out {
		p, text := o.props, ""
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(p))
		switch {
		case p.State == output.Stuck:
			errs = append(errs, &errkind.Error{Kind: errkind.Failed, Text: p.ErrorText, Hint: p.ErrorHint})
			continue
		case output.Over(p.State) && p.FromVersion == "":
			text = output.T("the %[1]s of %[2]s is undone", nounOf(p.Kind), p.Instance)
		case output.Over(p.State):
			text = output.T("the %s of %s is undone: version %s is in use", nounOf(p.Kind), p.Instance, p.FromVersion)
		default:
			text = output.T("the %[1]s of %[2]s is being undone", nounOf(p.Kind), p.Instance)
		}
		if a.JSON {
			continue
		}
		if err := a.Say(text); err != nil {
			return err
		}
	}
	if a.JSON {
		if err := a.WriteJSON(doc); err != nil {
			return err
		}
	}
	return output.Join(errs)
}

// cancelRefreshes cancels the refreshes of the instances.
func (a *app) cancelRefreshes(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return output.Error(errkind.Usage, "cannot cancel: no application is named").WithHint("`lull pending` shows what waits")
	}
	return a.change(ctx, func(ctx context.Context, ag *agent) error {
		s, err := ag.overview(ctx)
		if err != nil {
			return err
		}
		doc := refreshesJSON{output.One, []refreshJSON{}}
		var errs []error
		for _, name := range names {
			found := false
			for path, r := range s.refreshes {
				if r.Instance != name || output.Over(r.State) {
					continue
				}
				found = true
				if err := bus.NewRefreshProxy(ag.conn, path).Cancel(ctx); err != nil {
					errs = append(errs, sent(ctx, output.T("end of the %[1]s of %[2]s", nounOf(r.Kind), name), output.T("`lull history %s` shows it", name), err))
					continue
				}
				r.State = "cancelled"
				doc.Refreshes = append(doc.Refreshes, toRefreshJSON(r))
				if a.JSON {
					continue
				}
				if err := a.Say(output.T("the %[1]s of %[2]s is cancelled", nounOf(r.Kind), name)); err != nil {
					return err
				}
			}
			if !found && slices.ContainsFunc(s.packages, func(p bus.PackageProperties) bool { return p.Instance == name }) {
				if err := a.already(output.T("no refresh of %s is in progress", name)); err != nil {
					return err
				}
			} else if !found {
				errs = append(errs, output.Error(errkind.NotFound, "cannot cancel the refresh of %s: none is in progress", name))
			}
		}
		if a.JSON {
			if err := a.WriteJSON(doc); err != nil {
				return err
			}
		}
		return output.Join(errs)
	})
}
