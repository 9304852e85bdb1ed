package publish

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// Options are the options of Publish.
type Options struct {
	Common
	Channel  string                  // default: stable
	Urgency  repo.Urgency            // default: medium
	Notes    string                  // default: those of the lull.yaml
	AllowKey []string                // files, relative to the source, that may be published although they are private keys
	Overlay  string                  // file whose keys replace those of the lull.yaml; "" means none
	Nested   bool                    // subpackages may be named by the path of their source, anywhere on this machine
	Rollout  *int                    // percent of the machines; default: 100
	Steps    []repo.Step             // rollout by time, from now on; replaces Rollout
	Workers  int                     // default: 2, or 1 on a machine with one processor
	Quick    bool                    // compress in less time, for a repository whose blobs are not sent over a network
	Progress func(done, total int64) // bytes of a source's files
	// Consume deletes the files of the sources, apart from those of subpackages, as soon as they
	// are read: files which were made for the publication alone need not reach the disk.
	Consume bool
	// DeltasFrom is the number of earlier versions of the channel from which MakeDeltas is
	// to make packs of differences. DeltasWithin adds those that it has offered within this
	// time before now. There are fewer than delta.MaxOffers in all.
	DeltasFrom   int
	DeltasWithin time.Duration
	// WholePack requests a pack of all blobs, too, for machines that have none of them.
	WholePack bool
}

// Result is the result of Publish.
type Result struct {
	Name     string
	Channel  string
	Package  digest.Digest
	Version  string
	Blobs    int           // of the package and its subpackages, manifests included
	NewBlobs int           // new in the repository
	Bytes    int64         // of all blobs, uncompressed
	NewBytes int64         // written, compressed
	Deltas   []delta.Offer // packs that were made before
	Pending  int           // packs that MakeDeltas is to make
	Proposed string        // the role whose list has it, which awaits Accept; "" if machines see it

	Entries     []manifest.Entry
	Files       int        // regular files of the source
	FileBytes   int64      // their size
	Largest     []File     // at most five of them, the largest first
	Executables []string   // paths, sorted
	Omitted     []Omission // paths that were left out, sorted
	Private     []string   // directories of the repository that only their owner can read

	Subpackages []Reference // sorted by name
	System      *System     // nil means that it is no update of the system
}

// File is a file of a package.
type File struct {
	Path string
	Size int64 // bytes
}

// largestFiles is how many files Result.Largest has at most.
const largestFiles = 5

// describe adds the files and omissions of the source to a result.
func (r *Result) describe(entries []manifest.Entry, omitted []Omission) {
	r.Entries, r.Omitted = entries, omitted
	for _, e := range entries {
		if !e.IsFile() {
			continue
		}
		r.Files++
		r.FileBytes += e.Size
		r.Largest = append(r.Largest, File{e.Path, e.Size})
		if e.Exec {
			r.Executables = append(r.Executables, e.Path)
		}
	}
	slices.Sort(r.Executables)
	slices.SortStableFunc(r.Largest, func(a, b File) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Path, b.Path))
	})
	r.Largest = slices.Clone(r.Largest[:min(largestFiles, len(r.Largest))])
}

// Publish puts the package source srcDir into the repository and points a channel to it.
// Error Invalid: the source has a file or setting that a package must not have; the text
// names it.
func Publish(ctx context.Context, dir, srcDir string, o Options) (*Result, error) {
	list, err := PublishAll(ctx, dir, []string{srcDir}, o)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// PublishAll publishes several package sources with one set of signatures: readers see all of
// them or none. Error Conflict: two of them have the same name.
func PublishAll(ctx context.Context, dir string, srcDirs []string, o Options) ([]*Result, error) {
	if o.Channel == "" {
		o.Channel = "stable"
	}
	if o.Urgency == "" {
		o.Urgency = repo.UrgencyMedium
	}
	if err := repo.ValidChannel(o.Channel); err != nil {
		return nil, err
	}
	store, keys, _, err := o.open(dir)
	if err != nil {
		return nil, err
	}
	o.Consume = o.Consume && !store.Shared() // there it may be repeated
	if o.Workers <= 0 {
		o.Workers = min(2, runtime.NumCPU())
		if store.Shared() {
			o.Workers = remoteWorkers
		}
	}
	if len(srcDirs) > 1 {
		if srcDirs, err = Order(srcDirs); err != nil {
			return nil, err
		}
	}
	p := &publication{o: o, sources: make([]packageSource, len(srcDirs))}
	for i, srcDir := range srcDirs {
		if p.sources[i], err = readSource(srcDir, keys, o); err != nil {
			return nil, err
		}
		for _, other := range p.sources[:i] {
			if strings.EqualFold(other.m.Name, p.sources[i].m.Name) {
				return nil, errkind.New(errkind.Conflict, "cannot publish %s: %s has the same name, %s", srcDir, other.dir, other.m.Name)
			}
		}
	}
	defer p.close()
	if err := o.transact(ctx, dir, false, p.publish); err != nil {
		return nil, cannot(srcDirs[0], err)
	}
	var results []*Result
	for _, src := range p.sources {
		if d, ok := store.(*directory); ok {
			if src.result.Private, err = privateDirs(d.dir, src.m.Name); err != nil {
				return nil, err
			}
		}
		results = append(results, src.result)
	}
	return results, nil
}

// remoteWorkers is the default of Options.Workers if each blob takes a request.
const remoteWorkers = 8

// packageSource is a source that was read.
type packageSource struct {
	dir    string
	m      *description
	l      *lister
	result *Result
}

func (p *publication) close() {
	if p.batch != nil {
		p.batch.close()
		p.batch = nil
	}
}

// publish puts the sources into the repository and signs the pointers. After another
// publisher was faster it runs again: the references of the sources may have changed.
func (p *publication) publish(s *state) (err error) {
	defer func() {
		if !errors.Is(err, errLost) {
			p.close() // with the lock held
		}
	}()
	p.s, p.nested = s, map[string]*Result{}
	if p.batch == nil {
		if p.batch, err = newBatch(s.store); err != nil {
			return err
		}
		if s.store.Shared() {
			if err := p.keepOffered(s); err != nil {
				return err
			}
		}
	}
	for i := range p.sources {
		src := &p.sources[i]
		p.nested[resolved(src.dir)] = nil
		p.blobs, p.written = 0, 0
		if src.result != nil { // of the attempt before
			p.blobs, p.written = src.result.NewBlobs, src.result.NewBytes
		}
		if src.result, err = p.put(s.ctx, src.dir, src.m, src.l, 0); err != nil {
			return err
		}
		src.result.Channel = p.o.Channel
		src.result.NewBlobs += p.blobs
		src.result.NewBytes += p.written
		if src.result.Deltas, src.result.Pending, err = p.request(s, src.result); err != nil {
			return cannot(src.dir, err)
		}
		if err := s.point(src.m.Meta, src.result, p.o); err != nil {
			return cannot(src.dir, err)
		}
		src.result.Proposed = s.proposing(repo.PointerPath(src.m.Name, p.o.Channel))
		p.nested[resolved(src.dir)] = src.result
		if i < len(p.sources)-1 { // the next one may refer to it
			if err := s.store.Flush(s.ctx); err != nil {
				return cannot(src.dir, err)
			}
		}
	}
	return s.writeAll()
}

// keepOffered marks the blobs of the offered versions as present. No prune deletes them, and
// a request for each of them would take long.
func (p *publication) keepOffered(s *state) error {
	offered := map[digest.Digest]bool{}
	for _, src := range p.sources {
		list, err := s.offers(src.m.Name, p.o.Channel)
		if err != nil {
			return cannot(src.dir, err)
		}
		for _, o := range list {
			if err := closure(s.ctx, s.store, o.Package, offered, true); err != nil {
				return cannot(src.dir, err)
			}
		}
	}
	for d := range offered {
		p.batch.seen.Store(d, struct{}{})
	}
	return nil
}

// put stages the blobs of a source, and before it those of the sources that it contains.
func (p *publication) put(ctx context.Context, srcDir string, d *description, l *lister, depth int) (*Result, error) {
	subpackages, err := p.resolve(ctx, srcDir, d, depth)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	b := p.batch
	b.replaced = nil
	sys, err := p.resolveSystem(ctx, srcDir, d, l, b)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	d.Entries = l.entries
	o := p.o
	o.Consume = o.Consume && depth == 0 // a source that it names by its path is another's
	if err := b.addFiles(ctx, srcDir, d.Entries, o); err != nil {
		return nil, cannot(srcDir, err)
	}
	res, err := b.finish(ctx, d.Meta)
	if err == nil {
		err = b.commit(ctx)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	res.Subpackages, res.System = subpackages, sys
	res.describe(l.entries, l.omitted)
	return res, nil
}

// privateDirs lists the directories of a repository, and those above it, that neither a group
// nor others can enter. It does not change their modes, which are the administrator's choice.
func privateDirs(dir, name string) (private []string, err error) {
	dir = resolved(dir)
	list := []string{filepath.Join(dir, "channels", name)}
	for _, sub := range []string{"channels", "blobs", "metadata"} {
		list = append(list, filepath.Join(dir, sub))
	}
	for up := dir; ; up = filepath.Dir(up) {
		list = append(list, up)
		if up == filepath.Dir(up) {
			break
		}
	}
	for _, d := range list {
		fi, err := os.Stat(d)
		if err != nil {
			return nil, err
		}
		if fi.Mode().Perm()&0o011 == 0 {
			private = append(private, d)
		}
	}
	slices.Reverse(private) // from the top
	return private, nil
}

func readSource(srcDir string, keys keyFolder, o Options) (src packageSource, err error) {
	path := filepath.Join(srcDir, SourceFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return src, errkind.New(errkind.Invalid, "cannot publish %s: it has no %s", srcDir, SourceFile)
	}
	if err != nil {
		return src, cannot(srcDir, err)
	}
	m, err := parseSource(path, content, o.Overlay)
	if err != nil {
		return src, errkind.New(errkind.Invalid, "%w", err)
	}
	l := &lister{src: srcDir, keys: keys}
	for _, r := range m.references {
		if r.path != "" && filepath.IsLocal(r.path) {
			l.nested = append(l.nested, filepath.ToSlash(r.path))
		}
	}
	for _, path := range o.AllowKey {
		l.allow = append(l.allow, filepath.ToSlash(filepath.Clean(path)))
	}
	if err := l.walk(); err != nil {
		return src, cannot(srcDir, err)
	}
	if err := exports.Check(m.Name, &m.Launch, srcDir); err != nil {
		return src, errkind.New(errkind.Invalid, "cannot publish %s: %w", srcDir, err)
	}
	return packageSource{dir: srcDir, m: m, l: l}, nil
}

// cannot makes an error public. It does so once only.
func cannot(srcDir string, err error) error {
	if errors.As(err, new(*errkind.Error)) {
		return err
	}
	kind := errkind.KindOf(err)
	if errors.Is(err, context.Canceled) {
		kind = errkind.Interrupted
	}
	return errkind.New(kind, "cannot publish %s: %w", srcDir, err)
}

// addFiles hashes and compresses the files in parallel.
func (b *batch) addFiles(ctx context.Context, srcDir string, entries []manifest.Entry, o Options) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan *manifest.Entry)
	m := meter{report: o.Progress}
	for i := range entries {
		if entries[i].IsFile() {
			m.total += entries[i].Size
		}
	}
	g.Go(func() error {
		defer close(work)
		for i := range entries {
			if !entries[i].IsFile() {
				continue
			}
			select {
			case work <- &entries[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range o.Workers {
		g.Go(func() error {
			c, err := newCompressor(o.Quick)
			if err != nil {
				return err
			}
			defer c.enc.Close()
			counted := int64(0) // of the current file
			c.wrote = func(n int) { counted += int64(n); m.add(int64(n)) }
			for e := range work {
				counted = 0
				path := b.replaced[e.Path]
				if path == "" {
					path = filepath.Join(srcDir, filepath.FromSlash(e.Path))
				}
				if err := b.add(ctx, path, e, c); err != nil {
					return err
				}
				if o.Consume {
					if err := os.Remove(path); err != nil {
						return err
					}
				}
				m.add(e.Size - counted)
			}
			return nil
		})
	}
	return g.Wait()
}

// meter counts bytes for the display of progress. Any goroutine may call add; the reports have
// an order.
type meter struct {
	report func(done, total int64) // nil means that it is not of interest
	total  int64

	mu   sync.Mutex
	done int64
}

func (m *meter) add(n int64) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	m.report(min(m.done, m.total), m.total)
}

// finish adds the manifest of a source.
func (b *batch) finish(ctx context.Context, m *manifest.Meta) (*Result, error) {
	data, err := m.Encode()
	if err != nil {
		return nil, err
	}
	c, err := newCompressor(false)
	if err != nil {
		return nil, err
	}
	defer c.enc.Close()
	pkg := digest.Of(data)
	if err := b.addBytes(ctx, pkg, data, c); err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	if err := b.addClosure(ctx, sizes, pkg, m, int64(len(data))); err != nil {
		return nil, err
	}
	res := &Result{
		Name: m.Name, Package: pkg, Version: m.Version,
		Blobs: len(sizes), NewBlobs: len(b.fresh) - b.reported, NewBytes: b.bytes.Swap(0),
	}
	b.reported = len(b.fresh)
	for _, size := range sizes {
		res.Bytes += size
	}
	return res, nil
}

// point stages the pointer of a package.
func (s *state) point(m *manifest.Meta, res *Result, o Options) error {
	twin, err := s.caseTwin(m.Name)
	if err != nil {
		return err
	}
	if twin != "" {
		return errkind.New(errkind.Conflict, "cannot publish %s: the repository has %s, whose name differs only by case", m.Name, twin)
	}
	p := &repo.Pointer{
		Name: m.Name, Channel: o.Channel, Package: res.Package, Version: m.Version, Urgency: o.Urgency,
		Published: s.now, Size: res.Bytes, Notes: o.Notes, Rollout: repo.Rollout{Percent: 100},
	}
	if p.Notes == "" {
		p.Notes = m.Notes
	}
	p.Notes = shorten(p.Notes, repo.MaxNotes)
	if o.Rollout != nil {
		p.Rollout.Percent = *o.Rollout
	}
	next := repo.Offer{Pointer: *p, NeedsLull: m.NeedsLull, Summary: shorten(m.Summary, repo.MaxSummary), Deltas: res.Deltas}
	if len(o.Steps) > 0 {
		next.Start, next.Steps = s.now, o.Steps
	}
	list, err := s.offers(p.Name, p.Channel)
	if err != nil {
		return err
	}
	return s.writeOffers(append(repo.Offers{next}, before(list, &next, s.now)...))
}

// caseTwin returns a package of the repository whose name differs from name by case only, or
// "". No machine could install both.
func (s *state) caseTwin(name string) (string, error) {
	if s.binned() {
		twin, err := s.notedTwin(name)
		if err == nil && twin == "" {
			err = s.noteName(name)
		}
		return twin, err
	}
	paths, err := s.targetPaths()
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		if other, _, ok := repo.SplitPointerPath(path); ok && other != name && strings.EqualFold(other, name) {
			return other, nil
		}
	}
	return "", nil
}

// shorten cuts s to at most limit bytes, between characters.
func shorten(s string, limit int) string {
	const dots = "…"
	if len(s) <= limit {
		return s
	}
	end := limit - len(dots)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + dots
}
