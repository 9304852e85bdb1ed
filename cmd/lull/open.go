package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) openCmd() *cobra.Command {
	var wait, ephemeral bool
	cmd := &cobra.Command{
		Use:   "open PACKAGE[/SUBPACKAGE] [-- COMMAND...]",
		Short: "Pin a package while you inspect it",
		Long: `Opens a package, by its hash or as the current one of an application, and keeps
it from being collected: until COMMAND has ended, which runs in the package's
directory, or until the end of the input.

With --ephemeral the package need not be installed: PACKAGE is a name, perhaps with
@CHANNEL behind it, and what the channel offers is fetched.

With --wait-closed it opens nothing, and returns when the package is not open
any more: no application of it runs, and no client holds it.`,
		Example: `  lull open org.example.notes -- ls -l
  lull open org.example.notes
  lull open --wait-closed org.example.notes`,
		Args:              args(1, -1),
		ValidArgsFunction: a.completeOneInstance,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) > 1 && cmd.ArgsLenAtDash() != 1 {
				return output.Error(errkind.Usage, "cannot understand this command: the command to run comes after --").
					WithHint("use it as `%s`", usageLine(cmd.UseLine()))
			}
			if wait {
				if len(words) > 1 {
					return output.Error(errkind.Usage, "cannot run a command with --wait-closed")
				}
				return a.waitClosed(cmd.Context(), words[0])
			}
			ag, err := a.dialFDs(cmd.Context())
			if err != nil {
				return err
			}
			open := ag.open
			if ephemeral {
				open = a.fetchAndOpen(ag)
			}
			dir, lease, hash, err := open(cmd.Context(), words[0])
			if err != nil {
				return err
			}
			defer lease.Close()
			defer dir.Close()
			path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
			if err != nil {
				return output.Error(errkind.Failed, "cannot find the directory of %s: %w", words[0], err)
			}
			if len(words) > 1 {
				return a.within(path, dir, hash, words[1:])
			}
			return a.holdOpen(cmd.Context(), path, hash)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait-closed", false, "wait until no process has it open")
	cmd.Flags().BoolVar(&ephemeral, "ephemeral", false, "open it without installing it")
	cmd.MarkFlagsMutuallyExclusive("wait-closed", "ephemeral")
	return cmd
}

// open opens a package, by its hash or as the current one of an application.
func (ag *agent) open(ctx context.Context, what string) (dir, lease *os.File, hash string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	first, _, _ := strings.Cut(what, "/")
	if _, err := digest.Parse(first); err != nil {
		s, err := ag.overview(ctx)
		if err == nil {
			what, err = s.named(what)
		}
		if err != nil {
			return nil, nil, "", err
		}
	}
	return ag.manager.Open(ctx, what)
}

// fetchAndOpen opens a package that need not be installed, PACKAGE[/SUBPACKAGE][@CHANNEL].
func (a *app) fetchAndOpen(ag *agent) func(context.Context, string) (dir, lease *os.File, hash string, err error) {
	return func(ctx context.Context, what string) (dir, lease *os.File, hash string, err error) {
		what, channel, _ := strings.Cut(what, "@")
		what, inside, sub := strings.Cut(what, "/")
		dir, lease, hash, err = a.fetchEphemeral(ctx, ag, what, channel)
		if err != nil || !sub {
			return dir, lease, hash, err
		}
		defer lease.Close()
		dir.Close()
		return ag.open(ctx, hash+"/"+inside)
	}
}

// waitClosed returns when the package is not in the open index any more. Leases outlive the
// agent, so it waits for an agent that restarts meanwhile.
func (a *app) waitClosed(ctx context.Context, what string) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	if _, err := digest.Parse(what); err != nil {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		all, err := ag.detailed(asking, thatIs(what))
		if err != nil {
			return err
		}
		if what, err = all.named(what); err != nil {
			return err
		}
		p, err := all.find(what)
		if err != nil {
			return err
		}
		what = p.Hash
	}
	for {
		closed, err := ag.waitClosed(ctx, what)
		switch {
		case closed:
			return nil
		case ctx.Err() != nil:
			return output.Error(errkind.Interrupted, "cannot wait until %s is closed: interrupted", what)
		case err != nil && (!errkind.Is(err, errkind.Unavailable) || !ag.conn.Connected()):
			return err
		}
		a.Warn(output.T("the agent has left the bus; waiting for it"), "")
		if err := bus.WaitForOwner(ctx, ag.conn, bus.AgentName); err != nil {
			return err
		}
	}
}

// waitClosed returns true when the package is not in the open index any more, and false if
// the agent has left the bus before.
func (ag *agent) waitClosed(ctx context.Context, hash string) (bool, error) {
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	for {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		open, err := ag.space.GetOpen(asking)
		cancel()
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(open, func(o bus.OpenPackage) bool { return o.Hash == hash }) {
			return true, nil
		}
		select {
		case _, there := <-sub.C:
			if !there {
				return false, nil
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// within runs a command in the package's directory. The command handles Ctrl-C; a request to
// end is forwarded to it.
func (a *app) within(path string, dir *os.File, hash string, words []string) error {
	c := exec.Command(words[0], words[1:]...)
	c.Dir = fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) // also where the path is hidden
	c.Env = append(os.Environ(), "LULL_PACKAGE_DIR="+path, "LULL_PACKAGE="+hash, "PWD="+path)
	return a.runForeground(c)
}

// holdOpen keeps the lease until the input ends.
func (a *app) holdOpen(ctx context.Context, path, hash string) error {
	var err error
	if a.JSON {
		err = a.WriteLine(openJSON{output.One, hash, path})
	} else {
		err = a.SayWhole(path)
	}
	if err != nil {
		return err
	}
	if output.IsTerminal(a.Stderr) {
		fmt.Fprintln(a.Stderr, output.T("The package is kept until Ctrl-C or Ctrl-D."))
	}
	ended := make(chan struct{})
	go func() { // a read from a terminal cannot be cancelled: it ends with the process
		defer close(ended)
		_, _ = io.Copy(io.Discard, a.stdin)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// openJSON is what `lull open` writes, in one line.
type openJSON struct {
	output.Document
	Hash string `json:"hash"`
	Path string `json:"path"`
}
