// Command lulld is the system agent: store, collector, run tracking, refreshes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/lull/lull/agent"
	"github.com/lull/lull/agent/problem"
)

// version is set by the linker.
var version = "dev"

func main() {
	runtime.GOMAXPROCS(agent.Processors())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "lulld: %v\n", err)
		if hint := problem.HintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
		}
		os.Exit(problem.ExitCode(err))
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
