package main

import (
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
		Short: "Check the policy file",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.policyCheckCmd())
	return cmd
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
