// One short-lived process, which need not know how many CPUs its cgroup has.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command lull-run starts an application or a service of an installed package: see the
// package launch. `lull run` and exported wrappers execute it.
package main

import (
	"context"
	"os"

	"github.com/lull/lull/userd/launch"
)

func main() { os.Exit(launch.Main(context.Background(), os.Args[1:])) }
