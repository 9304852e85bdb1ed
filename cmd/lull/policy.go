package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/policy"
)

// usualConfig is where the administrator's files are.
const usualConfig = "/etc/lull"

func (a *app) policyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check the policy, and have it read again",
		Long: `Says whether the agent goes by the policy files as they were when it read them
last. It leaves with status 78 if it has refused them.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.policy(cmd.Context()) },
	}
	cmd.AddCommand(a.policyCheckCmd(), a.policyReloadCmd())
	return cmd
}

func (a *app) policy(ctx context.Context) error {
	return a.ask(ctx, func(ctx context.Context, ag *agent) error {
		refused, err := ag.manager.GetPolicyError(ctx)
		if err != nil {
			return err
		}
		if a.json {
			err = a.writeJSON(struct {
				document
				Refused string `json:"refused,omitempty"`
			}{one, refused})
		} else if refused == "" {
			err = a.say("the agent goes by the policy files as it read them last")
		}
		if err != nil || refused == "" {
			return err
		}
		return problem.New(problem.BadPolicy, "cannot use the policy as it is in the files: %s", refused).
			WithHint("the agent goes by the policy that it read before; `lull policy check` lists everything that is wrong, `lull policy reload` has it read again")
	})
}

func (a *app) policyReloadCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the agent read policy and repositories again",
		Long: `Has the agent read policy and repositories again, and returns when it goes by
them. If one is broken it says which and where, and the policy from before holds;
it leaves with status 78. "systemctl reload lulld" is the same.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			if err := ag.manager.Reload(cmd.Context()); err != nil {
				return doing("use the new policy", err)
			}
			if a.json {
				return a.writeJSON(one)
			}
			return a.say("policy and repositories were read again")
		},
	}
}

func (a *app) policyCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Say what is wrong with policy files, before the agent reads them",
		Long: `Reads policy files and says what is wrong with them and where. Without FILE it
checks those that the agent reads. It leaves with status 78 if one is broken.`,
		Example: "  lull policy check /etc/lull/policy.yaml",
		Args:    args(0, -1),
		RunE: func(_ *cobra.Command, files []string) error {
			whole := func() error { return nil }
			if len(files) == 0 {
				dir := either(a.config, usualConfig)
				whole = func() error { // what only all of them together show
					_, err := policy.Load(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.d"))
					return err
				}
				files = []string{filepath.Join(dir, "policy.yaml")}
				more, err := filepath.Glob(filepath.Join(dir, "policy.d", "*.yaml"))
				if err != nil {
					return problem.New(problem.Failed, "cannot look into %s: %w", dir, err)
				}
				files = append(files, more...)
			}
			if err := a.policyCheck(files); err != nil {
				return err
			}
			return whole()
		},
	}
}

func (a *app) policyCheck(files []string) error {
	type fileJSON struct {
		File     string   `json:"file"`
		Problems []string `json:"problems"`
	}
	doc := struct {
		document
		Files []fileJSON `json:"files"`
	}{one, []fileJSON{}}
	var errs []error
	for _, f := range files {
		found := policy.Check(f)
		j := fileJSON{f, []string{}}
		for _, err := range found {
			j.Problems = append(j.Problems, err.Error())
			errs = append(errs, doing("accept the policy", err))
		}
		doc.Files = append(doc.Files, j)
		if len(found) == 0 && !a.json {
			if err := a.say(f + " is in order"); err != nil {
				return err
			}
		}
	}
	if a.json {
		if err := a.writeJSON(doc); err != nil {
			return err
		}
	}
	return join(errs)
}
