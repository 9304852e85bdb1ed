package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lull/lull/agent/problem"
)

// app is one run of the command: where it reads and writes, and what its
// global flags say. One goroutine uses it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	bus, sessionBus, root, runDir, config string
	json, user                            bool

	outWidth int  // columns of the terminal on stdout; 0: it is none
	errWidth int  // the same of stderr
	color    bool // stdout takes colours

	ran     bool     // the command line made sense and its verb was begun
	closers []func() // run backwards at the end
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	a.outWidth, a.errWidth = terminalWidth(stdout), terminalWidth(stderr)
	a.color = a.outWidth > 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	defer func() {
		for i := len(a.closers) - 1; i >= 0; i-- {
			a.closers[i]()
		}
	}()
	root := a.command()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) { // of a command that lull ran for somebody
		return exit.ExitCode()
	}
	if err != nil && !a.ran {
		err = usageError(err)
	}
	a.printError(err)
	return problem.ExitCode(err)
}

// usageError makes a problem of what the library says of a command line.
func usageError(err error) error {
	var p *problem.Error
	if errors.As(err, &p) {
		return err
	}
	return problem.New(problem.Usage, "cannot understand this command: %w", err).WithHint("see `lull help`")
}

// The groups of verbs in `lull help`.
const (
	groupApps    = "apps"
	groupRefresh = "refresh"
	groupSpace   = "space"
	groupPublish = "publish"
	groupSystem  = "system"
)

const rootHelp = `lull keeps applications up to date without breaking the ones that are running.

A refresh is downloaded and prepared in the background, and happens in the
moment in which the application is closed. Nothing is ever killed for it.

  lull install org.example.notes     install an application
  lull run org.example.notes         run it
  lull refresh                       look for newer versions of everything
  lull pending                       what waits for a running application`

// command builds the tree of verbs.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:               "lull",
		Short:             "Applications that refresh while nobody looks",
		Long:              rootHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cobra.EnableCommandSorting = false // the order in a group is by use
	flags := root.PersistentFlags()
	flags.StringVar(&a.bus, "bus", os.Getenv("LULL_BUS"), "`address` of the agent's bus, instead of the system bus")
	flags.StringVar(&a.sessionBus, "session-bus", os.Getenv("LULL_SESSION_BUS"), "`address` of the session bus")
	flags.StringVar(&a.root, "root", os.Getenv("LULL_ROOT"), "`folder` of the store, if not /var/lib/lull")
	flags.StringVar(&a.runDir, "run-dir", os.Getenv("LULL_RUN_DIR"), "`folder` of run control, if not /run/lull")
	flags.StringVar(&a.config, "config", os.Getenv("LULL_CONFIG"), "`folder` of policy.yaml and repos.d, if not /etc/lull")
	flags.BoolVar(&a.json, "json", false, "write JSON, for programs")
	flags.BoolVar(&a.user, "user", false, "talk to your own agent, on the session bus")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return problem.New(problem.Usage, "cannot understand this command: %w", err).WithHint("see `%s --help`", cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupApps, Title: "Applications:"},
		&cobra.Group{ID: groupRefresh, Title: "Refreshes:"},
		&cobra.Group{ID: groupSpace, Title: "Disk space:"},
		&cobra.Group{ID: groupPublish, Title: "Repositories:"},
		&cobra.Group{ID: groupSystem, Title: "The agent:"},
	)
	root.SetHelpCommandGroupID(groupSystem)
	for _, g := range []struct {
		id    string
		verbs []*cobra.Command
	}{
		{groupApps, []*cobra.Command{a.installCmd(), a.removeCmd(), a.runCmd(), a.listCmd(), a.openCmd()}},
		{groupRefresh, []*cobra.Command{a.refreshCmd(), a.revertCmd(), a.pendingCmd(), a.holdCmd(), a.unholdCmd(), a.monitorCmd()}},
		{groupSpace, []*cobra.Command{a.duCmd(), a.gcCmd(), a.whyCmd(), a.verifyCmd()}},
		{groupPublish, []*cobra.Command{a.repoCmd(), a.publishCmd()}},
		{groupSystem, []*cobra.Command{a.statusCmd(), a.systemCmd(), a.doctorCmd(), a.inspectCmd(), a.policyCmd(), a.completionCmd(), a.versionCmd(), a.commandsCmd()}},
	} {
		for _, v := range g.verbs {
			v.GroupID = g.id
			root.AddCommand(v)
		}
	}
	root.SetUsageTemplate(usageTemplate)
	a.noteRun(root)
	return root
}

// noteRun makes every verb below cmd say that it was begun: errors before that
// are about the command line.
func (a *app) noteRun(cmd *cobra.Command) {
	if verb := cmd.RunE; verb != nil {
		cmd.RunE = func(cmd *cobra.Command, words []string) error {
			a.ran = true
			return verb(cmd, words)
		}
	}
	for _, c := range cmd.Commands() {
		a.noteRun(c)
	}
}

// usageTemplate is the library's, shortened: the flags that every verb has are
// shown by `lull help` alone.
const usageTemplate = `Usage:
{{- if not .HasAvailableSubCommands}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}
{{- if .HasExample}}

Examples:
{{.Example}}{{end}}
{{- if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if eq (len .Groups) 0}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{else}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableSubCommands}}

` + "`{{.CommandPath}} COMMAND --help`" + ` says more about a command.{{else}}

` + "`lull help`" + ` shows the flags that every command has.{{end}}
`

// args checks the number of arguments of a verb; most < 0 means any.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) >= least && (most < 0 || len(got) <= most) {
			return nil
		}
		says := "too few arguments"
		if len(got) > least {
			says = "too many arguments"
		}
		return problem.New(problem.Usage, "cannot understand this command: %s", says).
			WithHint("use it as `%s`", cmd.UseLine())
	}
}

// terminalWidth returns the columns of a terminal, or 0. COLUMNS counts for
// pipes, too, so that a script can ask for tables of a width.
func terminalWidth(w any) int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// isTerminal says whether w is a terminal that takes cursor movements. One that
// does not say how large it is, as on a serial line, takes none.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0
}
