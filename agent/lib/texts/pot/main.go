// Command pot writes the list of messages of a program for translators, from the Go
// files of some directories: see package extract. xgettext does not read Go.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/texts/pot/extract"
)

func main() {
	program := flag.String("program", "", "`name` of the program; the list is po/NAME/NAME.pot")
	flag.Parse()
	b, err := extract.POT(*program, flag.Args())
	if err == nil {
		err = os.WriteFile(filepath.Join("po", *program, *program+".pot"), b, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pot:", err)
		os.Exit(1)
	}
}
