// Crasher is a launch without a program, for tests that let it die: it enters the data
// of a revision and writes a line behind a document there.
//
// Usage: crasher ROOT HOME INSTANCE REVISION LINE
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lull/lull/userd/userdata"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root, home, instance, rev, line string) error {
	n, err := strconv.ParseUint(rev, 10, 32)
	if err != nil {
		return err
	}
	p := userdata.Of(root, home, instance)
	ctx := context.Background()
	if _, err := p.MakeCommon(ctx, userdata.Hooks{}); err != nil {
		return err
	}
	d, err := p.Enter(ctx, uint32(n), userdata.Hooks{})
	if err != nil {
		return err
	}
	if d.Note != nil {
		fmt.Println("note:", d.Note)
	}
	f, err := os.OpenFile(filepath.Join(d.Dir, "document"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line + " "); err != nil {
		return err
	}
	return f.Close()
}
