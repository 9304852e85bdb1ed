package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// signing are the flags of every verb that signs.
type signing struct{ keys, expires string }

func (s *signing) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.keys, "keys", "", "`folder` of the keys, if not REPOSITORY.keys")
	cmd.Flags().StringVar(&s.expires, "expires", "", "how `long` signatures are good for, if not a year: 30d, 12w")
}

// common are the options as the publishing package takes them. The root key
// keeps its own, longer time.
func (s *signing) common() (publish.Common, error) {
	c := publish.Common{Keys: s.keys}
	if s.expires == "" {
		return c, nil
	}
	d, err := duration(s.expires)
	c.Expires = publish.Expiry{Targets: d, Snapshot: d, Timestamp: d}
	return c, err
}

func (a *app) publishCmd() *cobra.Command {
	var s signing
	var repository, channel, urgency, notes string
	var rollout int
	cmd := &cobra.Command{
		Use:   "publish FOLDER --repo REPOSITORY",
		Short: "Put a package into a repository",
		Long: `Publishes the package in FOLDER, which has a lull.yaml beside its files. The
repository is a folder that any web server can serve. No agent is needed.`,
		Example: `  lull repo init ./repo
  lull publish ./notes --repo ./repo
  lull publish ./notes --repo ./repo --channel edge --urgency security`,
		Args: args(1, 2),
		RunE: func(cmd *cobra.Command, words []string) error {
			switch {
			case len(words) == 2 && repository == "":
				repository = words[1]
			case len(words) == 2 || repository == "":
				return problem.New(problem.Usage, "cannot publish: no repository is named").WithHint("use it as `%s`", cmd.UseLine())
			}
			if !slices.Contains(repo.Urgencies, repo.Urgency(urgency)) {
				var all []string
				for _, u := range repo.Urgencies {
					all = append(all, string(u))
				}
				return problem.New(problem.Usage, "cannot understand the urgency %q", urgency).WithHint("it is %s", strings.Join(all, ", "))
			}
			common, err := s.common()
			if err != nil {
				return err
			}
			o := publish.Options{Common: common, Channel: channel, Urgency: repo.Urgency(urgency), Notes: notes}
			if cmd.Flags().Changed("rollout") {
				o.Rollout = &rollout
			}
			r, err := publish.Publish(cmd.Context(), repository, words[0], o)
			if err != nil {
				return doing("publish "+words[0], err)
			}
			return a.published(r)
		},
	}
	s.add(cmd)
	cmd.Flags().StringVar(&repository, "repo", "", "`folder` of the repository")
	cmd.Flags().StringVar(&channel, "channel", "stable", "`name` of the channel")
	cmd.Flags().StringVar(&urgency, "urgency", string(repo.UrgencyMedium), "how soon people should have it: low, medium, high, security")
	cmd.Flags().StringVar(&notes, "notes", "", "`text` that says what is new, if not that of lull.yaml")
	cmd.Flags().IntVar(&rollout, "rollout", 100, "`percent` of the machines that get it")
	_ = cmd.MarkFlagDirname("repo")
	return cmd
}

func (a *app) published(r *publish.Result) error {
	if a.json {
		return a.writeJSON(struct {
			document
			Name     string `json:"name"`
			Package  string `json:"package"`
			Release  string `json:"release"`
			Channel  string `json:"channel"`
			Blobs    int    `json:"blobs"`
			NewBlobs int    `json:"new-blobs"`
			Bytes    int64  `json:"bytes"`
			NewBytes int64  `json:"new-bytes"`
		}{one, r.Name, r.Package.String(), r.Version, r.Channel, r.Blobs, r.NewBlobs, r.Bytes, r.NewBytes})
	}
	return a.say(fmt.Sprintf("%s %s is published in channel %s: %s, %d new (%s)",
		r.Name, r.Version, r.Channel, count(r.Blobs, "file", "files"), r.NewBlobs, size(uint64(max(0, r.NewBytes)))))
}
