package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) repoPruneCmd() *cobra.Command {
	var s signing
	var grace string
	var dry bool
	cmd := &cobra.Command{
		Use:   "prune REPOSITORY",
		Short: "Remove what no channel of a repository needs any more",
		Long: `Removes versions that no channel offers any more, their files, and old metadata. A
version stays for the time of --grace after it was offered last, so that machines can
finish what they fetch. Nothing that a channel offers is removed.`,
		Example: `  lull repo prune ./repo --dry-run
  lull repo prune s3://packages/main --keys ./keys --grace 30d`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			o := publish.PruneOptions{Common: common, DryRun: dry}
			if o.Grace, err = output.ParseDuration(grace); err != nil {
				return err
			}
			p, err := publish.Prune(cmd.Context(), words[0], o)
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(repoPruneJSON{output.One, words[0], dry, p.Blobs, p.Bytes, p.Others})
			}
			blobs, others, size := output.Count(p.Blobs, "blob", "blobs"), output.Count(p.Others, "file", "files"), output.Size(uint64(max(0, p.Bytes)))
			if dry {
				return a.Say(output.T("%[1]s: %[2]s and %[3]s of offers and metadata would be removed (%[4]s)", words[0], blobs, others, size))
			}
			return a.Say(output.T("%[1]s: %[2]s and %[3]s of offers and metadata removed (%[4]s)", words[0], blobs, others, size))
		},
	}
	s.add(a, cmd)
	cmd.Flags().StringVar(&grace, "grace", "14d", "`time` for which a version stays after it was offered last: 14d, 12w")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would be removed")
	return cmd
}

func (a *app) repoCheckCmd() *cobra.Command {
	var s signing
	var from string
	var quick bool
	cmd := &cobra.Command{
		Use:   "check REPOSITORY",
		Short: "Verify all that a repository offers, and mend it from a copy",
		Long: `Reads all metadata, offers and files that the channels of a repository need, and
reports what is missing or damaged. With --from it is replaced by that of a copy, a
directory or s3://BUCKET/PREFIX. The copy is verified in the same way. No private key is
needed. It exits with status 1 if a fault remains.`,
		Example: `  lull repo check ./repo
  lull repo check s3://packages/main --keys ./keys --from ./backup`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			o := publish.CheckOptions{Common: common, Quick: quick}
			if from != "" {
				if o.From, err = storageOf(from); err != nil {
					return err
				}
				if o.From == nil {
					o.From = publish.Directory(from)
				}
			}
			r, err := publish.Check(cmd.Context(), words[0], o)
			if err != nil {
				return err
			}
			return a.repoChecked(words[0], r)
		},
	}
	cmd.Flags().StringVar(&s.keys, "keys", "", "`directory` with the root of trust, if not REPOSITORY.keys; a bucket needs it")
	cmd.Flags().StringVar(&from, "from", "", "`copy` that missing and damaged files are taken from")
	cmd.Flags().BoolVar(&quick, "quick", false, "check that files exist, and not their content")
	_ = cmd.MarkFlagDirname("from")
	return cmd
}

func (a *app) repoChecked(repository string, r publish.Checked) error {
	doc := repoCheckJSON{Document: output.One, Repository: repository, Channels: r.Channels, Packages: r.Packages, Blobs: r.Blobs, Bytes: r.Bytes,
		Faults: []repoFaultJSON{}, Unused: r.Unused, UnusedBytes: r.UnusedBytes}
	broken := 0
	for _, f := range r.Faults {
		doc.Faults = append(doc.Faults, repoFaultJSON(f))
		state := output.T("broken")
		if f.Mended {
			state = output.T("repaired")
		} else {
			broken++
		}
		if !a.JSON {
			if err := a.Say(state + "  " + output.OneLine(f.Path) + ": " + output.OneLine(a.Foreign(f.Error))); err != nil {
				return err
			}
		}
	}
	var err error
	if a.JSON {
		err = a.WriteJSON(doc)
	} else {
		err = a.Say(output.T("%s with %s checked (%s)", output.Count(r.Channels, "channel", "channels"), output.Count(r.Blobs, "blob", "blobs"), output.Size(uint64(max(0, r.Bytes)))))
		if err == nil && r.Unused > 0 {
			err = a.Say(output.T("%s (%s) that no channel needs; lull repo prune removes what is old", output.Count(r.Unused, "file", "files"), output.Size(uint64(max(0, r.UnusedBytes)))))
		}
	}
	if err == nil && broken > 0 {
		return output.Error(errkind.Failed, "cannot confirm that the repository is whole: %s broken", output.Count(broken, "file is", "files are")).
			WithHint("--from COPY takes them from a copy of the repository")
	}
	return err
}

func (a *app) channelListCmd() *cobra.Command {
	var f channelFlags
	cmd := &cobra.Command{
		Use:     "list --repo REPOSITORY",
		Short:   "List the newest version in each channel of each package",
		Example: "  lull channel list --repo ./repo",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options("")
			if err != nil {
				return err
			}
			all, err := publish.List(cmd.Context(), f.repository, o.Common)
			if err != nil {
				return err
			}
			now := time.Now()
			if a.JSON {
				doc := channelListJSON{output.One, []channelNewestJSON{}}
				for _, list := range all {
					doc.Channels = append(doc.Channels, channelNewestJSON{list[0].Name, list[0].Channel, versionOf(&list[0], now)})
				}
				return a.WriteJSON(doc)
			}
			if len(all) == 0 {
				return a.Say(output.T("no package is published"))
			}
			rows := make([][]string, len(all))
			for i, list := range all {
				rows[i] = []string{list[0].Name, list[0].Channel, list[0].Version, offerWords(&list[0], now)}
			}
			return a.Table([]output.Column{{Title: "NAME", Least: 16}, {Title: "CHANNEL", Least: 8}, {Title: "VERSION", Least: 8}, {Title: "REACHES", Least: 12}}, rows)
		},
	}
	cmd.Flags().StringVar(&f.keys, "keys", "", "`directory` with the root of trust, if not REPOSITORY.keys; a bucket needs it")
	cmd.Flags().StringVar(&f.repository, "repo", "", "`directory` of the repository, or s3://BUCKET/PREFIX")
	_ = cmd.MarkFlagDirname("repo")
	return cmd
}

func (a *app) channelRemoveCmd() *cobra.Command {
	var f channelFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "remove NAME --repo REPOSITORY",
		Short: "Stop offering a package in a channel, or at all",
		Long: `Ends the offers of a package in a channel, or with --all in all of its channels.
Machines that have the package keep it, and new ones do not get it. lull repo prune
removes its files later; until then lull publish restores the channel quickly.`,
		Example: `  lull channel remove org.example.notes --repo ./repo --channel edge
  lull channel remove org.example.notes --repo ./repo --all`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			if all && cmd.Flags().Changed("channel") {
				return output.Error(errkind.Usage, "cannot use --all with --channel")
			}
			o, err := f.options(words[0])
			if err != nil {
				return err
			}
			removed, err := publish.Remove(cmd.Context(), f.repository, publish.RemoveOptions{ChannelOptions: o, All: all})
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(channelRemovedJSON{output.One, words[0], append([]string{}, removed...)})
			}
			if len(removed) == 0 {
				return a.Say(output.T("%s is not offered there: there is nothing to do", words[0]))
			}
			return a.Say(output.T("%[1]s is not offered any more in %[2]s", words[0], strings.Join(removed, ", ")))
		},
	}
	f.add(a, cmd)
	f.addVersion(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "remove it from all channels")
	return cmd
}

// versionOf describes an offer.
func versionOf(o *repo.Offer, now time.Time) channelVersionJSON {
	j := channelVersionJSON{Release: o.Version, Package: o.Package.String(), Urgency: string(o.Urgency), Published: o.Published, Percent: o.Percent(now), Rollout: repo.FormatSteps(o.Steps), NeedsLull: o.NeedsLull}
	if len(o.Steps) > 0 {
		j.Start = &o.Start
	}
	if o.Halted != nil {
		j.Halted, j.Reason = &o.Halted.At, o.Halted.Reason
	}
	return j
}

// channelListJSON is what `lull channel list` writes.
type channelListJSON struct {
	output.Document
	Channels []channelNewestJSON `json:"channels"`
}

// channelNewestJSON is a channel with its newest version.
type channelNewestJSON struct {
	Name    string `json:"name"`
	Channel string `json:"channel"`
	channelVersionJSON
}

// channelRemovedJSON is what `lull channel remove` writes.
type channelRemovedJSON struct {
	output.Document
	Name     string   `json:"name"`
	Channels []string `json:"channels"`
}

// repoPruneJSON is what `lull repo prune` writes.
type repoPruneJSON struct {
	output.Document
	Repository string `json:"repository"`
	DryRun     bool   `json:"dry-run"`
	Blobs      int    `json:"blobs"`
	Bytes      int64  `json:"bytes"` // of the blobs, as stored
	Others     int    `json:"others"`
}

// repoCheckJSON is what `lull repo check` writes.
type repoCheckJSON struct {
	output.Document
	Repository  string          `json:"repository"`
	Channels    int             `json:"channels"`
	Packages    int             `json:"packages"`
	Blobs       int             `json:"blobs"`
	Bytes       int64           `json:"bytes"` // of the blobs, uncompressed
	Faults      []repoFaultJSON `json:"faults"`
	Unused      int             `json:"unused"`
	UnusedBytes int64           `json:"unused-bytes"`
}

type repoFaultJSON struct {
	Path   string `json:"path"`
	Error  string `json:"error"`
	Mended bool   `json:"mended"`
}
