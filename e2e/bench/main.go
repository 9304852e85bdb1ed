package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lull/lull/e2e/rig"
)

func main() { rig.MainOfProgram(bench) }

func bench() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	id := flag.String("id", "", "run only what measures the row with this `ID`")
	out := flag.String("out", "docs", "directory of bench.json and bench.svg")
	draw := flag.Bool("draw", false, "measure nothing, print and draw what bench.json has")
	inside := flag.String("inside", "", "play a `scene` in this container and print its samples")
	flag.Parse()
	var err error
	switch {
	case *inside != "":
		err = playInside(ctx, *inside)
	case *draw:
		err = redraw(*out)
	default:
		err = measure(ctx, *id, *out)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}
