package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) gcCmd() *cobra.Command {
	var dry, nothing bool
	var free string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove unused packages",
		Long: `Takes away packages and files that nothing needs: not installed, not kept for
` + "`lull revert`" + `, not running, not open, not being downloaded. Nothing stops for it.
Superseded data of applications goes too, in your own home alone. What stays only
because a process uses it is named, with that process.`,
		Example: `  lull gc --dry-run      what would go
  lull gc --free 500MB   stop when so much is freed`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := bus.CollectOptions{RetainNothing: nothing}
			if free != "" {
				n, err := humanize.ParseBytes(free)
				if err != nil || n == 0 {
					return output.Error(errkind.Usage, "cannot understand the size %q", free).WithHint("write it as 500MB or 2GiB")
				}
				o.Free = n
			}
			if dry {
				return a.ask(cmd.Context(), a.gcPlan)
			}
			// First, because it needs no right.
			own, err := a.cleanOwnData(cmd.Context())
			if err != nil {
				return err
			}
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			p, err := a.followJob(cmd.Context(), ag, collectText, jobCalls{
				func(ctx context.Context) (dbus.ObjectPath, error) { return ag.space.StartCollect(ctx, o) },
				func(ctx context.Context) (p bus.JobProperties, err error) {
					p.FreedBlobs, p.FreedPackages, p.FreedBytes, err = ag.space.Collect(ctx, o)
					return p, err
				},
			})
			if err != nil {
				return err
			}
			blobs, packages, bytes := p.FreedBlobs, p.FreedPackages, p.FreedBytes
			strays, err := ag.space.GetLastCollectionStrays(cmd.Context())
			if err != nil && !bus.IsUnknown(err) { // an older agent does not report them
				return err
			}
			var users []packageUserJSON
			for _, u := range strays {
				users = append(users, packageUserJSON(u))
			}
			if a.JSON {
				return a.WriteJSON(gcJSON{output.One, uint64(blobs), uint64(packages), bytes, own, users, nil})
			}
			if err := errors.Join(a.Say(gcText(false, uint64(blobs), uint64(packages), bytes)), a.sayUsers(users)); err != nil {
				return err
			}
			return a.sayUnread(cmd.Context(), ag)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would be removed")
	cmd.Flags().BoolVar(&nothing, "retain-nothing", false, "after state.db was lost: confirm that no system update was kept")
	cmd.Flags().StringVar(&free, "free", "", "stop when this `size` is freed")
	return cmd
}

// sayUnread names the processes that the collection could not read.
func (a *app) sayUnread(ctx context.Context, ag *agent) error {
	unread, err := ag.space.GetLastCollectionUnread(ctx)
	if bus.IsUnknown(err) { // of an older agent, which has collected nevertheless
		return nil
	}
	if err != nil || len(unread) == 0 || a.user {
		return err
	}
	var names []string
	for _, p := range unread {
		names = append(names, output.T("%s (PID %d, user %s)", output.OneLine(p.Command), p.PID, output.UserName(p.UID)))
	}
	return a.Say(output.T("could not be read, and keep nothing: %s", some(names)))
}

type gcJSON struct {
	output.Document
	Blobs    uint64            `json:"blobs"`
	Packages uint64            `json:"packages"`
	Bytes    uint64            `json:"bytes"`
	UserData uint64            `json:"user-data-bytes"`
	Users    []packageUserJSON `json:"in-use-by,omitempty"`
	Plan     *gcPlanJ          `json:"plan,omitempty"`
}

type gcPlanJ struct {
	Blobs    []blobJSON  `json:"blobs"`
	Packages []usageJSON `json:"packages"`
}

type blobJSON struct {
	Hash  string `json:"hash"`
	Bytes uint64 `json:"bytes"`
}

func gcText(plan bool, blobs, packages, bytes uint64) string {
	if blobs == 0 && packages == 0 {
		return output.T("nothing to free: everything that is there is needed")
	}
	message := output.Mark("freed %[1]s: %[2]s, %[3]s")
	if plan {
		message = output.Mark("would free %[1]s: %[2]s, %[3]s")
	}
	return fmt.Sprintf(output.Marked(message), output.Size(bytes), output.Count(blobs, "file", "files"), output.Count(packages, "package", "packages"))
}

// gcPlan prints the plan that gc would execute now.
func (a *app) gcPlan(ctx context.Context, ag *agent) error {
	blobs, packages, bytes, err := ag.space.Plan(ctx)
	if err != nil {
		return err
	}
	var going []bus.PackageUsage
	for _, p := range packages {
		if p.KeptBy == "" {
			going = append(going, p)
		}
	}
	users, err := packageUsers(ctx, ag, packages)
	if err != nil {
		return err
	}
	own, err := a.superseded(ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		plan := &gcPlanJ{[]blobJSON{}, usagesJSON(going)}
		for _, b := range blobs {
			plan.Blobs = append(plan.Blobs, blobJSON(b))
		}
		return a.WriteJSON(gcJSON{output.One, uint64(len(blobs)), uint64(len(going)), bytes, own, users, plan})
	}
	if len(going) > 0 {
		if err := a.usages(going); err != nil {
			return err
		}
	}
	text := gcText(true, uint64(len(blobs)), uint64(len(going)), bytes)
	// A failure is ignored.
	if p, err := ag.system().Properties(ctx); err == nil && p.CollectionRefused != "" {
		text += output.T("; but %s", a.Foreign(p.CollectionRefused))
	}
	if own > 0 {
		text += output.T("; and %s of superseded data in your home", output.Size(own))
	}
	return errors.Join(a.Say(text), a.sayUsers(users))
}
