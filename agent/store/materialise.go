package store

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
)

// Materialise builds the missing trees of a package and its subpackages from
// resident blobs: hard links, directories 0755. Subpackages
// come first, so that a tree never refers to one that is missing.
func (s *Store) Materialise(pkg digest.Digest) (err error) {
	g, _, err := s.Stage(pkg, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	return g.Finish()
}

// Staging is a package's tree under construction, and those of its subpackages
// that are not there yet. It belongs to one goroutine.
type Staging struct {
	s         *Store
	pkg       digest.Digest
	known     map[digest.Digest]*manifest.Meta
	again     bool           // a tree that the package has is replaced
	trees     []*treeBuilder // subpackages first
	condemned int64          // see Store
}

// Stage begins to materialise a package, as far as its blobs are resident, and
// returns what is not, sorted: Finish needs it, and the manifests, to be
// resident. Linking a blob also checks that it exists; a separate check of
// each would walk to each twice. Content of the trash is restored.
//
// Register the packages' blobs first: else a blob may be removed a moment
// later. Manifests that are not among the known are read. Missing blobs of the
// known ones whose trees exist are returned as well.
func (s *Store) Stage(pkg digest.Digest, known map[digest.Digest]*manifest.Meta) (*Staging, []Want, error) {
	return s.stage(&Staging{s: s, pkg: pkg, known: known})
}

// Restage is Stage for a package whose tree may be there but broken. Finish puts
// the new one in its place in one step. Processes that use the old one keep their
// open files.
func (s *Store) Restage(pkg digest.Digest, known map[digest.Digest]*manifest.Meta) (*Staging, []Want, error) {
	return s.stage(&Staging{s: s, pkg: pkg, known: known, again: true})
}

func (s *Store) stage(g *Staging) (*Staging, []Want, error) {
	if err := s.writable(); err != nil {
		return nil, nil, err
	}
	missing, err := g.begin()
	if err != nil {
		return nil, nil, g.failed(errors.Join(err, g.Close()))
	}
	return g, missing, nil
}

func (g *Staging) failed(err error) error {
	return errkind.New(errkind.KindOf(err), "cannot build the tree of package %s: %w", g.pkg.Short(), err).WithHint("%s", errkind.HintOf(err))
}

func (g *Staging) begin() ([]Want, error) {
	order, err := g.subpackagesFirst()
	if err != nil {
		return nil, err
	}
	g.condemned = g.s.condemned.Load()
	g.s.await()
	var missing []Want
	built := map[digest.Digest]bool{}
	for _, p := range order {
		t := g.s.newTree(p.pkg, p.meta)
		g.trees = append(g.trees, t)
		if err := t.build(); err != nil {
			return nil, err
		}
		for _, e := range t.missing {
			missing = append(missing, Want{Key{e.Blob, e.Exec}, e.Size})
		}
		built[p.pkg] = true
	}
	missing = g.s.takeAllBack(Distinct(missing))
	var others []Want
	for pkg, m := range g.known {
		if !built[pkg] {
			others = append(others, Wants(m)...)
		}
	}
	lost, err := g.s.look(Distinct(others))
	if err != nil {
		return nil, err
	}
	return Distinct(append(missing, lost...)), nil
}

// Finish adds what was missing, and puts the trees in place.
func (g *Staging) Finish() error {
	if err := g.finish(); err != nil {
		return g.failed(err)
	}
	return nil
}

func (g *Staging) finish() error {
	if g.condemned != g.s.condemned.Load() {
		// A blob that was found broken meanwhile may have been linked before.
		if err := g.Close(); err != nil {
			return err
		}
		if _, err := g.begin(); err != nil {
			return err
		}
	}
	for _, t := range g.trees {
		if err := t.complete(); err != nil {
			return err
		}
	}
	packages := g.s.path(packagesDir)
	if len(g.trees) > 0 {
		if err := faultpoint.Hit("store.materialise.flush"); err != nil {
			return err
		}
		if err := durable.SyncFS(packages); err != nil {
			return err
		}
	}
	for _, t := range g.trees {
		place := g.s.PackageDir(t.pkg)
		err := durable.Move(t.dir, place)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
			// There is one: it must be replaced, or another resolve has just built it.
			err = nil
			if g.again && t.pkg == g.pkg {
				err = durable.Exchange(t.dir, place)
			}
		}
		if err != nil {
			return err
		}
	}
	// Also with nothing to do: the builder of the trees, in this process or a
	// killed one, may not have flushed their names.
	return durable.SyncDir(packages)
}

// Close removes what is not in place: trees that are not finished, or what
// they have replaced.
func (g *Staging) Close() error {
	var errs []error
	for _, t := range g.trees {
		errs = append(errs, removeTree(t.dir))
	}
	g.trees = nil
	return errors.Join(errs...)
}

type resident struct {
	pkg  digest.Digest
	meta *manifest.Meta
}

// subpackagesFirst lists the package and its subpackages that have no tree
// yet, or one to be replaced, each after those that it contains.
func (g *Staging) subpackagesFirst() ([]resident, error) {
	var order []resident
	seen := map[digest.Digest]bool{}
	var visit func(digest.Digest) error
	visit = func(p digest.Digest) error {
		if seen[p] || g.s.HasPackage(p) && !(g.again && p == g.pkg) {
			return nil
		}
		seen[p] = true
		m := g.known[p]
		if m == nil {
			var err error
			if m, err = g.s.Meta(p); err != nil {
				return err
			}
		}
		for _, sub := range m.Subpackages {
			if err := visit(sub); err != nil {
				return err
			}
		}
		order = append(order, resident{p, m})
		return nil
	}
	return order, visit(g.pkg)
}
