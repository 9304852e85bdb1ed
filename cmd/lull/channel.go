package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) channelCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "channel",
		Short: "Show and change what the channels of a repository offer",
		Long: `Works on a repository that you sign, without the packages' sources and without an
agent. If it is a directory, copy it to its server afterwards: a change reaches each
machine with its next check.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.channelListCmd(), a.channelShowCmd(), a.channelHaltCmd(), a.channelResumeCmd(), a.channelPromoteCmd(), a.channelRemoveCmd(), a.channelWatchCmd())
	return cmd
}

// channelFlags are the flags of every verb about a channel.
type channelFlags struct {
	signing
	repository, channel, version string
}

func (f *channelFlags) add(a *app, cmd *cobra.Command) {
	f.signing.add(a, cmd)
	cmd.Flags().StringVar(&f.repository, "repo", "", "`directory` of the repository, or s3://BUCKET/PREFIX")
	cmd.Flags().StringVar(&f.channel, "channel", "stable", "`name` of the channel")
	_ = cmd.MarkFlagDirname("repo")
}

func (f *channelFlags) addVersion(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.version, "version", "", "only if this `version` is the newest of the channel")
}

func (f *channelFlags) options(name string) (publish.ChannelOptions, error) {
	if f.repository == "" {
		return publish.ChannelOptions{}, output.Error(errkind.Usage, "cannot change a channel: no repository is named").WithHint("--repo names its directory")
	}
	common, err := f.common(f.repository)
	return publish.ChannelOptions{Common: common, Name: name, Channel: f.channel, Version: f.version}, err
}

func (a *app) channelShowCmd() *cobra.Command {
	var f channelFlags
	cmd := &cobra.Command{
		Use:     "show NAME --repo REPOSITORY",
		Short:   "Show which versions a channel offers to how many machines",
		Example: "  lull channel show org.example.notes --repo ./repo",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			o, err := f.options(words[0])
			if err != nil {
				return err
			}
			list, err := publish.ReadChannel(cmd.Context(), f.repository, o)
			if err != nil {
				return err
			}
			return a.showOffers(list)
		},
	}
	f.add(a, cmd)
	return cmd
}

func (a *app) channelHaltCmd() *cobra.Command {
	var f channelFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "halt NAME --repo REPOSITORY",
		Short: "End the rollout of the newest version for now",
		Long: `No further machine gets the newest version of a channel, also not one that has
prepared it and waits for the application to be closed. Machines that have it keep
it; the others go on with the version before. lull channel resume undoes it, and
a version that is published later is not halted.`,
		Example: "  lull channel halt org.example.notes --repo ./repo --reason \"crashes at start\"",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			o, err := f.options(words[0])
			if err != nil {
				return err
			}
			list, err := publish.Halt(cmd.Context(), f.repository, publish.HaltOptions{ChannelOptions: o, Reason: reason})
			if err != nil {
				return err
			}
			return a.showOffers(list)
		},
	}
	f.add(a, cmd)
	f.addVersion(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` that machines show and log")
	return cmd
}

func (a *app) channelResumeCmd() *cobra.Command {
	var f channelFlags
	cmd := &cobra.Command{
		Use:   "resume NAME --repo REPOSITORY",
		Short: "Go on with the rollout of a version that was halted",
		Long: `Goes on with a rollout where it was halted: its later steps are delayed by as long
as the halt has lasted.`,
		Example: "  lull channel resume org.example.notes --repo ./repo",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			o, err := f.options(words[0])
			if err != nil {
				return err
			}
			list, err := publish.Resume(cmd.Context(), f.repository, o)
			if err != nil {
				return err
			}
			return a.showOffers(list)
		},
	}
	f.add(a, cmd)
	f.addVersion(cmd)
	return cmd
}

func (a *app) channelPromoteCmd() *cobra.Command {
	var f channelFlags
	var from, rollout, notes string
	cmd := &cobra.Command{
		Use:   "promote NAME --repo REPOSITORY",
		Short: "Offer the newest version of a channel to all machines, or in another channel",
		Long: `Ends the rollout of the newest version: from now on all machines get it. With
--from it offers the newest version of another channel in this one, as if it had
just been published. --rollout is that of lull publish.`,
		Example: `  lull channel promote org.example.notes --repo ./repo
  lull channel promote org.example.notes --repo ./repo --from edge --rollout 1%@0h,10%@6h,100%@2d`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			o := publish.PromoteOptions{From: from, Notes: notes}
			var err error
			if o.ChannelOptions, err = f.options(words[0]); err != nil {
				return err
			}
			if cmd.Flags().Changed("rollout") {
				if o.Rollout, o.Steps, err = parseRollout(rollout); err != nil {
					return err
				}
			}
			list, err := publish.Promote(cmd.Context(), f.repository, o)
			if err != nil {
				return err
			}
			return a.showOffers(list)
		},
	}
	f.add(a, cmd)
	f.addVersion(cmd)
	cmd.Flags().StringVar(&from, "from", "", "`channel` that the version is taken from")
	cmd.Flags().StringVar(&rollout, "rollout", "100%", "`share` of the machines that get it, or shares by time")
	cmd.Flags().StringVar(&notes, "notes", "", "`text` that describes what is new, if not that of the version")
	return cmd
}

// parseRollout reads a percentage, or a rollout by time.
func parseRollout(s string) (*int, []repo.Step, error) {
	if strings.Contains(s, "@") {
		steps, err := repo.ParseSteps(s)
		return nil, steps, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
	if err != nil || n < 0 || n > 100 {
		return nil, nil, output.Error(errkind.Usage, "cannot understand the rollout %.200q", s).
			WithHint("use a percentage, or steps such as 1%%@0h,10%%@6h,100%%@2d")
	}
	return &n, nil, nil
}

// channelJSON is what `lull channel show`, `halt`, `resume` and `promote` write.
type channelJSON struct {
	output.Document
	Name    string               `json:"name"`
	Channel string               `json:"channel"`
	Offers  []channelVersionJSON `json:"offers"` // the newest first
}

// channelVersionJSON is a version that a channel offers.
type channelVersionJSON struct {
	Release   string     `json:"release"`
	Package   string     `json:"package"`
	Urgency   string     `json:"urgency"`
	Published time.Time  `json:"published"`
	Percent   int        `json:"percent"`           // of the machines, now
	Rollout   string     `json:"rollout,omitempty"` // by time, from start on
	Start     *time.Time `json:"start,omitempty"`
	Halted    *time.Time `json:"halted,omitempty"` // since when
	Reason    string     `json:"reason,omitempty"` // of the halt
	NeedsLull string     `json:"needs-lull,omitempty"`
}

func (a *app) showOffers(list repo.Offers) error {
	now := time.Now()
	if a.JSON {
		doc := channelJSON{Document: output.One, Name: list[0].Name, Channel: list[0].Channel, Offers: []channelVersionJSON{}}
		for i := range list {
			doc.Offers = append(doc.Offers, versionOf(&list[i], now))
		}
		return a.WriteJSON(doc)
	}
	for i := range list {
		o := &list[i]
		words := offerWords(o, now)
		if o.NeedsLull != "" {
			words = output.T("%[1]s, from lull %[2]s on", words, o.NeedsLull)
		}
		if err := a.Say(output.T("%s %s in channel %s: %s", o.Name, o.Version, o.Channel, words)); err != nil {
			return err
		}
	}
	return nil
}

// offerWords describes the machines that an offer reaches.
func offerWords(o *repo.Offer, now time.Time) string {
	switch {
	case o.Halted != nil && o.Halted.Reason != "":
		return output.T("halted %[1]s: %[2]s", output.Ago(o.Halted.At, now), output.OneLine(o.Halted.Reason))
	case o.Halted != nil:
		return output.T("halted %s", output.Ago(o.Halted.At, now))
	case len(o.Steps) > 0 && o.Percent(now) < o.Steps[len(o.Steps)-1].Percent:
		return output.T("%d%% of the machines; %s since %s", o.Percent(now), repo.FormatSteps(o.Steps), o.Start.Format(time.RFC3339))
	case o.Percent(now) < 100:
		return output.T("%d%% of the machines", o.Percent(now))
	}
	return output.T("all machines")
}
