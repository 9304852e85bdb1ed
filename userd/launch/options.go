package launch

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
)

// The default directories of an agent.
const (
	DefaultRoot   = "/var/lib/lull"
	DefaultRunDir = "/run/lull"
)

// Options are the parts of a command line.
type Options struct {
	Root     string // empty means the agent's, else DefaultRoot
	RunDir   string // empty means DefaultRunDir, or $XDG_RUNTIME_DIR/lull of a rootless agent
	Bus      string // of the agent: "system", "session", an address; empty means the agent's default
	User     bool   // the agent is rootless
	Instance string
	Inside   []string // names of subpackages, from the package of the instance downwards
	App      string   // empty means the one named like the package, or the first
	Service  string   // empty for an application
	Session  bool     // the service belongs to a user's session
	Hook     string   // empty if it is no hook of the package
	Args     []string

	// Package is the hash of a package that is not installed as Instance, and
	// Folder the directory of all its data. The caller keeps both.
	Package, Folder string

	Stderr *os.File // for messages to the user; nil discards them
}

// Usage is the help text of lull-run.
const Usage = `usage: lull-run [--root DIR] [--run-dir DIR] [--bus ADDRESS] [--user]
                [--app NAME | --service NAME [--session] | --hook NAME] INSTANCE[/SUBPACKAGE] [ARGUMENT]...
       lull-run --package HASH --folder DIR [--root DIR] [--app NAME] NAME[/SUBPACKAGE] [ARGUMENT]...
       lull-run --wrapper FILE [ARGUMENT]...
       lull-run --after-fd FD PROGRAM [ARGUMENT]...
`

// maxInside bounds how deep a subpackage is that a command line names.
const maxInside = 16

// ErrHelp reports that only the usage was requested.
var ErrHelp = errors.New("help was asked for")

// ParseArgs reads a command line. A wrapper is an executable file that begins
// with "#!/path/to/lull-run --wrapper", so that the kernel hands over its path
// and its arguments without a shell in between.
func ParseArgs(args []string) (Options, error) {
	if len(args) > 1 && args[0] == "--wrapper" {
		return parseWrapper(args[1], args[2:])
	}
	var o Options
	f := flag.NewFlagSet("lull-run", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.Root, "root", os.Getenv("LULL_ROOT"), "")
	f.StringVar(&o.RunDir, "run-dir", os.Getenv("LULL_RUN_DIR"), "")
	f.StringVar(&o.Bus, "bus", os.Getenv("LULL_BUS"), "")
	f.BoolVar(&o.User, "user", false, "")
	f.StringVar(&o.App, "app", "", "")
	f.StringVar(&o.Service, "service", "", "")
	f.BoolVar(&o.Session, "session", false, "")
	f.StringVar(&o.Hook, "hook", "", "")
	f.StringVar(&o.Package, "package", "", "")
	f.StringVar(&o.Folder, "folder", "", "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, ErrHelp
		}
		return o, errkind.New(errkind.Usage, "cannot understand the command line: %w", err)
	}
	if f.NArg() == 0 {
		return o, errkind.New(errkind.Usage, "cannot run nothing: name an instance")
	}
	if o.App != "" && o.Service != "" {
		return o, errkind.New(errkind.Usage, "cannot run %s: --app and --service exclude each other", f.Arg(0))
	}
	if o.Hook != "" && o.Hook != manifest.HookRefreshPending && o.Hook != manifest.HookQuit {
		return o, errkind.New(errkind.Usage, "cannot run hook %s of %s: only %s and %s run in a session", o.Hook, f.Arg(0), manifest.HookQuit, manifest.HookRefreshPending)
	}
	if o.Hook != "" && (o.App != "" || o.Service != "" || o.Package != "") {
		return o, errkind.New(errkind.Usage, "cannot run hook %s of %s: --hook goes with nothing else", o.Hook, f.Arg(0))
	}
	if (o.Package == "") != (o.Folder == "") || o.Package != "" && o.Service != "" {
		return o, errkind.New(errkind.Usage, "cannot run %s: --package and --folder need each other, and exclude --service", f.Arg(0))
	}
	o.Instance, o.Args = f.Arg(0), f.Args()[1:]
	if names := strings.SplitN(o.Instance, "/", maxInside+2); manifest.ValidInstance(names[0]) == nil {
		o.Instance, o.Inside = names[0], names[1:]
	}
	if len(o.Inside) > 0 && (o.Service != "" || o.Hook != "") {
		return o, errkind.New(errkind.Usage, "cannot run %s: --service and --hook are for the package itself", f.Arg(0))
	}
	if len(o.Inside) > maxInside {
		return o, errkind.New(errkind.Usage, "cannot run %.160s: it names more than %d subpackages", f.Arg(0), maxInside)
	}
	return o, nil
}

// maxWrapper bounds what is read of a file that claims to be a wrapper.
const maxWrapper = 64 << 10

func parseWrapper(path string, args []string) (Options, error) {
	o := Options{Args: args}
	f, err := os.Open(path)
	if err != nil {
		return o, errkind.New(errkind.KindOf(err), "cannot read the wrapper: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWrapper))
	if err != nil {
		return o, errkind.New(errkind.Failed, "cannot read the wrapper %s: %w", path, err)
	}
	err = readWrapper(&o, path, string(b))
	return o, err
}

// readWrapper reads the lines KEY=VALUE after the first. It skips unknown
// keys, which are for newer launchers.
func readWrapper(o *Options, path, text string) error {
	for i, line := range strings.Split(text, "\n") {
		if i == 0 || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return errkind.New(errkind.Invalid, "cannot read the wrapper: %s:%d: want KEY=VALUE", path, i+1)
		}
		switch key {
		case "instance":
			o.Instance = value
		case "app":
			o.App = value
		case "root":
			o.Root = value
		case "run-dir":
			o.RunDir = value
		case "bus":
			o.Bus = value
		case "user":
			o.User = value == "true"
		}
	}
	if o.Instance == "" {
		return errkind.New(errkind.Invalid, "cannot read the wrapper: %s names no instance", path)
	}
	return nil
}

// complete fills in what was left open.
func (o *Options) complete() (launchconf.Settings, error) {
	if o.RunDir == "" {
		o.RunDir = DefaultRunDir
		if o.User {
			dir := os.Getenv("XDG_RUNTIME_DIR")
			if dir == "" { // su and cron leave it out
				dir = filepath.Join("/run/user", strconv.Itoa(os.Geteuid()))
			}
			if _, err := os.Stat(dir); err != nil {
				return launchconf.Settings{}, errkind.New(errkind.Unavailable, "this user has no session, and so no agent of its own: %w", err).
					WithHint("log in, or let `loginctl enable-linger` keep the user's services running without a session")
			}
			o.RunDir = filepath.Join(dir, "lull")
		}
	}
	s, err := launchconf.Read(o.RunDir)
	if err != nil {
		return s, err
	}
	if o.Root == "" {
		o.Root = s.Root
	}
	if o.Root == "" {
		if o.User {
			return s, errkind.New(errkind.Unavailable, "the agent of this user has never run, so its packages cannot be found")
		}
		o.Root = DefaultRoot
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return s, fmt.Errorf("the root cannot be found: %w", err)
	}
	if o.Bus == "" {
		o.Bus = s.Bus
	}
	if o.Bus == "" {
		o.Bus = "system"
		if o.User {
			o.Bus = "session"
		}
	}
	return s, nil
}

// Store is the root of the agent's store, as a launch with these options finds it.
func (o Options) Store() (string, error) {
	_, err := o.complete()
	return o.Root, err
}
