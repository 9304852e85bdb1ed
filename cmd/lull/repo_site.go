package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repo/publish/bucket"
	"github.com/lull/lull/agent/repo/site"
	"github.com/lull/lull/cmd/lull/output"
)

// siteDir is the directory of the web page in a repository.
const siteDir = "site"

func (a *app) repoSiteCmd() *cobra.Command {
	var s signing
	var o site.Options
	cmd := &cobra.Command{
		Use:   "site REPOSITORY",
		Short: "Make the web page of a repository",
		Long: `Makes static web pages that show the applications of a repository and how to add it,
in English and German, and an AppStream catalogue beside them. The pages need no server
and no script. They are REPOSITORY/site, or --output, which a bucket needs. No private
key is needed.

Address, title and name are kept with the page, so that later runs need no flags.
What a package has that cannot be shown is left out and listed.`,
		Example: `  lull repo site ./repo --url https://example.org/lull --title "Programs of Example"
  lull repo site s3://packages/main --keys ./keys --output ./site`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			o.Common = common
			return a.makeSite(cmd.Context(), words[0], o)
		},
	}
	cmd.Flags().StringVar(&s.keys, "keys", "", "`directory` with the root of trust, if not REPOSITORY.keys; a bucket needs it")
	cmd.Flags().StringVar(&o.Output, "output", "", "`directory` of the page, if not REPOSITORY/site")
	cmd.Flags().StringVar(&o.URL, "url", "", "`address` at which the repository is served, for the commands on the page")
	cmd.Flags().StringVar(&o.Title, "title", "", "`title` of the page")
	cmd.Flags().StringVar(&o.Name, "name", "", "`name` that the page suggests for the repository")
	_ = cmd.MarkFlagDirname("output")
	return cmd
}

// makeSite makes the web page of a repository, and reports it.
func (a *app) makeSite(ctx context.Context, repository string, o site.Options) error {
	if o.Output == "" {
		if strings.HasPrefix(repository, bucket.Scheme) {
			return output.Error(errkind.Usage, "cannot make the page of %s: no directory is named", repository).WithHint("--output names it")
		}
		o.Output = filepath.Join(repository, siteDir)
	}
	r, err := site.Make(ctx, repository, o)
	if err != nil {
		return err
	}
	if a.JSON {
		doc := repoSiteJSON{output.One, repository, o.Output, r.Applications, []siteLeftOutJSON{}}
		for _, l := range r.LeftOut {
			doc.LeftOut = append(doc.LeftOut, siteLeftOutJSON(l))
		}
		return a.WriteJSON(doc)
	}
	if err := a.Say(output.T("%[1]s is the page of %[2]s", filepath.Join(o.Output, "index.html"), output.Count(r.Applications, "application", "applications"))); err != nil {
		return err
	}
	for _, l := range r.LeftOut {
		if err := a.Say(output.T("  left out: %[1]s (%[2]s)", output.OneLine(strings.TrimSuffix(l.Package+" "+l.Path, " ")), output.OneLine(a.Foreign(l.Reason)))); err != nil {
			return err
		}
	}
	return nil
}

// siteOf makes the web page of a repository again after a publication, if it has one.
func (a *app) siteOf(ctx context.Context, repository, dir string, common publish.Common) error {
	if dir == "" {
		return nil
	}
	o := site.Options{Common: common, Output: dir}
	var err error
	if a.JSON {
		_, err = site.Make(ctx, repository, o)
	} else {
		err = a.makeSite(ctx, repository, o)
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "%w", err).WithHint("the new version is published; lull repo site makes the page")
	}
	return nil
}

// repoSiteJSON is what `lull repo site` writes.
type repoSiteJSON struct {
	output.Document
	Repository   string `json:"repository"`
	Site         string `json:"site"`
	Applications int    `json:"applications"`
	// LeftOut are packages and files that cannot be shown.
	LeftOut []siteLeftOutJSON `json:"left-out"`
}

type siteLeftOutJSON struct {
	Package string `json:"package"`
	Path    string `json:"path"` // "" for a whole package
	Reason  string `json:"reason"`
}
