package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// app is one run of the command: its input and outputs, and its global flags. One goroutine
// uses it.
type app struct {
	*output.Printer
	stdin io.Reader

	bus, sessionBus, root, runDir, config string
	user, noAsk                           bool
	events                                bool // progress is written as JSON, too

	saidBroken bool // see sayBroken

	endQuestion func() // ends the password agent on the terminal; nil means that there is none

	ran     bool     // the command line was valid and its verb has begun
	closers []func() // run backwards at the end
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{Printer: output.New(stdout, stderr), stdin: stdin}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	defer func() {
		for i := len(a.closers) - 1; i >= 0; i-- {
			a.closers[i]()
		}
	}()
	if output.Translates() {
		errkind.RememberSentences()
	}
	root := a.command()
	if len(args) > 0 && args[0] == cobra.ShellCompRequestCmd { // a shell shows the completions
		translate(root)
	}
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	err := root.ExecuteContext(ctx)
	var s signaled
	if errors.As(err, &s) {
		// Other errors, as about data that could not be deleted, are reported all the
		// same.
		if other := beside(err, s); other != nil {
			a.PrintError(other)
		}
		return s.code()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) { // of a command that lull ran for the user
		return exit.ExitCode()
	}
	if err != nil && !a.ran {
		err = usageError(err, meant(root, args))
	}
	err = a.unanswered(ctx, stopped(ctx, err))
	a.PrintError(err)
	return errkind.ExitCode(err)
}

// usageError converts the library's error about a command line.
func usageError(err error, meant []string) error {
	var p *errkind.Error
	if errors.As(err, &p) {
		return err
	}
	hint := output.T("see `lull help`")
	if len(meant) > 0 {
		hint = output.T("did you mean %s?", output.Choice(meant))
	}
	return output.Error(errkind.Usage, "cannot understand this command: %w", lineError(err)).WithHint("%s", hint)
}

// lineError translates the library's error about a command line.
func lineError(err error) error {
	var unknown *pflag.NotExistError
	var lacking *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return errors.New(output.T("unknown flag: -%s", unknown.GetSpecifiedName()))
	case errors.As(err, &unknown):
		return errors.New(output.T("unknown flag: --%s", unknown.GetSpecifiedName()))
	case errors.As(err, &lacking):
		return errors.New(output.T("the flag --%s needs a value", lacking.GetFlag().Name))
	case errors.As(err, &invalid):
		return errors.New(output.T("%q is no value for the flag --%s", invalid.GetValue(), invalid.GetFlag().Name))
	case errors.As(err, &syntax):
		return errors.New(output.T("%q is no flag", syntax.GetSpecifiedFlag()))
	}
	text := err.Error()
	if words := unknownCommand().FindStringSubmatch(text); words != nil {
		return errors.New(output.T("unknown command %q for %q", words[1], words[2]))
	}
	if words := exclusiveFlags().FindStringSubmatch(text); words != nil {
		return errors.New(output.T("of the flags %s only one can be used", strings.ReplaceAll("--"+words[1], " ", ", --")))
	}
	return err
}

// These errors of the library have no types.
var (
	unknownCommand = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^unknown command "([^"]*)" for "([^"]*)"`) })
	exclusiveFlags = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^if any flags in the group \[([^\]]*)\] are set none of the others can be`)
	})
)

// meant returns the commands that are similar to the first unknown word of args.
func meant(root *cobra.Command, args []string) (similar []string) {
	cmd, rest, _ := root.Find(args) // its error has led here
	if cmd == nil {
		return nil
	}
	value := false // the word is that of a flag
	for _, word := range rest {
		if strings.HasPrefix(word, "-") {
			flag := cmd.Root().PersistentFlags().Lookup(strings.TrimLeft(word, "-")) // nil with "=" in it
			value = flag != nil && flag.NoOptDefVal == ""
			continue
		}
		if !value {
			for _, c := range cmd.Commands() {
				if slices.Contains(c.SuggestFor, strings.ToLower(word)) {
					return []string{"`" + c.CommandPath() + "`"}
				}
			}
			cmd.SuggestionsMinimumDistance = 2
			for _, s := range cmd.SuggestionsFor(word) {
				similar = append(similar, "`"+cmd.CommandPath()+" "+s+"`")
			}
			break
		}
		value = false
	}
	return similar
}

// namesElsewhere are what other package managers call the verbs: a user who types one of them
// is shown ours.
var namesElsewhere = map[string][]string{
	"search":    {"find", "remote-ls", "available"},
	"info":      {"show", "describe", "remote-info"},
	"install":   {"add", "get", "i"},
	"remove":    {"uninstall", "purge", "rm", "delete", "erase"},
	"list":      {"ls", "installed", "get-devices"},
	"refresh":   {"update", "upgrade", "up", "full-upgrade", "dist-upgrade", "get-updates", "upgradable"},
	"revert":    {"rollback", "downgrade", "undo"},
	"history":   {"changes", "log", "get-history", "tasks"},
	"hold":      {"mark", "mask", "pin", "freeze"},
	"unhold":    {"unmask", "unpin", "thaw"},
	"monitor":   {"watch", "follow"},
	"gc":        {"autoremove", "clean", "autoclean", "cleanup", "prune", "collect-garbage", "optimise"},
	"verify":    {"check", "fsck", "repair"},
	"repo":      {"remote", "remotes", "remote-add", "remote-delete", "channels", "sources", "get-remotes"},
	"switch":    {"channel-switch", "switch-to"},
	"status":    {"ps", "services"},
	"doctor":    {"warnings", "debug"},
	"changelog": {"news"},
	"du":        {"size", "usage"},
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

A refresh is downloaded and prepared in the background, and is applied when the
application exits. Applications are never killed unless policy says so.

  lull install org.example.notes     install an application
  lull run org.example.notes         run it
  lull refresh                       look for newer versions of everything
  lull pending                       what waits for a running application`

// command builds the tree of verbs.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:               "lull",
		Short:             "Keep applications up to date without interrupting them",
		Long:              rootHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.Version = ownVersion()
	root.SetVersionTemplate("lull {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version of this program") // as cobra would add it, but also for the manual
	cobra.EnableCommandSorting = false                                       // groups are sorted by use
	flags := root.PersistentFlags()
	flags.StringVar(&a.bus, "bus", os.Getenv("LULL_BUS"), "`address` of the agent's bus, instead of the system bus")
	flags.StringVar(&a.sessionBus, "session-bus", os.Getenv("LULL_SESSION_BUS"), "`address` of the session bus")
	flags.StringVar(&a.root, "root", os.Getenv("LULL_ROOT"), "`directory` of the store, if not /var/lib/lull (with --user ~/.local/state/lull)")
	flags.StringVar(&a.runDir, "run-dir", os.Getenv("LULL_RUN_DIR"), "`directory` of run control, if not /run/lull (with --user $XDG_RUNTIME_DIR/lull)")
	flags.StringVar(&a.config, "config", os.Getenv("LULL_CONFIG"), "`directory` of policy.yaml and repos.d, if not /etc/lull (with --user ~/.config/lull)")
	flags.BoolVar(&a.JSON, "json", false, "write JSON, for programs")
	flags.BoolVar(&a.events, "events", false, "write JSON in lines, for programs: progress, and then what --json writes")
	flags.BoolVar(&a.noAsk, "no-ask-password", false, "ask for no password on the terminal")
	flags.BoolVar(&a.user, "user", false, "talk to your own agent, on the session bus")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return output.Error(errkind.Usage, "cannot understand this command: %w", lineError(err)).WithHint("see `%s --help`", cmd.CommandPath())
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
		{groupApps, []*cobra.Command{a.searchCmd(), a.infoCmd(), a.changelogCmd(), a.installCmd(), a.removeCmd(), a.switchCmd(), a.runCmd(), a.listCmd(), a.openCmd()}},
		{groupRefresh, []*cobra.Command{a.refreshCmd(), a.revertCmd(), a.pendingCmd(), a.historyCmd(), a.holdCmd(), a.unholdCmd(), a.monitorCmd()}},
		{groupSpace, []*cobra.Command{a.duCmd(), a.gcCmd(), a.whyCmd(), a.verifyCmd()}},
		{groupPublish, []*cobra.Command{a.repoCmd(), a.newCmd(), a.tryCmd(), a.publishCmd(), a.channelCmd()}},
		{groupSystem, []*cobra.Command{a.statusCmd(), a.systemCmd(), a.doctorCmd(), a.inspectCmd(), a.policyCmd(), a.completionCmd(), a.versionCmd(), a.commandsCmd()}},
	} {
		for _, v := range g.verbs {
			v.GroupID = g.id
			v.SuggestFor = namesElsewhere[v.Name()]
			root.AddCommand(v)
		}
	}
	root.SetUsageTemplate(strings.NewReplacer("WIDTH", strconv.Itoa(a.Width),
		"ANY", placeholders("COMMAND"), "USAGE", output.T("Usage:"), "EXAMPLES", output.T("Examples:"), "COMMANDS", output.T("Commands:"), "FLAGS", output.T("Flags:"),
		"MORE", output.T("`%s --help` shows more about a command.", "{{.CommandPath}} "+placeholders("COMMAND")),
		"GLOBAL", output.T("`lull help` shows the flags that every command has."),
	).Replace(usageTemplate))
	root.SetHelpTemplate(strings.ReplaceAll(helpTemplate, "WIDTH", strconv.Itoa(a.Width)))
	a.noteRun(root)
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, words []string) {
		translate(cmd.Root())
		help(cmd, words)
	})
	return root
}

// noteRun makes every verb below cmd record that it has begun. Errors before that are about
// the command line.
func (a *app) noteRun(cmd *cobra.Command) {
	if verb := cmd.RunE; verb != nil {
		cmd.RunE = func(cmd *cobra.Command, words []string) error {
			a.ran = true
			a.JSON, a.Lines = a.JSON || a.events, a.events
			if a.JSON {
				output.ForPrograms()
			}
			switch top := strings.Fields(cmd.CommandPath()); {
			case len(top) < 2:
			case top[1] == "run", top[1] == "try":
				a.events = false // their output is that of the application
			case slices.Contains([]string{"status", "policy", "monitor", "doctor"}, top[1]):
				a.saidBroken = true // it is part of their output
			}
			if a.noAsk {
				cmd.SetContext(bus.Unattended(cmd.Context()))
			}
			if a.asksPassword(cmd, os.Geteuid()) {
				a.endQuestion = a.startPasswordAgent(a.stdin.(*os.File))
				a.closers = append(a.closers, a.endQuestion)
			}
			return verb(cmd, words)
		}
	}
	for _, c := range cmd.Commands() {
		a.noteRun(c)
	}
}

// usageTemplate is the library's, shortened: only `lull help` shows the flags that all verbs
// have.
const usageTemplate = `USAGE
{{- if not .HasAvailableSubCommands}}
  {{.UseLine | usage}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} ANY{{end}}
{{- if .HasExample}}

EXAMPLES
{{.Example}}{{end}}
{{- if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if eq (len .Groups) 0}}

COMMANDS{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{beside WIDTH .NamePadding .Short}}{{end}}{{end}}{{else}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{beside WIDTH .NamePadding .Short}}{{end}}{{end}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

FLAGS
{{.LocalFlags.FlagUsagesWrapped WIDTH | defaults | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableSubCommands}}

MORE{{else}}

GLOBAL{{end}}
`

// helpTemplate is the library's, with text that fits the terminal.
const helpTemplate = `{{with (or .Long .Short)}}{{reflow WIDTH .}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

func init() { // the library has one set of functions for all templates
	cobra.AddTemplateFunc("beside", indentedText)
	cobra.AddTemplateFunc("reflow", reflow)
	cobra.AddTemplateFunc("usage", usageLine)
	cobra.AddTemplateFunc("defaults", func(usages string) string {
		return defaultValue().ReplaceAllString(usages, "("+output.T("default")+"$1")
	})
}

// defaultValue matches the library's suffix for the text of a flag.
var defaultValue = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\(default(\s)`) })

// usageLine returns the library's line with the usage of a command.
func usageLine(line string) string {
	return placeholders(strings.Replace(line, "[flags]", output.T("[flags]"), 1))
}

// translate translates the texts of a command and of those below it. The manual, which has
// the same texts, remains English.
func translate(cmd *cobra.Command) {
	for _, text := range []*string{&cmd.Short, &cmd.Long, &cmd.Example} {
		message := strings.TrimLeft(*text, " ")
		*text = (*text)[:len(*text)-len(message)] + output.Marked(message)
	}
	cmd.Short, cmd.Long = placeholders(cmd.Short), placeholders(cmd.Long)
	for _, g := range cmd.Groups() {
		g.Title = output.Marked(g.Title)
	}
	for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if name, ok := strings.CutPrefix(f.Usage, "help for "); ok { // the library's
				f.Usage = output.T("help for %s", name)
			}
			f.Usage = placeholders(output.Marked(f.Usage))
		})
	}
	for _, c := range cmd.Commands() {
		if c.Name() == "help" { // the library's
			c.Short = output.Mark("Help about any command")
		}
		translate(c)
	}
}

// indentedText wraps a text after a name in a list of commands.
func indentedText(width, padding int, text string) string {
	if width == 0 {
		return text
	}
	return strings.Join(output.Wrap(text, max(width-padding-3, 20)), "\n"+strings.Repeat(" ", padding+3))
}

// reflow wraps the paragraphs of a text for a narrow terminal. Indented lines remain
// unchanged.
func reflow(width int, text string) string {
	text = strings.TrimRight(text, " \n")
	if width == 0 {
		return text
	}
	var all []string
	for p := range strings.SplitSeq(text, "\n\n") {
		narrow := !slices.ContainsFunc(strings.Split(p, "\n"), func(l string) bool { return strings.HasPrefix(l, "  ") || output.Columns(l) > width })
		if !narrow && !strings.HasPrefix(p, "  ") {
			p = strings.Join(output.Wrap(strings.Join(strings.Fields(p), " "), width), "\n")
		}
		all = append(all, p)
	}
	return strings.Join(all, "\n\n")
}

// args checks the number of arguments of a verb; most < 0 means any.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) >= least && (most < 0 || len(got) <= most) {
			return nil
		}
		says := output.T("too few arguments")
		if len(got) > least {
			says = output.T("too many arguments")
		}
		return output.Error(errkind.Usage, "cannot understand this command: %s", says).
			WithHint("use it as `%s`", usageLine(cmd.UseLine()))
	}
}
