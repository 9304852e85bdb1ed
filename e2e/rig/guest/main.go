// Command guest is what the rig runs in a virtual machine. As /init it loads
// the drivers, mounts the root file system, brings the programs under test into
// it and goes on with systemd, or in a minimal machine stays process 1 itself.
// As `guest serve` it runs commands for the rig.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		err = serve()
	} else {
		err = initialize()
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	os.Exit(1)
}
