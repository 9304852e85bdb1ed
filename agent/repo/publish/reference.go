package publish

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// reference is how a source names another package: exactly one of hash, path and name is
// set. Publishing replaces it by the hash.
type reference struct {
	hash    digest.Digest
	path    string // of a package source, relative to the source that names it
	name    string // of a package in the same repository
	channel string // "" means the channel that is published to
}

// parseReference reads a hash, a path that begins with ./ or ../, or NAME[@CHANNEL].
func parseReference(text string) (r reference, err error) {
	if r.hash, err = digest.Parse(text); err == nil {
		if r.hash.IsZero() {
			return r, errkind.Errorf("a hash of zeros")
		}
		return r, nil
	}
	if strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../") {
		return reference{path: filepath.Clean(text)}, nil
	}
	name, channel, named := strings.Cut(text, "@")
	err = manifest.ValidName(name)
	if err == nil && named {
		err = repo.ValidChannel(channel)
	}
	if err != nil {
		return r, errkind.Errorf("%.80q is neither the hash of a package (64 lower-case hexadecimal digits) nor NAME@CHANNEL nor a path that begins with ./ or ../", text)
	}
	return reference{name: name, channel: channel}, nil
}

func (r reference) String() string {
	switch {
	case r.path != "":
		return r.path
	case r.name != "":
		return r.name + "@" + r.channel
	}
	return r.hash.Short()
}

// Reference is a package that a published one contains, or that an update of the system
// names.
type Reference struct {
	Name    string // of a subpackage in its package; "" in a system
	From    string // the reference of the source
	Package digest.Digest
	Title   string // name and version of the package
	Bytes   int64  // of its manifest, its content and its subpackages, each blob once
}

// maxNested bounds how deep sources contain others by their paths.
const maxNested = 16

// publication is one call of PublishAll: sources, and those that they contain by their paths.
// It belongs to one goroutine and holds the repository's lock.
type publication struct {
	s       *state // of this attempt
	o       Options
	sources []packageSource
	batch   *batch
	nested  map[string]*Result // by the directory of the source; nil while it is published
	blobs   int                // new, of nested sources
	written int64              // bytes of these, compressed
}

// resolve replaces the references of a source by hashes, and returns them sorted by name.
func (p *publication) resolve(ctx context.Context, srcDir string, d *description, depth int) (list []Reference, err error) {
	for _, name := range slices.Sorted(maps.Keys(d.references)) {
		r, err := p.find(ctx, srcDir, d.references[name], depth)
		if err != nil {
			return nil, errkind.New(errkind.KindOf(err), "cannot use the subpackage %q of %s: %w", name, d.Name, err).WithHint("%s", errkind.HintOf(err))
		}
		r.Name = name
		if d.Subpackages == nil {
			d.Subpackages = map[string]digest.Digest{}
		}
		d.Subpackages[name] = r.Package
		list = append(list, r)
	}
	return list, nil
}

// find returns the package of a reference, which is in the repository as a whole.
func (p *publication) find(ctx context.Context, srcDir string, r reference, depth int) (Reference, error) {
	if r.name != "" && r.channel == "" {
		r.channel = p.o.Channel
	}
	found := Reference{From: r.String(), Package: r.hash}
	var err error
	switch {
	case r.path != "":
		found.Package, err = p.nest(ctx, srcDir, r.path, depth)
	case r.name != "":
		found.Package, err = p.newest(r.name, r.channel)
	}
	if err != nil {
		return found, err
	}
	m, size, err := readMeta(ctx, p.s.store, found.Package)
	if err != nil {
		return found, err
	}
	found.Title = m.Name + " " + m.Version
	sizes := map[digest.Digest]int64{}
	b := &batch{store: p.s.store} // it only asks for what is there
	if err := b.addClosure(ctx, sizes, found.Package, m, size); err != nil {
		return found, err
	}
	for _, n := range sizes {
		found.Bytes += n
	}
	return found, nil
}

// newest returns the newest package of a channel whose rollout is not halted.
func (p *publication) newest(name, channel string) (pkg digest.Digest, err error) {
	list, err := p.s.offers(name, channel)
	if err != nil {
		return pkg, err
	}
	for _, o := range list {
		if o.Halted == nil {
			return o.Package, nil
		}
	}
	if len(list) > 0 {
		return pkg, errkind.New(errkind.Conflict, "version %s of %s in channel %q is halted", list[0].Version, name, channel).
			WithHint("lull channel resume goes on with it")
	}
	return pkg, errkind.New(errkind.Invalid, "the repository has no package %s in channel %q", name, channel).
		WithHint("publish it first, or both in one run: lull publish ./other ./this --repo REPOSITORY")
}

// nest publishes a source that another one contains. It gets no channel: the package above
// it is its only way to a machine.
func (p *publication) nest(ctx context.Context, srcDir, path string, depth int) (pkg digest.Digest, err error) {
	if !p.o.Nested {
		return pkg, errkind.New(errkind.Invalid, "the path %.200q cannot be used here", path).WithHint("publish it by itself, and use NAME@CHANNEL")
	}
	path, err = filepath.Abs(filepath.Join(srcDir, path))
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return pkg, errkind.New(errkind.Invalid, "%w", err)
	}
	if r, known := p.nested[path]; known {
		if r == nil {
			return pkg, errkind.New(errkind.Invalid, "%s contains itself", path)
		}
		return r.Package, nil
	}
	if depth >= maxNested {
		return pkg, errkind.New(errkind.Invalid, "sources are nested more than %d deep", maxNested)
	}
	p.nested[path] = nil
	src, err := readSource(path, p.s.keys, Options{})
	if err != nil {
		return pkg, err
	}
	r, err := p.put(ctx, path, src.m, src.l, depth+1)
	if err == nil {
		err = p.s.store.Flush(ctx) // the one above reads its manifest
	}
	if err != nil {
		return pkg, err
	}
	p.nested[path] = r
	p.blobs += r.NewBlobs
	p.written += r.NewBytes
	return r.Package, nil
}
