package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo/publish"
)

func (a *app) repoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Make repositories, or make them known to this machine",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.repoInitCmd(), a.repoAddCmd(), a.repoListCmd(), a.repoResignCmd(), a.repoRotateCmd())
	return cmd
}

func (a *app) repoInitCmd() *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use:   "init FOLDER",
		Short: "Make an empty repository and its keys",
		Long: `Makes an empty repository and, beside it in FOLDER.keys, the keys that sign it.
Keep the keys away from the web server. The root.json in the repository is what
others trust.`,
		Example: "  lull repo init ./repo",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common()
			if err != nil {
				return err
			}
			if err := publish.Init(cmd.Context(), words[0], publish.InitOptions{Common: common}); err != nil {
				return err
			}
			keys := either(s.keys, filepath.Clean(words[0])+".keys")
			if a.json {
				return a.writeJSON(struct {
					document
					Repository string `json:"repository"`
					Keys       string `json:"keys"`
				}{one, words[0], keys})
			}
			return a.say(fmt.Sprintf("%s is an empty repository now; its keys are in %s", words[0], keys))
		},
	}
	s.add(cmd)
	return cmd
}

func (a *app) repoResignCmd() *cobra.Command {
	var s signing
	var all bool
	cmd := &cobra.Command{
		Use:   "resign FOLDER",
		Short: "Sign a repository again, before its signatures expire",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common()
			if err != nil {
				return err
			}
			if err := publish.Resign(cmd.Context(), words[0], publish.ResignOptions{Common: common, All: all}); err != nil {
				return err
			}
			return a.say(words[0] + " is signed again")
		},
	}
	s.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "sign the list of packages, too, not only the timestamp")
	return cmd
}

func (a *app) repoRotateCmd() *cobra.Command {
	var s signing
	var roles []string
	cmd := &cobra.Command{
		Use:   "rotate FOLDER",
		Short: "Replace the keys of a repository by new ones",
		Long: `Replaces keys by new ones, as when one may have been seen by others. Those who
trust the repository follow by themselves. The old keys stay beside the new ones
in files that end in .old.`,
		Example: `  lull repo rotate ./repo
  lull repo rotate ./repo --role timestamp`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common()
			if err != nil {
				return err
			}
			if err := publish.Rotate(cmd.Context(), words[0], publish.RotateOptions{Common: common, Roles: roles}); err != nil {
				return err
			}
			return a.say(words[0] + " has new keys")
		},
	}
	s.add(cmd)
	cmd.Flags().StringSliceVar(&roles, "role", nil, "root, targets, snapshot or timestamp; default all")
	return cmd
}

func (a *app) repoAddCmd() *cobra.Command {
	var trust string
	cmd := &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Make a repository known to this machine",
		Long: `Makes a repository known to the agent: a folder, or an http or https address.
What is trusted is its root.json. Get that from its makers by a way that you
trust; that of a local folder is taken from there.`,
		Example: `  lull repo add local ./repo
  lull repo add example https://example.org/lull --trust root.json`,
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, words []string) error {
			name, address := words[0], words[1]
			local := !strings.Contains(address, "://")
			if path, ok := strings.CutPrefix(address, "file://"); ok {
				address, local = path, true
			}
			if local {
				abs, err := filepath.Abs(address)
				if err != nil {
					return problem.New(problem.Failed, "cannot add %s: %w", name, err)
				}
				address = abs
				if trust == "" {
					trust = filepath.Join(abs, "root.json")
				}
			}
			if trust == "" {
				return problem.New(problem.Usage, "cannot add %s: nothing says what is trusted", name).
					WithHint("get the root.json of the repository from its makers, and name it with --trust")
			}
			root, err := os.ReadFile(trust)
			if err != nil {
				return problem.New(problem.Invalid, "cannot add %s: what is trusted cannot be read: %w", name, err)
			}
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				if err := ag.manager.AddRepository(ctx, name, address, root); err != nil {
					return err
				}
				return a.say(fmt.Sprintf("repository %s is known now: %s", name, address))
			})
		},
	}
	cmd.Flags().StringVar(&trust, "trust", "", "`file` with the root metadata that is trusted from now on")
	return cmd
}

func (a *app) repoListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the repositories that this machine knows",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				repositories, err := ag.manager.GetRepositories(ctx)
				if err != nil {
					return err
				}
				if a.json {
					doc := struct {
						document
						Repositories []repositoryJSON `json:"repositories"`
					}{one, []repositoryJSON{}}
					for _, r := range repositories {
						doc.Repositories = append(doc.Repositories, repositoryJSON(r))
					}
					return a.writeJSON(doc)
				}
				if len(repositories) == 0 {
					return a.say("no repository is known; `lull repo add` makes one known")
				}
				rows := make([][]string, len(repositories))
				for i, r := range repositories {
					rows[i] = []string{r.Name, r.URL}
				}
				return a.table([]column{{title: "NAME", least: 8}, {title: "ADDRESS", least: 20}}, rows)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
