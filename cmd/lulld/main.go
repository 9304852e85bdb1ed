// Command lulld is the system agent: store, collector, run tracking, refreshes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/lull/lull/agent"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/printable"
)

// version is set by the linker.
var version = "dev"

func main() {
	runtime.GOMAXPROCS(agent.Processors())
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(agent.MemoryTarget)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "lulld: %s\n", printable.Line(err.Error()))
		if hint := errkind.HintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", printable.Line(hint))
		}
		os.Exit(errkind.ExitCode(err))
	}
}

func run(ctx context.Context, args []string) error {
	o, err := flags(args)
	if err != nil || o == nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	o.Reload = reload
	return agent.Run(ctx, *o)
}
