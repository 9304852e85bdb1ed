package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
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
				return output.NotWritten(root.GenBashCompletionV2(a.Stdout, true))
			case "zsh":
				return output.NotWritten(root.GenZshCompletion(a.Stdout))
			case "fish":
				return output.NotWritten(root.GenFishCompletion(a.Stdout, true))
			}
			return output.Error(errkind.Usage, "cannot complete for the shell %q", words[0]).WithHint("bash, zsh and fish are known")
		},
	}
}

// completionTime bounds the wait after the Tab key.
const completionTime = time.Second

// completeInstances offers the installed instances that are not named yet.
func (a *app) completeInstances(cmd *cobra.Command, named []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	var found []cobra.Completion
	err := a.ask(ctx, func(ctx context.Context, ag *agent) error {
		s, err := ag.overview(ctx)
		if err != nil {
			return err
		}
		for _, p := range s.packages {
			if !slices.Contains(named, p.Instance) {
				found = append(found, cobra.CompletionWithDesc(p.Instance, output.OneLine(p.Summary)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeAvailable offers the packages of repositories that are not named yet.
func (a *app) completeAvailable(cmd *cobra.Command, named []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	var found []cobra.Completion
	_ = a.ask(ctx, func(ctx context.Context, ag *agent) error { // without an agent there is no completion
		offers, _, err := ag.available(ctx)
		sortOffers(offers)
		for _, o := range offers {
			c := cobra.CompletionWithDesc(o.Name, output.OneLine(output.T("%[1]s from %[2]s", o.Version, o.Repository)))
			if !slices.Contains(named, o.Name) && !slices.ContainsFunc(found, func(f cobra.Completion) bool { return strings.HasPrefix(f, o.Name+"\t") }) {
				found = append(found, c)
			}
		}
		return err
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeChannels completes the flags channel and repository of a command with the offers of
// repositories.
func (a *app) completeChannels(cmd *cobra.Command) {
	offer := func(of func(bus.AvailablePackage) string) func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			ctx, cancel := context.WithTimeout(context.Background(), completionTime)
			defer cancel()
			var found []cobra.Completion
			_ = a.ask(ctx, func(ctx context.Context, ag *agent) error {
				offers, _, err := ag.available(ctx)
				for _, o := range offers {
					if v := output.OneLine(of(o)); !slices.Contains(found, v) {
						found = append(found, v)
					}
				}
				return err
			})
			slices.Sort(found)
			return found, cobra.ShellCompDirectiveNoFileComp
		}
	}
	// The flags exist: an error would be a bug.
	_ = cmd.RegisterFlagCompletionFunc("channel", offer(func(o bus.AvailablePackage) string { return o.Channel }))
	_ = cmd.RegisterFlagCompletionFunc("repository", offer(func(o bus.AvailablePackage) string { return o.Repository }))
}

// completeRevisions offers the revisions of the named instance.
func (a *app) completeRevisions(_ *cobra.Command, named []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	var found []cobra.Completion
	if len(named) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	_ = a.ask(ctx, func(ctx context.Context, ag *agent) error {
		s, err := ag.detailed(ctx, thatIs(named[0]))
		if err != nil {
			return err
		}
		name, _, err := resolve(named[0], s.candidates())
		if err != nil {
			return err
		}
		p, err := s.find(name)
		for _, r := range p.Revisions {
			if r.State != "current" {
				found = append(found, cobra.CompletionWithDesc(strconv.FormatUint(uint64(r.Revision), 10), output.OneLine(r.Version+", "+r.State)))
			}
		}
		return err
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeOneInstance is completeInstances for the first argument alone.
func (a *app) completeOneInstance(cmd *cobra.Command, named []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(named) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeInstances(cmd, named, typed)
}
