package gc

import (
	"context"
	"slices"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Reached is the content that some roots reach: packages with their
// subpackages, and blobs, by the manifests, with their bytes. Each counts
// once.
type Reached struct {
	Packages, Blobs int
	Bytes           int64
	Whole           bool // every meta was there and could be read
}

// Reach follows the roots of each list separately, as a collection does for
// all of them together. It reads every manifest on the way once, and nothing
// else. Content below an unreadable manifest is not counted.
func Reach(ctx context.Context, s *store.Store, lists map[string][]index.Root) (map[string]Reached, error) {
	g := &graph{s: s, nodes: map[digest.Digest]*node{}}
	reached := make(map[string]Reached, len(lists))
	for name, roots := range lists {
		pkgs := packages(roots)
		if err := g.load(ctx, pkgs); err != nil {
			return nil, errkind.New(errkind.KindOf(err), "cannot determine what the %s index reaches: %w", name, err)
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
