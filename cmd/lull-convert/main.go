// Command lull-convert turns files of other packagers into packages: see the package convert.
// It has no privileges, and only `lull` and `lulld` start it.
package main

import (
	"context"
	"os"

	"github.com/lull/lull/agent/convert/converter"
)

func main() { os.Exit(converter.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
