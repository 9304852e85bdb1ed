// Command roots makes the root file systems and machine images that every run
// of the tests needs and the cache does not have, so that they exist when
// tests need them. With arguments SUITE/SET, such as sid/gnome, it makes those
// roots. If it cannot, for example without root, it reports that and succeeds:
// the tests that need them decide what that means.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "roots:", err)
	}
}

func run(ctx context.Context, names []string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("cannot make root file systems: needs root")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return fmt.Errorf("cannot make root file systems: %w", err)
	}
	if len(names) > 0 {
		return some(ctx, names)
	}
	var all sync.WaitGroup
	for s, sets := range map[suite.Suite][]suite.Set{suite.Trixie: {suite.RPM, suite.Everyday, suite.GNOME}, suite.Bookworm: nil} {
		all.Go(func() {
			if err := rig.Run(ctx, os.Stderr, func(tb rig.TB) {
				rig.Image(tb, s)
				for _, set := range sets {
					rig.Rootfs(tb, s, set)
				}
			}); err != nil {
				fmt.Fprintln(os.Stderr, "roots:", err)
			}
		})
	}
	all.Wait()
	return nil
}

// some makes the roots with these names, one after the other.
func some(ctx context.Context, names []string) error {
	for _, name := range names {
		of, set, _ := strings.Cut(name, "/")
		i := slices.IndexFunc(suite.Sets, func(s suite.Set) bool { return s.Name == set })
		if !slices.Contains(suite.All, suite.Suite(of)) || i < 0 {
			return fmt.Errorf("cannot make %q: there is no such suite or set", name)
		}
		dir, err := suite.Root(ctx, log.Printf, suite.Suite(of), suite.Sets[i])
		if err != nil {
			return fmt.Errorf("cannot make %s: %w", name, err)
		}
		fmt.Println(dir)
	}
	return nil
}
