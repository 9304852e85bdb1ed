package main

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

func (a *app) gcCmd() *cobra.Command {
	var dry, nothing bool
	var free string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Free the space of what nothing needs any more",
		Long: `Takes away packages and files that nothing needs: not installed, not kept for
` + "`lull revert`" + `, not running, not open, not being downloaded. Nothing stops for it.`,
		Example: `  lull gc --dry-run      what would go
  lull gc --free 500MB   stop when so much is freed`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := bus.CollectOptions{RetainNothing: nothing}
			if free != "" {
				n, err := humanize.ParseBytes(free)
				if err != nil || n == 0 {
					return problem.New(problem.Usage, "cannot understand the size %q", free).WithHint("write it as 500MB or 2GiB")
				}
				o.Free = n
			}
			if dry {
				return a.ask(cmd.Context(), a.gcPlan)
			}
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			blobs, packages, bytes, err := ag.space.Collect(cmd.Context(), o)
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(gcJSON{one, uint64(blobs), uint64(packages), bytes, nil})
			}
			return a.say(gcText("freed", uint64(blobs), uint64(packages), bytes))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	cmd.Flags().BoolVar(&nothing, "retain-nothing", false, "after state.db was lost: say that no system update was being kept")
	cmd.Flags().StringVar(&free, "free", "", "stop when this `size` is freed")
	return cmd
}

type gcJSON struct {
	document
	Blobs    uint64   `json:"blobs"`
	Packages uint64   `json:"packages"`
	Bytes    uint64   `json:"bytes"`
	Plan     *gcPlanJ `json:"plan,omitempty"`
}

type gcPlanJ struct {
	Blobs    []blobJSON  `json:"blobs"`
	Packages []usageJSON `json:"packages"`
}

type blobJSON struct {
	Hash  string `json:"hash"`
	Bytes uint64 `json:"bytes"`
}

func gcText(verb string, blobs, packages, bytes uint64) string {
	if blobs == 0 && packages == 0 {
		return "nothing to free: everything that is there is needed"
	}
	return fmt.Sprintf("%s %s: %s, %s", verb, size(bytes), count(blobs, "file", "files"), count(packages, "package", "packages"))
}

// gcPlan prints the very plan that gc would follow now.
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
	if a.json {
		plan := &gcPlanJ{[]blobJSON{}, usagesJSON(going)}
		for _, b := range blobs {
			plan.Blobs = append(plan.Blobs, blobJSON(b))
		}
		return a.writeJSON(gcJSON{one, uint64(len(blobs)), uint64(len(going)), bytes, plan})
	}
	if len(going) > 0 {
		if err := a.usages(going); err != nil {
			return err
		}
	}
	text := gcText("would free", uint64(len(blobs)), uint64(len(going)), bytes)
	// Good to know, not needed.
	if p, err := ag.system().Properties(ctx); err == nil && p.CollectionRefused != "" {
		text += "; but " + p.CollectionRefused
	}
	return a.say(text)
}
