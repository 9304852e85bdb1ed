package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

// parseCounts reads the numbers of keys: "root=2/3".
func parseCounts(list []string) (map[string]publish.Count, error) {
	counts := map[string]publish.Count{}
	for _, text := range list {
		var c publish.Count
		role, numbers, _ := strings.Cut(text, "=")
		if _, err := fmt.Sscanf(numbers, "%d/%d", &c.Needed, &c.Of); err != nil || fmt.Sprintf("%d/%d", c.Needed, c.Of) != numbers {
			return nil, output.Error(errkind.Usage, "cannot understand the threshold %.40q", text).WithHint("write it as root=2/3")
		}
		counts[role] = c
	}
	return counts, nil
}

func (a *app) repoExportKeyCmd() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "export-key ROLE --keys DIRECTORY",
		Short: "Write the public key of a role, for the owner of a repository",
		Long: `Writes the public key of a role to ROLE.pub beside the private key, and makes the
key if there is none. The owner of a repository delegates names to it by lull repo
delegate.`,
		Example: "  lull repo export-key vendor --keys ./keys",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			if s.keys == "" {
				return output.Error(errkind.Usage, "cannot export a key: no directory of keys is named").WithHint("--keys names it")
			}
			common, err := s.common("")
			if err != nil {
				return err
			}
			path, err := publish.ExportKey(cmd.Context(), words[0], common)
			if err != nil {
				return output.Doing("export the key of "+words[0], err)
			}
			if a.JSON {
				return a.WriteJSON(exportedKeyJSON{output.One, path})
			}
			return a.Say(output.T("the public key of %s is in %s", words[0], path))
		},
	}
	s.app = a
	cmd.Flags().StringVar(&s.keys, "keys", "", "`directory` of the keys")
	s.addPassphrase(cmd)
	_ = cmd.MarkFlagDirname("keys")
	return cmd
}

// exportedKeyJSON is what `lull repo export-key` writes.
type exportedKeyJSON struct {
	output.Document
	Path string `json:"path"`
}

func (a *app) repoDelegateCmd() *cobra.Command {
	var s signing
	var keys []string
	var threshold int
	cmd := &cobra.Command{
		Use:   "delegate REPOSITORY ROLE NAME...",
		Short: "Let another publisher sign the packages with some names",
		Long: `Lets the keys of another publisher sign the packages with a NAME, or whose names
begin with NAME if it ends in "*". These keys can publish nothing else. ROLE is a
short name for them. Without --key a key is made, KEYS/ROLE.pem, for its owner.

The other publisher needs the repository's root.json beside the key, and publishes as
usual. If the keys of snapshot and timestamp are not there, machines see the new
versions after lull repo accept.

Versions of lull that do not know delegation cannot use the repository any more.`,
		Example: "  lull repo delegate ./repo vendor 'org.vendor.*' --key vendor.pub",
		Args:    args(3, 1000),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			err = publish.Delegate(cmd.Context(), words[0], publish.DelegateOptions{Common: common, Role: words[1], Names: words[2:], Keys: keys, Threshold: threshold})
			if err != nil {
				return err
			}
			return a.signed(words[0], output.T("%[1]s signs %[2]s now", words[1], strings.Join(words[2:], ", ")))
		},
	}
	s.add(a, cmd)
	cmd.Flags().StringArrayVar(&keys, "key", nil, "`file` with a public key in PEM; may be repeated")
	cmd.Flags().IntVar(&threshold, "threshold", 1, "`number` of the keys that a signature needs")
	return cmd
}

func (a *app) repoUndelegateCmd() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "undelegate REPOSITORY ROLE",
		Short: "Take back names that were delegated",
		Long: `Ends a delegation, as when a key of it was stolen. What was accepted stays offered,
and is signed by the keys of the repository from then on. lull channel halt or remove
ends an offer.`,
		Example: "  lull repo undelegate ./repo vendor",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			if err := publish.Undelegate(cmd.Context(), words[0], words[1], common); err != nil {
				return err
			}
			return a.signed(words[0], output.T("%s signs nothing any more", words[1]))
		},
	}
	s.add(a, cmd)
	return cmd
}

func (a *app) repoAcceptCmd() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "accept REPOSITORY ROLE",
		Short: "Show machines what another publisher has published",
		Long: `Makes the newest list of packages of a delegated ROLE visible to machines. It checks
the signatures and names, and that all content is in the repository. It needs the keys
of snapshot and timestamp.`,
		Example: "  lull repo accept ./repo vendor",
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			list, err := publish.Accept(cmd.Context(), words[0], words[1], common)
			if err != nil {
				return err
			}
			doc := acceptedJSON{Document: output.One, Repository: words[0], Role: words[1], Offers: []acceptedOfferJSON{}}
			for _, offers := range list {
				doc.Offers = append(doc.Offers, acceptedOfferJSON{offers[0].Name, offers[0].Channel, offers[0].Version})
			}
			if a.JSON {
				return a.WriteJSON(doc)
			}
			for _, o := range doc.Offers {
				if err := a.Say(output.T("%[1]s %[2]s is offered in channel %[3]s", o.Name, o.Release, o.Channel)); err != nil {
					return err
				}
			}
			return a.Say(output.T("the list of %s is accepted", words[1]))
		},
	}
	s.add(a, cmd)
	return cmd
}

// acceptedJSON is what `lull repo accept` writes.
type acceptedJSON struct {
	output.Document
	Repository string              `json:"repository"`
	Role       string              `json:"role"`
	Offers     []acceptedOfferJSON `json:"offers"` // that are new
}

type acceptedOfferJSON struct {
	Name    string `json:"name"`
	Channel string `json:"channel"`
	Release string `json:"release"`
}
