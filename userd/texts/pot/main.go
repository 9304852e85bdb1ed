// Command pot writes the list of messages for translators: every string that is
// given to a method T or N in the Go files of some folders. xgettext knows no Go.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/lull/lull/userd/texts/pot/extract"
)

func main() {
	out := flag.String("o", "", "`file` to write")
	flag.Parse()
	b, err := extract.POT(flag.Args())
	if err == nil {
		err = os.WriteFile(*out, b, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pot:", err)
		os.Exit(1)
	}
}
