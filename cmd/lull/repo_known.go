package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// repositoriesOf returns the repositories of the agent, also those that it leaves out. An
// older agent reports names and addresses alone.
func repositoriesOf(m bus.ManagerProperties) (list []repositoryJSON) {
	for _, r := range m.RepositoryStates {
		list = append(list, repositoryJSON{Name: r.Name, URL: r.URL, Checking: output.Stamp(r.Checking), Read: output.Stamp(r.Read),
			Failed: output.Stamp(r.Failed), Error: r.Error, LeftOut: r.LeftOut})
	}
	for _, m := range m.Mirrors {
		if i := slices.IndexFunc(list, func(r repositoryJSON) bool { return r.Name == m.Repository }); i >= 0 {
			list[i].Mirrors = append(list[i].Mirrors, mirrorJSON{m.URL, output.Stamp(m.Failed), m.Behind, m.Error})
		}
	}
	if len(list) == 0 {
		for _, r := range m.Repositories {
			list = append(list, repositoryJSON{Name: r.Name, URL: r.URL})
		}
	}
	return list
}

// words describes the last read of a repository; failure is its error in the language.
func (r repositoryJSON) words(now time.Time, failure string) string {
	switch {
	case r.LeftOut:
		return output.T("left out: %s", failure)
	case r.Checking != nil && r.Error != "":
		return output.T("checking since %[1]s; before: %[2]s", output.Ago(*r.Checking, now), failure)
	case r.Checking != nil:
		return output.T("checking since %s", output.Ago(*r.Checking, now))
	case r.Error != "" && r.Failed != nil:
		return output.T("failed %[1]s: %[2]s", output.Ago(*r.Failed, now), failure)
	case r.Error != "":
		return failure
	case r.Read != nil:
		return output.T("read %s", output.Ago(*r.Read, now))
	}
	return ""
}

// words describes a mirror; failure is its error in the language.
func (m mirrorJSON) words(now time.Time, failure string) string {
	switch {
	case m.Failed == nil:
		return m.URL
	case m.Behind:
		return output.T("%[1]s (was behind %[2]s, and is passed over)", m.URL, output.Ago(*m.Failed, now))
	}
	return output.T("%[1]s (failed %[2]s, and is passed over: %[3]s)", m.URL, output.Ago(*m.Failed, now), failure)
}

func (a *app) repoListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the repositories that this machine knows",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				m, err := ag.manager.Properties(ctx)
				if err != nil {
					return err
				}
				repositories := repositoriesOf(m)
				if a.JSON {
					return a.WriteJSON(repoListJSON{output.One, append([]repositoryJSON{}, repositories...)})
				}
				if len(repositories) == 0 {
					return a.Say(output.T("no repository is known; `lull repo add` makes one known"))
				}
				rows := make([][]string, len(repositories))
				for i, r := range repositories {
					rows[i] = []string{r.Name, r.URL, r.words(a.Now(), a.Foreign(r.Error))}
				}
				return a.Table([]output.Column{{Title: "NAME", Least: 8}, {Title: "ADDRESS", Least: 20}, {Title: "STATE", Least: 12}}, rows)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) repoShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a repository, and what is installed from it",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				m, err := ag.manager.Properties(ctx)
				if err != nil {
					return err
				}
				s, err := ag.snapshot(ctx)
				if err != nil {
					return err
				}
				installed := []string{}
				for _, p := range s.packages {
					if p.Repository == words[0] {
						installed = append(installed, p.Instance)
					}
				}
				for _, r := range repositoriesOf(m) {
					if r.Name == words[0] {
						return a.showRepository(r, installed)
					}
				}
				err = output.Error(errkind.NotFound, "cannot find repository %s: it is not known", output.OneLine(words[0])).WithHint("`lull repo list` shows those that are")
				if len(installed) > 0 {
					err = output.Error(errkind.NotFound, "cannot find repository %s, from which %s came: it is not known any more", output.OneLine(words[0]), output.List(installed)).
						WithHint("`lull repo add %s ADDRESS` makes it known again; until then there are no updates", output.OneLine(words[0]))
				}
				return err
			})
		},
		ValidArgsFunction: a.completeRepositories,
	}
}

func (a *app) showRepository(r repositoryJSON, installed []string) error {
	if a.JSON {
		return a.WriteJSON(repoShowJSON{output.One, r, installed})
	}
	last := output.T("never")
	if r.Read != nil {
		last = output.Ago(*r.Read, a.Now())
	}
	fields := [][2]string{
		{"Name", r.Name},
		{"Address", output.Either(r.URL, output.T("unknown"))},
	}
	for _, m := range r.Mirrors {
		fields = append(fields, [2]string{"Mirror", m.words(a.Now(), a.Foreign(m.Error))})
	}
	return a.Fields(append(fields, [][2]string{
		{"State", output.Either(r.words(a.Now(), a.Foreign(r.Error)), output.T("not read yet"))},
		{"Last success", last},
		{"Installed", output.Either(output.List(installed), output.T("nothing"))},
	}...))
}

func (a *app) repoRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Forget a repository, and what it is trusted by",
		Long: `Forgets a repository. What was installed from it stays, and gets no updates until
the repository is known again.`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.change(cmd.Context(), func(ctx context.Context, ag *agent) error {
				s, err := ag.snapshot(ctx)
				if err != nil {
					return err
				}
				var left []string
				for _, p := range s.packages {
					if p.Repository == words[0] {
						left = append(left, p.Instance)
					}
				}
				text := output.T("repository %s is not known any more", words[0])
				err = ag.manager.RemoveRepository(ctx, words[0])
				if errkind.Is(err, errkind.NotFound) {
					err, text = nil, output.T("repository %s is not known", words[0])
					if hint := did(words[0], ag.repositories(ctx), ""); hint != "" {
						text += "; " + hint
					}
				}
				if err != nil {
					return sent(ctx, output.T("agent"), output.T("`lull repo list` shows its repositories"), err)
				}
				if len(left) > 0 {
					text += output.N("; %s came from it, and gets no updates", "; %s came from it, and get no updates", len(left), output.List(left))
				}
				return a.repositoryChanged(words[0], "", text)
			})
		},
		ValidArgsFunction: a.completeRepositories,
	}
}

// repositories returns the names of the agent's repositories.
func (ag *agent) repositories(ctx context.Context) (known []candidate) {
	m, err := ag.manager.Properties(ctx)
	if err != nil {
		return nil // no similar names
	}
	for _, r := range repositoriesOf(m) {
		known = append(known, candidate{name: r.Name})
	}
	return known
}

// repositoryChanged reports a change of the agent's repositories. No address means that this
// one is removed.
func (a *app) repositoryChanged(name, address, text string, keys ...string) error {
	if a.JSON {
		return a.WriteJSON(repoChangedJSON{output.One, name, address, keys})
	}
	if err := a.Say(text); err != nil || len(keys) == 0 {
		return err
	}
	return a.sayFingerprints(keys)
}

func (a *app) repoSetURLCmd() *cobra.Command {
	var passwordFile string
	cmd := &cobra.Command{
		Use:   "set-url NAME ADDRESS",
		Short: "Read a repository at another address from now on",
		Long: `Reads a repository at another address from now on. What it is trusted by stays:
if another repository is there, nothing changes. A password is for one server,
and has to be given again.`,
		Args: args(2, 2),
		RunE: func(cmd *cobra.Command, words []string) error {
			address, err := localAddress(words[1])
			if err == nil {
				address, err = a.withPassword(address, passwordFile)
			}
			if err != nil {
				return output.Doing(output.T("change %s", words[0]), err)
			}
			return a.change(cmd.Context(), func(ctx context.Context, ag *agent) error {
				if err := ag.manager.SetRepositoryURL(ctx, words[0], address); err != nil {
					return sent(ctx, output.T("agent"), output.T("`lull repo list` shows its repositories"), err)
				}
				shown := (repo.Config{URL: address}).Address()
				return a.repositoryChanged(words[0], shown, output.T("repository %s is read at %s from now on", words[0], shown))
			})
		},
		ValidArgsFunction: a.completeRepositories,
	}
	addPasswordFile(cmd, &passwordFile)
	return cmd
}

// completeRepositories completes the first word with the names of repositories.
func (a *app) completeRepositories(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	_ = a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error { // missing names are no error
		m, err := ag.manager.Properties(ctx)
		for _, r := range repositoriesOf(m) {
			names = append(names, r.Name)
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// repoListJSON is what `lull repo list` writes.
type repoListJSON struct {
	output.Document
	Repositories []repositoryJSON `json:"repositories"`
}

// repoShowJSON is what `lull repo show` writes.
type repoShowJSON struct {
	output.Document
	repositoryJSON
	Installed []string `json:"installed"`
}

// repoChangedJSON is what `lull repo add`, `set-url` and `remove` write.
type repoChangedJSON struct {
	output.Document
	Name string `json:"name"`
	URL  string `json:"url,omitempty"`
	// Fingerprints are the SHA-256 of the keys of the root of trust; `lull repo add` has them.
	Fingerprints []string `json:"fingerprints,omitempty"`
}
