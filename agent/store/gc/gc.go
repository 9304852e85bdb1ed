// Package gc collects what no index protects: mark, plan, execute.
//
// Words: to mark is to follow the roots through manifests and subpackages to every
// blob that they need. A victim is a resident blob without a mark; a tree
// without a mark goes too. The plan is the exact list of victims, in the order
// in which they go: first blobs of no package, then package by package, each
// tree before the blobs that only it and its predecessors needed, and each
// package before its subpackages. So after any interruption, a remaining tree
// has all its blobs. Doubt is a protected package whose manifest cannot be
// read: its needs are unknown, so nothing is removed.
//
// A stray is a process that uses a package which no index protects, as /proc
// shows; what it uses stays, and it is reported.
//
// Making a plan only reads: the store, and /proc if anything would go. Executing
// removes victims in small batches under the store's residency lock, checking
// the indices for each (index.Indices.Check), and deletes in parallel
// outside of it; resolves never wait. When roots have changed since the last
// look, marking continues from the new ones before anything else is taken.
//
// Concurrency: all functions are safe for concurrent use, also with each other;
// they block on the disk. A Plan is not changed once it is made.
package gc

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// node has the data of a package that a collection needs.
type node struct {
	pkg           digest.Digest
	name, version string
	subs          []sub
	wants         []store.Want // content and meta, not those of subpackages; may repeat
	bytes         int64        // of wants
	tree          bool
	doubt         error // its meta is there and cannot be read
	absent        bool  // neither its meta nor its tree is there
}

type sub struct {
	name string
	pkg  digest.Digest
}

// graph holds the packages that have been read.
type graph struct {
	s     *store.Store
	trees map[digest.Digest]bool
	nodes map[digest.Digest]*node
}

func newGraph(s *store.Store) (*graph, error) {
	list, err := s.Trees()
	if err != nil {
		return nil, err
	}
	g := &graph{s: s, trees: make(map[digest.Digest]bool, len(list)), nodes: map[digest.Digest]*node{}}
	for _, pkg := range list {
		g.trees[pkg] = true
	}
	return g, nil
}

// load reads the metas of pkgs and, wave by wave, of their subpackages, those
// that are not known yet.
func (g *graph) load(ctx context.Context, pkgs []digest.Digest) error {
	seen := map[digest.Digest]bool{}
	for wave := pkgs; len(wave) > 0; {
		var nodes, fresh []*node
		for _, pkg := range wave {
			if seen[pkg] {
				continue
			}
			seen[pkg] = true
			n := g.nodes[pkg]
			if n == nil {
				n = &node{pkg: pkg, tree: g.trees[pkg]}
				g.nodes[pkg] = n
				fresh = append(fresh, n)
			}
			nodes = append(nodes, n)
		}
		var work errgroup.Group
		work.SetLimit(max(2, runtime.NumCPU()))
		for _, n := range fresh {
			work.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				n.read(g.s)
				return nil
			})
		}
		if err := work.Wait(); err != nil {
			return err
		}
		wave = nil
		for _, n := range nodes {
			for _, s := range n.subs {
				wave = append(wave, s.pkg)
			}
		}
	}
	return nil
}

// read fills the node in. A meta has two names, one in the tree; either will
// do.
func (n *node) read(s *store.Store) {
	m, err := s.Meta(n.pkg)
	if err != nil {
		if again, e := s.TreeMeta(n.pkg); e == nil {
			m, err = again, nil
		}
	}
	// Another collection may have taken the tree away since it was listed.
	n.tree = s.HasPackage(n.pkg)
	switch {
	case err == nil:
	case errkind.Is(err, errkind.NotFound) && !n.tree:
		n.absent = true
		return
	default:
		n.doubt = err
		return
	}
	n.name, n.version = m.Name, m.Version
	for name, pkg := range m.Subpackages {
		n.subs = append(n.subs, sub{name, pkg})
	}
	slices.SortFunc(n.subs, func(a, b sub) int { return strings.Compare(a.name, b.name) })
	n.wants = make([]store.Want, 0, len(m.Entries)+1)
	key := store.MetaKey(n.pkg)
	if size, err := s.Size(key); err == nil {
		n.want(key, size)
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.IsFile() {
			n.want(store.Key{Digest: e.Blob, Exec: e.Exec}, e.Size)
		}
	}
}

func (n *node) want(k store.Key, size int64) {
	n.wants = append(n.wants, store.Want{Key: k, Size: size})
	n.bytes += size
}

// reach lists the package and all its subpackages, each once, itself first.
func (g *graph) reach(pkg digest.Digest) []digest.Digest {
	list := []digest.Digest{pkg}
	seen := map[digest.Digest]bool{pkg: true}
	for i := 0; i < len(list); i++ {
		if n := g.nodes[list[i]]; n != nil {
			for _, s := range n.subs {
				if !seen[s.pkg] {
					seen[s.pkg] = true
					list = append(list, s.pkg)
				}
			}
		}
	}
	return list
}

// mark finds the packages that the roots reach: package → the first index that
// protects it. Doubts are the packages whose needs are unknown.
func (g *graph) mark(roots []index.Root) (marked map[digest.Digest]string, doubts []string) {
	marked = map[digest.Digest]string{}
	for _, r := range roots {
		if r.Package.IsZero() {
			doubts = append(doubts, fmt.Sprintf("the %s index lacks the packages of %s", r.Index, r.Holder))
			continue
		}
		for _, pkg := range g.reach(r.Package) {
			if marked[pkg] != "" {
				continue
			}
			marked[pkg] = r.Index
			n := g.nodes[pkg]
			switch {
			case n.doubt != nil && r.Index != index.WritingIndex:
				doubts = append(doubts, fmt.Sprintf("package %s, which the %s index holds%s: %v", pkg.Short(), r.Index, holder(r), n.doubt))
			case n.absent && pkg != r.Package && g.nodes[r.Package].tree:
				// A tree promises that its subpackages are there.
				doubts = append(doubts, fmt.Sprintf("package %s, a subpackage of %s, which the %s index holds%s, has lost its meta", pkg.Short(), r.Package.Short(), r.Index, holder(r)))
			}
		}
	}
	return marked, doubts
}

func holder(r index.Root) string {
	if r.Holder == "" {
		return ""
	}
	return " for " + r.Holder
}

// packages lists those that roots name.
func packages(roots []index.Root) []digest.Digest {
	var list []digest.Digest
	for _, r := range roots {
		if !r.Package.IsZero() {
			list = append(list, r.Package)
		}
	}
	return list
}

func doubtful(doubts []string) error {
	more := ""
	if len(doubts) > 1 {
		more = fmt.Sprintf(" (and %d more)", len(doubts)-1)
	}
	hint := "lull verify --repair re-fetches broken manifests"
	if strings.HasPrefix(doubts[0], "the "+index.RetainedIndex+" index lacks") {
		hint = "it ends when the system updater sets the retained index; lull gc --retain-nothing declares it empty"
	}
	return errkind.New(errkind.Failed, "cannot collect, because what it may need is unknown: %s%s", doubts[0], more).WithHint("%s", hint)
}
