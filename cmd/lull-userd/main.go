// Command lull-userd is the per-user helper. It notifies the user about refreshes that wait
// for a running application.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/lull/lull/userd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := userd.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
