package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

func (a *app) openCmd() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "open PACKAGE[/SUBPACKAGE] [-- COMMAND...]",
		Short: "Keep a package from being collected while you look into it",
		Long: `Opens a package, by its hash or as the current one of an application, and keeps
it from being collected: until COMMAND has ended, which runs in the package's
folder, or until the end of the input.

With --wait-closed it opens nothing, and returns when nobody has the package open
any more: no application of it runs, and no client holds it.`,
		Example: `  lull open org.example.notes -- ls -l
  lull open org.example.notes
  lull open --wait-closed org.example.notes`,
		Args:              args(1, -1),
		ValidArgsFunction: a.completeOneInstance,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) > 1 && cmd.ArgsLenAtDash() != 1 {
				return problem.New(problem.Usage, "cannot understand this command: a command to run stands behind --").
					WithHint("use it as `%s`", cmd.UseLine())
			}
			if wait {
				if len(words) > 1 {
					return problem.New(problem.Usage, "cannot run a command with --wait-closed")
				}
				return a.waitClosed(cmd.Context(), words[0])
			}
			ag, err := a.dialFDs(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
			dir, lease, hash, err := ag.manager.Open(ctx, words[0])
			cancel()
			if err != nil {
				return err
			}
			defer lease.Close()
			defer dir.Close()
			path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
			if err != nil {
				return problem.New(problem.Failed, "cannot find the folder of %s: %w", words[0], err)
			}
			if len(words) > 1 {
				return a.within(path, dir, hash, words[1:])
			}
			return a.holdOpen(cmd.Context(), path, hash)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait-closed", false, "wait until nobody has it open")
	return cmd
}

// waitClosed returns when nothing in the open index is this package.
func (a *app) waitClosed(ctx context.Context, what string) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return err
	}
	defer sub.Close()
	if _, err := digest.Parse(what); err != nil {
		all, err := ag.snapshot(asking)
		if err != nil {
			return err
		}
		p, err := all.find(what)
		if err != nil {
			return err
		}
		what = p.Hash
	}
	for {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		open, err := ag.space.GetOpen(asking)
		cancel()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(open, func(o bus.OpenPackage) bool { return o.Hash == what }) {
			return nil
		}
		select {
		case _, there := <-sub.C:
			if !there {
				return problem.New(problem.Unavailable, "cannot wait until %s is closed: the agent has gone", what)
			}
		case <-ctx.Done():
			return problem.New(problem.Interrupted, "cannot wait until %s is closed: %w", what, context.Cause(ctx))
		}
	}
}

// within runs a command in the package's folder. Ctrl-C is the command's
// matter; a request to end is passed on to it.
func (a *app) within(path string, dir *os.File, hash string, words []string) error {
	c := exec.Command(words[0], words[1:]...)
	c.Dir = fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) // also where the path is hidden
	c.Env = append(os.Environ(), "LULL_PACKAGE_DIR="+path, "LULL_PACKAGE="+hash, "PWD="+path)
	return a.attend(c)
}

// holdOpen keeps the lease until the input ends.
func (a *app) holdOpen(ctx context.Context, path, hash string) error {
	var err error
	if a.json {
		err = a.writeLine(struct {
			document
			Hash string `json:"hash"`
			Path string `json:"path"`
		}{one, hash, path})
	} else {
		err = a.say(path)
	}
	if err != nil {
		return err
	}
	if isTerminal(a.stderr) {
		fmt.Fprintln(a.stderr, "The package is kept until Ctrl-C or Ctrl-D.")
	}
	ended := make(chan struct{})
	go func() { // a read from a terminal cannot be called back: it ends with the process
		defer close(ended)
		_, _ = io.Copy(io.Discard, a.stdin)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}
