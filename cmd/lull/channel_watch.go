package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repo/watch"
	"github.com/lull/lull/cmd/lull/output"
)

// maxRule bounds the file of a rule, in bytes.
const maxRule = 64 << 10

func (a *app) channelWatchCmd() *cobra.Command {
	var f channelFlags
	var server, rule, every, limit string
	cmd := &cobra.Command{
		Use:   "watch NAME --repo REPOSITORY --prometheus URL --rule FILE",
		Short: "Halt the newest version by itself when it fails on too many machines",
		Long: `Asks a Prometheus server about the newest version of a channel, and halts it when the
share of the machines on which it has failed is above the bound of a rule. The reason is
signed into the channel. It ends when the version is halted, when another version is the
newest, or after the time of --for. Errors of the server are printed, and halt nothing.

The rule is a YAML file. The queries may be left out: they count the machines that have
the version or have undone it, and those that have undone it.

  above: SHARE     of the machines that is too much, in percent with the sign
  at-least: 20     machines that must have tried the version before
  machines: QUERY  with $name and $version
  failures: QUERY`,
		Example: "  lull channel watch org.example.notes --repo ./repo --prometheus http://localhost:9090 --rule rule.yaml",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			o, err := f.options(words[0])
			if err != nil {
				return err
			}
			if rule == "" || server == "" {
				return output.Error(errkind.Usage, "cannot watch a channel without a rule and a server").WithHint("--rule and --prometheus name them")
			}
			w, err := openWatch(rule, server)
			if err != nil {
				return err
			}
			pause, err := output.ParseDuration(every)
			if err == nil && pause < time.Second {
				err = output.Error(errkind.Usage, "cannot ask more often than each second")
			}
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if limit != "" {
				d, err := output.ParseDuration(limit)
				if err != nil {
					return err
				}
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, d)
				defer cancel()
			}
			list, err := a.watchChannel(ctx, w, f.repository, o, pause)
			if err != nil {
				return err
			}
			return a.showOffers(list)
		},
	}
	f.add(a, cmd)
	f.addVersion(cmd)
	cmd.Flags().StringVar(&server, "prometheus", "", "`address` of the Prometheus server")
	cmd.Flags().StringVar(&rule, "rule", "", "`file` with the rule")
	cmd.Flags().StringVar(&every, "every", "1m", "`time` between two questions")
	cmd.Flags().StringVar(&limit, "for", "", "`time` after which it ends: 2d; default: when it is interrupted")
	return cmd
}

func openWatch(path, server string) (*watch.Watcher, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRule))
	if err != nil {
		return nil, err
	}
	rule, err := watch.ParseRule(path, data)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "%w", err)
	}
	return watch.New(rule, server)
}

// watchChannel applies a rule to the newest version until it is halted, or the context ends.
// It returns the offers of the channel.
func (a *app) watchChannel(ctx context.Context, w *watch.Watcher, repository string, o publish.ChannelOptions, pause time.Duration) (repo.Offers, error) {
	list, err := publish.ReadChannel(ctx, repository, o)
	if err != nil {
		return nil, err
	}
	newest := list[0]
	o.Version = newest.Version
	shown := ""
	say := func(text string) error {
		if text == shown || a.JSON {
			return nil
		}
		shown = text
		return a.Say(text)
	}
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		v, err := w.Check(ctx, newest.Name, newest.Version)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if text := err.Error(); text != shown {
				shown = text
				a.PrintError(err)
			}
		case v.Halt:
			return publish.Halt(ctx, repository, publish.HaltOptions{ChannelOptions: o, Reason: v.Reason()})
		default:
			if err := say(output.T("%[1]s %[2]s has failed on %[3]d of %[4]d machines", newest.Name, newest.Version, v.Failures, v.Machines)); err != nil {
				return nil, err
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return list, nil
		}
		now, err := publish.ReadChannel(ctx, repository, publish.ChannelOptions{Common: o.Common, Name: o.Name, Channel: o.Channel})
		switch {
		case ctx.Err() != nil:
			return list, nil
		case err != nil:
			return nil, err
		case now[0].Package != newest.Package || now[0].Halted != nil:
			return now, nil
		}
		list = now
	}
}
