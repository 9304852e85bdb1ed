// Interleaver is the store's life in short, for a test that has a collection
// happen between any two of its steps: what is retained, opened, installed,
// refreshed, run once and let go.
//
// Usage: interleaver ROOT BLOBS RUNTIME FIRST SECOND ONCE, where BLOBS is a folder
// of blobs, FIRST and SECOND are two versions of a package, and all contain
// RUNTIME. For each passage there is a root of its own, ROOT/N. It prints how many
// there were.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/resolve/testdata/folder"
)

func main() {
	var pkgs []digest.Digest
	for _, name := range os.Args[3:] {
		pkg, err := digest.Parse(name)
		if err != nil {
			fail(err)
		}
		pkgs = append(pkgs, pkg)
	}
	n := 1
	for ; ; n++ {
		l := life{src: folder.Folder(os.Args[2]), runtime: pkgs[0], first: pkgs[1], second: pkgs[2], once: pkgs[3], turn: n}
		if err := l.run(filepath.Join(os.Args[1], fmt.Sprint(n))); err != nil {
			fail(fmt.Errorf("with a collection at passage %d, %s: %w", n, l.where, err))
		}
		if l.where == "" {
			break // there are not so many
		}
	}
	fmt.Println(n - 1)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// life is one run, with a collection at one passage.
type life struct {
	src                          folder.Folder
	runtime, first, second, once digest.Digest
	turn, passed                 int
	where                        string // the point of the collection
	s                            *store.Store
	ix                           *index.Indices
	err                          error // of the collection
}

// step is a passage between what is no fault point.
func (l *life) step(name string) { l.between(name) }

// between collects when the turn has come, and looks whether what is protected
// and was whole is whole.
func (l *life) between(point string) {
	if l.passed++; l.passed != l.turn {
		return
	}
	l.where = point
	var whole []digest.Digest
	for _, r := range l.ix.Snapshot() {
		if l.s.HasPackage(r.Package) {
			whole = append(whole, r.Package)
		}
	}
	_, err := gc.Collect(context.Background(), l.s, l.ix, gc.Options{})
	l.err = errors.Join(l.err, err)
	for _, pkg := range whole {
		l.err = errors.Join(l.err, l.whole(pkg))
	}
}

func (l *life) whole(pkg digest.Digest) error {
	if !l.s.HasPackage(pkg) {
		return fmt.Errorf("package %s is gone", pkg.Short())
	}
	missing, err := l.s.Missing(pkg)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("of package %s is missing %v", pkg.Short(), missing)
	}
	return err
}

func (l *life) run(root string) (err error) {
	defer os.RemoveAll(root)
	if l.s, err = store.Open(root); err != nil {
		return err
	}
	l.ix = index.New()
	faultpoint.Between(l.between)
	defer faultpoint.Between(nil)
	r := resolve.New(l.s, l.ix)
	r.Parallel = 1 // so that points are passed in the same order each time
	resolved := func(pkg digest.Digest) error {
		if err := r.Resolve(context.Background(), pkg, l.src, "test", nil); err != nil {
			return err
		}
		return l.whole(pkg)
	}
	retain := func(pkgs ...digest.Digest) {
		var roots []index.Root
		for _, pkg := range pkgs {
			roots = append(roots, index.Root{Package: pkg})
		}
		l.ix.SetRetained(roots)
		l.step("retain")
	}
	install := func(pkgs ...digest.Digest) {
		var roots []index.Root
		for _, pkg := range pkgs {
			roots = append(roots, index.Root{Package: pkg, Holder: "org.x"})
		}
		l.ix.SetInstalled(roots)
		l.step("install")
	}

	// The five steps of RFC-0217: what is retained is opened, and leaves retained.
	retain(l.once)
	err = resolved(l.once)
	lease := l.ix.Lease(l.once, "client", 1)
	l.step("open")
	retain()
	err = errors.Join(err, l.whole(l.once))
	// Installed, and refreshed while that is open.
	install(l.first)
	err = errors.Join(err, resolved(l.first), l.whole(l.once))
	install(l.first, l.second)
	err = errors.Join(err, resolved(l.second), l.whole(l.first))
	install(l.second)
	lease.Close()
	l.step("close")
	err = errors.Join(err, l.whole(l.second))
	// Opened again by somebody who comes when it is about to go.
	lease = l.ix.Lease(l.once, "client", 1)
	l.step("open")
	err = errors.Join(err, resolved(l.once))
	lease.Close()
	l.step("close")
	// A subpackage by itself, when what contained it leaves.
	lease = l.ix.Lease(l.runtime, "client", 1)
	install()
	err = errors.Join(err, l.whole(l.runtime))
	lease.Close()
	l.step("close")
	faultpoint.Between(nil)
	if _, e := gc.Collect(context.Background(), l.s, l.ix, gc.Options{}); e != nil {
		return errors.Join(err, e)
	}
	if left := l.s.Packages(); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left are %v", left))
	}
	return errors.Join(err, l.err)
}
