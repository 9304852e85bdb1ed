package userd

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/printable"
)

// Exit statuses of sysexits(3).
const (
	exitFailed = 1
	exitUsage  = 64
)

// version is set by the linker in released builds.
var version = ""

func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "development build"
}

// Main runs the helper with the command line args, without the program's name,
// and returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("lull-userd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "lull-userd notifies the user of refreshes that wait for a running application.\n\nusage: lull-userd [flags]\n")
		flags.PrintDefaults()
	}
	bus := flags.String("bus", os.Getenv("LULL_BUS"), "`address` of the agent's bus, or \"system\" or \"session\" (LULL_BUS; default system)")
	session := flags.String("session-bus", os.Getenv("LULL_SESSION_BUS"), "`address` of the session bus (LULL_SESSION_BUS; default that of the session)")
	logindBus := flags.String("logind-bus", "", "`address` of logind's bus, or \"system\" (default: the agent's bus, or the system bus)")
	var unless []string
	flags.Func("exit-unless", "exit when there is nothing to do and this `file` does not exist (default: never exit). It may be given several times. A program that watches the files must restart the helper, as lull-userd.path does", func(file string) error {
		unless = append(unless, file)
		return nil
	})
	after := flags.Duration("exit-after", 30*time.Second, "with --exit-unless: after how long without anything to do")
	readyFD := flags.Int("ready-fd", -1, "`descriptor` to write READY to, and close, when serving")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	show := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return 0
		}
		return exitUsage
	}
	if *show {
		fmt.Fprintln(stdout, "lull-userd", ownVersion())
		return 0
	}
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "lull-userd:", printable.Line(err.Error()))
		return code
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(*level)); err != nil {
		return fail(exitUsage, fmt.Errorf("cannot use %q as a log level: %w", *level, err))
	}
	if flags.NArg() > 0 {
		return fail(exitUsage, fmt.Errorf("cannot use %q: there are no arguments", flags.Arg(0)))
	}
	ready, err := readyFile(*readyFD)
	if err != nil {
		return fail(exitUsage, err)
	}
	if *after <= 0 {
		return fail(exitUsage, fmt.Errorf("cannot use %s for --exit-after: want more than nothing", *after))
	}
	o := Options{ExitUnless: unless, ExitAfter: *after, Ready: ready, Version: ownVersion(), Log: logger(stderr, l)}
	o.Display = display()
	o.Bus, o.SessionBus, o.LogindBus = addresses(*bus, *session, *logindBus)
	if own := sessionBus(o.SessionBus); busSocket(own) != busSocket(o.Bus) {
		o.OwnBus = own
	}
	if err := Run(ctx, o); err != nil {
		return fail(exitFailed, err)
	}
	return 0
}

// display is the X display to watch, as in DISPLAY; "" means none. In a Wayland session
// that variable names an Xwayland, which the first connection would start, and which
// sees few of the windows.
func display() string {
	if os.Getenv("WAYLAND_DISPLAY") != "" || os.Getenv("XDG_SESSION_TYPE") == "wayland" {
		return ""
	}
	return os.Getenv("DISPLAY")
}

// addresses fills in what the flags leave open; "" is the bus that the
// environment names. Logind is on the system bus, or on the private bus of the
// agent.
func addresses(agent, session, logind string) (string, string, string) {
	if session == "session" {
		session = ""
	}
	ofSession := agent == "session"
	switch {
	case ofSession && session != "":
		agent = session
	case ofSession:
		agent = sessionBus("")
	case agent == "system":
		agent = ""
	}
	switch {
	case logind == "system", logind == "" && ofSession:
		logind = ""
	case logind == "":
		logind = agent
	}
	return agent, session, logind
}

func readyFile(fd int) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot use descriptor %d to report that the helper is ready: %w", fd, err)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready"), nil
}

// logger writes lines; the journal adds the time to them by itself.
func logger(w io.Writer, l slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey && os.Getenv("JOURNAL_STREAM") != "" {
			return slog.Attr{}
		}
		if a.Key == "error" {
			if a.Value.Any() == nil {
				return slog.Attr{}
			}
			a.Value = slog.StringValue(strings.TrimSpace(a.Value.String()))
		}
		return a
	}}))
}
