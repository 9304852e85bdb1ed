package gc

import (
	"context"
	"slices"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/store"
)

// Reached is what some roots reach: packages with their subpackages, and blobs,
// as the metas say, with their bytes. Each counts once.
type Reached struct {
	Packages, Blobs int
	Bytes           int64
	Whole           bool // every meta was there and could be read
}

// Reach follows the roots of each list by itself, as a collection does for all of
// them together. It reads every meta on the way once, and nothing else. What lies
// behind a meta that cannot be read is not counted.
func Reach(ctx context.Context, s *store.Store, lists map[string][]index.Root) (map[string]Reached, error) {
	g := &graph{s: s, nodes: map[digest.Digest]*node{}}
	reached := make(map[string]Reached, len(lists))
	for name, roots := range lists {
		pkgs := packages(roots)
		if err := g.load(ctx, pkgs); err != nil {
			return nil, problem.New(problem.KindOf(err), "cannot tell what the %s index reaches: %w", name, err)
		}
		reached[name] = g.measure(pkgs)
	}
	return reached, nil
}

// measure counts what has been loaded.
func (g *graph) measure(pkgs []digest.Digest) Reached {
	r := Reached{Whole: true}
	marked := map[digest.Digest]bool{}
	seen := map[store.Key]struct{}{}
	todo := slices.Clone(pkgs)
	for len(todo) > 0 {
		pkg := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if marked[pkg] {
			continue
		}
		marked[pkg] = true
		r.Packages++
		n := g.nodes[pkg]
		if n.absent || n.doubt != nil {
			r.Whole = false
			continue
		}
		for _, w := range n.wants {
			if _, ok := seen[w.Key]; !ok {
				seen[w.Key] = struct{}{}
				r.Bytes += w.Size
			}
		}
		for _, sub := range n.subs {
			todo = append(todo, sub.pkg)
		}
	}
	r.Blobs = len(seen)
	return r
}
