package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
)

func (a *app) openCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "open PACKAGE [-- COMMAND...]",
		Short: "Keep a package from being collected while you look into it",
		Long: `Opens a package, by its hash or as the current one of an application, and keeps
it from being collected: until COMMAND has ended, which runs in the package's
folder, or until the end of the input.`,
		Example: `  lull open org.example.notes -- ls -l
  lull open org.example.notes`,
		Args:              args(1, -1),
		ValidArgsFunction: a.completeOneInstance,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) > 1 && cmd.ArgsLenAtDash() != 1 {
				return problem.New(problem.Usage, "cannot understand this command: a command to run stands behind --").
					WithHint("use it as `%s`", cmd.UseLine())
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
