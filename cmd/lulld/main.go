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

// Most of what the agent does is to wait for the file system. A thread in a system
// call keeps its processor, in the runtime's sense, until somebody takes it away,
// which may take ten milliseconds: with one for each CPU, and as many threads that
// make or delete files, nobody would be left to answer a call.
const processorsPerCPU, leastProcessors = 4, 8

func main() {
	runtime.GOMAXPROCS(max(processorsPerCPU*runtime.NumCPU(), leastProcessors))
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
