package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/logging"
)

// flags parses the command line. It returns nil without an error after a request for help or
// version.
func flags(args []string) (*agent.Options, error) {
	o := agent.Options{Version: version, ReadyFD: -1}
	level := slog.LevelInfo
	asked := false
	c := &cobra.Command{
		Use:           "lulld",
		Short:         "The system agent of lull: installs, tracks, refreshes and collects packages",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(*cobra.Command, []string) error { asked = true; return nil },
	}
	f := c.Flags()
	f.BoolVar(&o.User, "user", false, "serve this user alone, on the session bus")
	f.StringVar(&o.Root, "root", "", "directory of the store (default /var/lib/lull; with --user ~/.local/state/lull)")
	f.StringVar(&o.RunDir, "run-dir", "", "directory of what a reboot forgets (default /run/lull; with --user $XDG_RUNTIME_DIR/lull)")
	f.StringVar(&o.BootID, "boot-id", "", "file by which a boot is told from the one before (default /proc/sys/kernel/random/boot_id)")
	f.StringVar(&o.Config, "config", "", "directory of policy.yaml, policy.d and repos.d (default /etc/lull; with --user ~/.config/lull)")
	f.StringVar(&o.Bus, "bus", "", "address of the bus to serve on (default the system bus; with --user the session bus)")
	f.StringVar(&o.LogindBus, "logind-bus", "", "address of the bus that logind is on (default as --bus; with --user the system bus)")
	f.StringVar(&o.Tracker, "tracker", "auto", "how runs are tracked: auto, scope, freezer, subtree, poll")
	f.StringVar(&o.ReleaseAgent, "release-agent", "", "path of lull-release-agent (default beside lulld)")
	f.StringVar(&o.Launcher, "launcher", "", "path of lull-run (default beside lulld)")
	f.IntVar(&o.ReadyFD, "ready-fd", -1, "descriptor that gets the line READY when serving")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	c.SetArgs(args)
	if err := c.Execute(); err != nil {
		return nil, errkind.New(errkind.Usage, "cannot understand the command line: %w", err).WithHint("lulld --help lists the flags")
	}
	if !asked {
		return nil, nil
	}
	o.Log = logging.New(os.Stderr, level)
	return &o, defaults(&o)
}

// defaults sets the default paths of a system or of a user.
func defaults(o *agent.Options) error {
	root, runDir, config := "/var/lib/lull", "/run/lull", "/etc/lull"
	if o.User {
		home, err := os.UserHomeDir()
		if err != nil {
			return err
		}
		root = filepath.Join(xdg("XDG_STATE_HOME", filepath.Join(home, ".local/state")), "lull")
		config = filepath.Join(xdg("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "lull")
		runtimeDir := xdg("XDG_RUNTIME_DIR", filepath.Join("/run/user", strconv.Itoa(os.Geteuid()))) // su and cron leave it out
		if _, err := os.Stat(runtimeDir); o.RunDir == "" && err != nil {
			return errkind.New(errkind.Usage, "cannot find a run directory: %w", err).
				WithHint("log in, or let `loginctl enable-linger` keep the user's services running without a session; or give --run-dir")
		}
		runDir = filepath.Join(runtimeDir, "lull")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, d := range []struct {
		to    *string
		value string
	}{{&o.Root, root}, {&o.RunDir, runDir}, {&o.Config, config},
		{&o.Launcher, filepath.Join(filepath.Dir(self), "lull-run")},
		{&o.ReleaseAgent, filepath.Join(filepath.Dir(self), "lull-release-agent")}} {
		if *d.to == "" {
			*d.to = d.value
		}
	}
	return nil
}

func xdg(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
