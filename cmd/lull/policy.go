package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	"github.com/lull/lull/policy"
)

// configDir returns the directory of policy.yaml and repos.d: with --user, that of the
// user's own agent.
func (a *app) configDir() string {
	if a.config != "" {
		return a.config
	}
	if !a.user {
		return "/etc/lull"
	}
	dir, err := os.UserConfigDir() // $XDG_CONFIG_HOME, or ~/.config
	if err != nil {
		dir = os.Getenv("XDG_CONFIG_HOME") // as lulld takes it
	}
	return filepath.Join(dir, "lull")
}

func (a *app) policyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, explain and reload the policy",
		Long: `Shows whether the policy files that the agent read last are in force. It exits
with status 78 if the agent refused them.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.policy(cmd.Context()) },
	}
	cmd.AddCommand(a.policyCheckCmd(), a.policyExplainCmd(), a.policyReloadCmd())
	return cmd
}

func (a *app) policy(ctx context.Context) error {
	return a.ask(ctx, func(ctx context.Context, ag *agent) error {
		refused, err := ag.manager.GetPolicyError(ctx)
		if err != nil {
			return err
		}
		if a.JSON {
			err = a.WriteJSON(policyJSON{output.One, refused})
		} else if refused == "" {
			err = a.Say(output.T("the policy files that the agent read last are in force"))
		}
		if err != nil || refused == "" {
			return err
		}
		return output.Error(errkind.BadPolicy, "cannot use the policy as it is in the files: %s", refused).
			WithHint("the previous policy stays in force; `lull policy check` lists everything that is wrong, `lull policy reload` re-reads the files")
	})
}

func (a *app) policyReloadCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the agent re-read policy and repositories",
		Long: `Makes the agent re-read policy and repositories, and returns when they are in
force. If one is broken it shows which and where, and the previous policy stays in
force; it exits with status 78. "systemctl reload lulld" is the same.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			if err := ag.manager.Reload(cmd.Context()); err != nil {
				return output.Doing("use the new policy", sent(cmd.Context(), output.T("new policy"), output.T("`lull policy` shows the result"), err))
			}
			if a.JSON {
				return a.WriteJSON(output.One)
			}
			return a.Say(output.T("policy and repositories were read again"))
		},
	}
}

func (a *app) policyCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Check policy files before the agent reads them",
		Long: `Reads policy files and shows what is wrong with them and where. Without FILE it
checks those that the agent reads. It exits with status 78 if one is broken.`,
		Example: "  lull policy check /etc/lull/policy.yaml",
		Args:    args(0, -1),
		RunE: func(_ *cobra.Command, files []string) error {
			whole := func() error { return nil }
			if len(files) == 0 {
				dir := a.configDir()
				whole = func() error { // found only in the whole set
					_, err := policy.Load(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.d"))
					return err
				}
				main := filepath.Join(dir, "policy.yaml")
				if _, err := os.Lstat(main); !errors.Is(err, fs.ErrNotExist) {
					files = []string{main}
				}
				more, err := filepath.Glob(filepath.Join(dir, "policy.d", "*.yaml"))
				if err != nil {
					return output.Error(errkind.Failed, "cannot list %s: %w", dir, err)
				}
				if files = append(files, more...); len(files) == 0 && !a.JSON {
					if err := a.Say(output.T("%s has no policy files, so the defaults apply", dir)); err != nil {
						return err
					}
				}
			}
			if err := a.policyCheck(files); err != nil {
				return err
			}
			return whole()
		},
	}
}

func (a *app) policyCheck(files []string) error {
	doc := policyCheckJSON{output.One, []policyFileJSON{}}
	var errs []error
	for _, f := range files {
		found := policy.Check(f)
		j := policyFileJSON{f, []string{}, policy.Notes(f)}
		for _, err := range found {
			j.Problems = append(j.Problems, err.Error())
			errs = append(errs, output.Doing("accept the policy", err))
		}
		doc.Files = append(doc.Files, j)
		if len(found) == 0 && !a.JSON {
			if err := a.Say(output.T("%s is valid", f)); err != nil {
				return err
			}
		}
		for _, note := range j.Notes {
			if a.JSON {
				break
			}
			if err := a.Say(a.Foreign(note)); err != nil {
				return err
			}
		}
	}
	if a.JSON {
		if err := a.WriteJSON(doc); err != nil {
			return err
		}
	}
	return output.Join(errs)
}

// explainedJSON is what the policy says, with the file and line that decided each value.
type explainedJSON struct {
	output.Document
	Instance string         `json:"instance,omitempty"`
	Values   []policy.Value `json:"values"`
}

func (a *app) policyExplainCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "explain [APP]",
		Short: "Show the policy, and what decided each value",
		Long: `Shows each key of the policy with its value, and the file and line that decided
it. With APP it shows what holds for that application, with what its package
wishes for and gets. It reads the files as they are now; "lull policy" shows
whether they are in force.`,
		Example: "  lull policy explain org.example.Editor",
		Args:    args(0, 1),
		RunE: func(_ *cobra.Command, words []string) error {
			dir := a.configDir()
			p, err := policy.Load(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.d"))
			if err != nil {
				return output.Doing("explain the policy", err)
			}
			instance, wishes := "", manifest.Wishes{}
			if len(words) > 0 {
				if instance, err = a.stored(words[0]); err != nil {
					return err
				}
				if wishes, err = a.wishes(instance); err != nil {
					return err
				}
			}
			values := p.Explain(instance, wishes)
			if a.JSON {
				return a.WriteJSON(explainedJSON{output.One, instance, values})
			}
			origins := []string{output.Mark("built in"), output.Mark("wish of the package")}
			var rows [][]string
			for _, v := range values {
				origin := v.Origin
				if slices.Contains(origins, origin) {
					origin = output.Marked(origin)
				}
				if v.Wish != "" {
					origin = output.T("%[1]s; the package wishes for %[2]s", origin, v.Wish)
				}
				rows = append(rows, []string{v.Key, v.Value, origin})
			}
			return a.Table([]output.Column{{Title: "KEY", Least: 20}, {Title: "VALUE", Least: 8}, {Title: "DECIDED BY", Least: 12}}, rows)
		},
	}
}

// wishes reads the wishes of an instance's installed package. A package that is not installed
// has none.
func (a *app) wishes(instance string) (manifest.Wishes, error) {
	if err := manifest.ValidInstance(instance); err != nil {
		return manifest.Wishes{}, output.Error(errkind.Invalid, "cannot explain the policy: %w", err)
	}
	root, err := a.store()
	if err != nil {
		return manifest.Wishes{}, err
	}
	b, err := os.ReadFile(filepath.Join(root, "current", instance, manifest.Reserved, "launch.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return manifest.Wishes{}, nil
	}
	if err == nil {
		var l *manifest.Launch
		if l, err = manifest.ParseLaunch(b); err == nil {
			return l.Refresh, nil
		}
	}
	return manifest.Wishes{}, output.Error(errkind.KindOf(err), "cannot read what %s wishes for: %w", instance, err)
}

// policyJSON is what `lull policy` writes.
type policyJSON struct {
	output.Document
	Refused string `json:"refused,omitempty"`
}

// policyCheckJSON is what `lull policy check` writes.
type policyCheckJSON struct {
	output.Document
	Files []policyFileJSON `json:"files"`
}

type policyFileJSON struct {
	File     string   `json:"file"`
	Problems []string `json:"problems"`
	Notes    []string `json:"notes,omitempty"`
}
