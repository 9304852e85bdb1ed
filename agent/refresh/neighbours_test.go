package refresh

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
)

// TestNeighbours: a file that is in the current package of another instance, too, is not
// sealed. What is known of the others is read once: without their trees the answer is the
// same, until one of them gets another package.
func TestNeighbours(t *testing.T) {
	root := t.TempDir()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	links, err := current.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(World{Store: s, Links: links})
	repo := storetest.New()
	revisions := map[string]uint32{}
	install := func(name, version, program string) digest.Digest {
		t.Helper()
		pkg := repo.Package(t, storetest.Spec{Name: name, Version: version, Files: map[string]string{"bin/own*": name + version, "bin/program*": program}})
		repo.Put(t, s, pkg)
		revisions[name]++
		if err := links.Add(name, revisions[name], pkg, 0); err != nil {
			t.Fatal(err)
		}
		if err := e.swap(name, revisions[name]); err != nil {
			t.Fatal(err)
		}
		return pkg
	}
	others := map[string]digest.Digest{}
	for i := range 3 {
		name := fmt.Sprintf("org.example.p%d", i)
		others[name] = install(name, "1", "shared by all")
	}
	sealed := func(version string) int {
		t.Helper()
		files, err := e.sealableFiles("org.example.mine", install("org.example.mine", version, "shared by all"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	if n := sealed("1"); n != 1 {
		t.Errorf("beside neighbours: got %d files sealed, want 1", n)
	}
	for _, pkg := range others {
		if err := os.Rename(s.PackageDir(pkg), s.PackageDir(pkg)+".away"); err != nil {
			t.Fatal(err)
		}
	}
	if n := sealed("2"); n != 1 {
		t.Errorf("beside known neighbours: got %d files sealed, want 1 (without reading their trees)", n)
	}
	for _, pkg := range others {
		if err := os.Rename(s.PackageDir(pkg)+".away", s.PackageDir(pkg)); err != nil {
			t.Fatal(err)
		}
	}
	for name := range others {
		install(name, "2", "of "+name)
	}
	if n := sealed("3"); n != 2 {
		t.Errorf("after the neighbours have changed: got %d files sealed, want 2", n)
	}
	trees, err := e.neighbourTrees("org.example.mine")
	if err != nil || len(trees) != len(others) || slices.Contains(trees, others["org.example.p0"]) {
		t.Errorf("got trees %v (%v) of the neighbours, want %d without that of org.example.p0, %s", trees, err, len(others), others["org.example.p0"])
	}
	if err := e.drop("org.example.p0"); err != nil {
		t.Fatal(err)
	}
	if trees, _ = e.neighbourTrees("org.example.mine"); len(trees) != len(others)-1 {
		t.Errorf("after a removal they run from %v; want %v trees", trees, len(others)-1)
	}
	e.ForgetTrees()
	if e.neighbours.inodes != 0 || len(e.neighbours.of) != 0 {
		t.Errorf("after a repair: got %d inodes and %d entries kept, want none", e.neighbours.inodes, len(e.neighbours.of))
	}
}

// TestNeighboursBound: beyond the bound nothing is kept.
func TestNeighboursBound(t *testing.T) {
	var n neighbours
	n.put("a", neighbour{files: make([]uint64, keepInodes), listed: true}, 0)
	n.put("b", neighbour{files: make([]uint64, 1), listed: true}, 0)
	if _, known, _ := n.get("b"); known || n.inodes != keepInodes {
		t.Errorf("beyond the bound: got b kept %v and %d inodes, want false and %d", known, n.inodes, keepInodes)
	}
	n.forget("a")
	n.put("b", neighbour{files: make([]uint64, 1), listed: true}, 0)
	if _, known, _ := n.get("b"); known {
		t.Error("an entry is kept that was read before a change")
	}
	n.put("b", neighbour{files: make([]uint64, 1), listed: true}, 1)
	if n.inodes != 1 {
		t.Errorf("got %d inodes kept, want 1", n.inodes)
	}
}
