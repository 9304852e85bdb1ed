package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
)

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Write the completion script of a shell",
		Example: `  lull completion bash > /usr/share/bash-completion/completions/lull
  lull completion zsh > /usr/share/zsh/vendor-completions/_lull
  lull completion fish > /usr/share/fish/vendor_completions.d/lull.fish`,
		Args:      args(1, 1),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, words []string) error {
			root := cmd.Root()
			switch words[0] {
			case "bash":
				return notWritten(root.GenBashCompletionV2(a.stdout, true))
			case "zsh":
				return notWritten(root.GenZshCompletion(a.stdout))
			case "fish":
				return notWritten(root.GenFishCompletion(a.stdout, true))
			}
			return problem.New(problem.Usage, "cannot complete for the shell %q", words[0]).WithHint("bash, zsh and fish are known")
		},
	}
}

// completionTime is how long somebody who presses Tab waits.
const completionTime = time.Second

// completeInstances offers what is installed and not named yet.
func (a *app) completeInstances(cmd *cobra.Command, named []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	var found []cobra.Completion
	err := a.ask(ctx, func(ctx context.Context, ag *agent) error {
		s, err := ag.snapshot(ctx)
		if err != nil {
			return err
		}
		for _, p := range s.packages {
			if !slices.Contains(named, p.Instance) {
				found = append(found, cobra.CompletionWithDesc(p.Instance, oneLine(p.Summary)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeOneInstance does so for the first argument alone.
func (a *app) completeOneInstance(cmd *cobra.Command, named []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(named) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeInstances(cmd, named, typed)
}
