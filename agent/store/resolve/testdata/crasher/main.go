// Crasher is the store's life in short, for tests that let it die: it resolves
// one package, then its successor, and collects the first.
//
// Usage: crasher ROOT BLOBS FIRST SECOND, where BLOBS is a folder of blobs.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/resolve/testdata/folder"
)

func main() {
	if err := run(os.Args[1], folder.Folder(os.Args[2]), os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string, src folder.Folder, names []string) error {
	lock, err := store.LockRoot(root)
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := store.Open(root)
	if err != nil {
		return err
	}
	ix := index.New()
	r := resolve.New(s, ix)
	r.Parallel = 1 // so that points are passed in the same order each time
	for _, name := range names {
		pkg, err := digest.Parse(name)
		if err != nil {
			return err
		}
		ix.SetInstalled([]index.Root{{Package: pkg, Holder: "test"}})
		if err := r.Resolve(context.Background(), pkg, src, "test", nil); err != nil {
			return err
		}
	}
	_, err = gc.Collect(context.Background(), s, ix, gc.Options{})
	return err
}
