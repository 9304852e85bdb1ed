package gc

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Chain is the reason why something is kept.
type Chain struct {
	Index   string
	Package string // hash of the package that the index holds
	Through string // subpackages and path on the way from it, "" if it is what was asked for
	Holder  string
	PID     int
}

// maxTrails bounds the ways of one root to what was asked for.
const maxTrails = 64

// Why lists all chains that keep something, strays among them: a blob (its hash, with "x" behind
// it for the executable form alone), a package (its hash, or
// leastPrefix or more digits, unique among packages), or a path, absolute or relative to the
// root. No chain means that nothing keeps it. An unknown name is an error of
// kind NotFound.
func Why(s *store.Store, roots []index.Root, what string) ([]Chain, error) {
	chains, err := why(s, roots, what)
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot determine why %.300q is kept: %w", what, err)
	}
	return chains, nil
}

// target is what was asked for: a package, or blobs, or, where only a hash was
// given, either.
type target struct {
	pkg  digest.Digest
	keys []store.Key
}

func why(s *store.Store, roots []index.Root, what string) ([]Chain, error) {
	g, err := newGraph(s)
	if err != nil {
		return nil, err
	}
	if err := g.load(context.Background(), packages(roots)); err != nil {
		return nil, err
	}
	t, err := g.target(what)
	if err != nil {
		return nil, err
	}
	// As a collection does: what no index protects may be in use all the same.
	marked, _ := g.mark(roots)
	strays, _, err := g.strays(context.Background(), marked)
	if err != nil {
		return nil, err
	}
	if err := g.load(context.Background(), packages(strays)); err != nil {
		return nil, err
	}
	roots = slices.Concat(roots, strays)
	var chains []Chain
	for _, r := range roots {
		w := walk{g: g, t: t}
		w.visit(r.Package, nil)
		for _, through := range w.found {
			chains = append(chains, Chain{r.Index, r.Package.String(), through, r.Holder, r.PID})
		}
		if len(w.found) == 0 && slices.ContainsFunc(t.keys, r.Wants) {
			chains = append(chains, Chain{r.Index, r.Package.String(), "wanted by the resolve", r.Holder, r.PID})
		}
	}
	if len(chains) == 0 && !t.there(s) {
		return nil, errkind.New(errkind.NotFound, "there is no such blob or package")
	}
	return chains, nil
}

func (t target) there(s *store.Store) bool {
	return slices.ContainsFunc(t.keys, s.Has) || !t.pkg.IsZero() && s.HasPackage(t.pkg)
}

// target finds out what is meant.
func (g *graph) target(what string) (target, error) {
	if k, err := store.ParseKey(what); err == nil {
		if k.Exec {
			return target{keys: []store.Key{k}}, nil
		}
		return target{k.Digest, []store.Key{k, {Digest: k.Digest, Exec: true}}}, nil
	}
	if len(what) >= leastPrefix && digest.IsHex(what) {
		return g.prefix(what)
	}
	return g.path(what)
}

// leastPrefix is how many digits of a package's hash a person has to write.
const leastPrefix = 4

func (g *graph) prefix(what string) (target, error) {
	found := map[digest.Digest]bool{}
	for pkg := range g.nodes {
		if strings.HasPrefix(pkg.String(), what) {
			found[pkg] = true
		}
	}
	for pkg := range g.trees {
		if strings.HasPrefix(pkg.String(), what) {
			found[pkg] = true
		}
	}
	switch len(found) {
	case 0:
		return target{}, errkind.New(errkind.NotFound, "there is no package whose hash begins so")
	case 1:
		for pkg := range found {
			return target{pkg, []store.Key{store.MetaKey(pkg)}}, nil
		}
	}
	return target{}, errkind.New(errkind.Invalid, "%d packages have hashes that begin so", len(found))
}

// path resolves a path in the store. Symlinks are followed, as current/
// and revisions/ consist of them.
func (g *graph) path(what string) (target, error) {
	path := what
	if !filepath.IsAbs(path) {
		path = filepath.Join(g.s.Root(), path)
	}
	outside := errkind.New(errkind.Invalid, "it does not lie in the store %s", g.s.Root())
	// First by its text: a path elsewhere is not read at all, since the agent
	// has more rights than the caller.
	if rel, err := filepath.Rel(g.s.Root(), path); err != nil || !filepath.IsLocal(rel) {
		return target{}, outside
	}
	root, err := filepath.EvalSymlinks(g.s.Root())
	if err != nil {
		return target{}, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return target{}, errkind.New(errkind.NotFound, "there is no such path: %w", err)
	}
	rel, err := filepath.Rel(root, real)
	if err != nil || !filepath.IsLocal(rel) {
		return target{}, outside
	}
	parts := strings.SplitN(rel, "/", 3)
	switch {
	case parts[0] == "blobs" && len(parts) == 3:
		if k, err := store.ParseKey(parts[2]); err == nil {
			return target{keys: []store.Key{k}}, nil
		}
	case (parts[0] == "packages" || parts[0] == "tmp") && len(parts) > 1:
		pkg, err := digest.Parse(parts[1])
		if err == nil && (len(parts) == 2 || parts[0] == "tmp") {
			return target{pkg: pkg}, nil
		}
		if err == nil {
			return g.entry(pkg, parts[2])
		}
	}
	return target{}, errkind.New(errkind.Invalid, "it is no blob, package or file of a package")
}

// entry is a path in a package's tree: its blob, or else the package.
func (g *graph) entry(pkg digest.Digest, path string) (target, error) {
	m, err := readEither(g.s, pkg)
	if err != nil {
		return target{}, err
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Path == path && e.IsFile() {
			return target{keys: []store.Key{{Digest: e.Blob, Exec: e.Exec}}}, nil
		}
	}
	return target{pkg: pkg}, nil
}

func readEither(s *store.Store, pkg digest.Digest) (*manifest.Meta, error) {
	m, err := s.Meta(pkg)
	if err != nil {
		if again, e := s.TreeMeta(pkg); e == nil {
			return again, nil
		}
	}
	return m, err
}

// walk follows one root along every way.
type walk struct {
	g     *graph
	t     target
	found []string
}

func (w *walk) visit(pkg digest.Digest, trail []string) {
	n := w.g.nodes[pkg]
	if n == nil || len(w.found) >= maxTrails {
		return
	}
	if pkg == w.t.pkg || slices.Contains(w.t.keys, store.MetaKey(pkg)) {
		w.found = append(w.found, strings.Join(trail, " → "))
	} else if w.needs(n) {
		w.found = append(w.found, strings.Join(append(slices.Clip(trail), w.place(n)), " → "))
	}
	for _, s := range n.subs {
		w.visit(s.pkg, append(slices.Clip(trail), fmt.Sprintf("%s %s", s.name, s.pkg.Short())))
	}
}

func (w *walk) needs(n *node) bool {
	return slices.ContainsFunc(n.wants, func(want store.Want) bool { return slices.Contains(w.t.keys, want.Key) })
}

// place returns where in the package the blob is used.
func (w *walk) place(n *node) string {
	m, err := readEither(w.g.s, n.pkg)
	if err != nil {
		return "a file"
	}
	var paths []string
	for i := range m.Entries {
		if e := &m.Entries[i]; e.IsFile() && slices.Contains(w.t.keys, store.Key{Digest: e.Blob, Exec: e.Exec}) {
			paths = append(paths, e.Path)
		}
	}
	if len(paths) > 1 {
		return fmt.Sprintf("%s and %d more", paths[0], len(paths)-1)
	}
	return strings.Join(paths, "")
}
