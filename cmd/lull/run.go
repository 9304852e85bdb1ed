package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

// installedLauncher is the path of lull-run in packages.
const installedLauncher = "/usr/libexec/lull/lull-run"

func (a *app) runCmd() *cobra.Command {
	var name string
	var ephemeral bool
	cmd := &cobra.Command{
		Use:   "run APP[/SUBPACKAGE][@CHANNEL] [ARGS...]",
		Short: "Run an application",
		Long: `Runs an application, the same way as its entry in the menu does. While it is
being refreshed, which takes a moment, it waits and reports it. APP/SUBPACKAGE runs
an application of a subpackage, as a part of APP and with its data.

With --ephemeral it need not be installed: what the channel offers is fetched and
run, with data of its own that is deleted at the end. The package gives its space
back when something else wants it. Then APP may be a file, as for ` + "`lull install`" + `.
Without a network the version that is here is run. The command ends as the program
did: with its status, or by the same signal. It needs the right org.lull.resolve,
which asks an ordinary user for a password; ` + "`lull --user`" + ` needs none.`,
		Example:           "  lull run org.example.notes notes.txt\n  lull run --app notes-export org.example.notes\n  lull run --ephemeral org.example.notes@edge",
		Args:              args(1, -1),
		ValidArgsFunction: a.completeOneInstance,
		RunE: func(cmd *cobra.Command, words []string) error {
			if ephemeral {
				return a.runEphemeral(cmd.Context(), name, words)
			}
			instance, err := a.stored(words[0])
			if err != nil {
				return err
			}
			return a.launch(name, append([]string{instance}, words[1:]...))
		},
	}
	cmd.Flags().StringVar(&name, "app", "", "`name` of the program, if the package has several")
	cmd.Flags().BoolVar(&ephemeral, "ephemeral", false, "run it without installing it")
	cmd.Flags().SetInterspersed(false) // the words after APP are the application's
	return cmd
}

// launch becomes the launcher, which is small and starts fast. Its parameters are flags: the
// environment would reach the application.
func (a *app) launch(name string, words []string) error {
	path, err := launcher()
	if err != nil {
		return err
	}
	argv := []string{path}
	for _, f := range []struct{ name, value string }{{"root", a.root}, {"run-dir", a.runDir}, {"bus", a.bus}, {"app", name}} {
		if f.value != "" {
			argv = append(argv, "--"+f.name+"="+f.value)
		}
	}
	if a.user {
		argv = append(argv, "--user")
	}
	argv = append(append(argv, "--"), words...)
	err = syscall.Exec(path, argv, os.Environ())
	return output.Error(errkind.Failed, "cannot run %s: %s: %w", words[0], path, err)
}

// launcher returns the path of lull-run: the one of the environment, the one beside this
// program, or the one of packages.
func launcher() (string, error) {
	if p := os.Getenv("LULL_LAUNCHER"); p != "" {
		if _, err := os.Stat(p); err != nil {
			return "", output.Error(errkind.NotFound, "cannot find the launcher: %w", err).WithHint("LULL_LAUNCHER names it")
		}
		return p, nil
	}
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	candidates := []string{installedLauncher}
	if err == nil {
		candidates = append([]string{filepath.Join(filepath.Dir(self), "lull-run")}, candidates...)
	}
	for _, p := range candidates {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", output.Error(errkind.Failed, "cannot find the launcher: %w", err)
		}
	}
	return "", output.Error(errkind.NotFound, "cannot find the launcher lull-run").
		WithHint("it is expected beside lull or at %s; LULL_LAUNCHER can name another place", installedLauncher)
}
