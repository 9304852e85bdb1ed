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
	"time"
	"unicode/utf8"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// Common are the options that all operations share. The zero value is valid.
type Common struct {
	Keys    string // directory of the keys; default: the repository's path and ".keys"
	Expires Expiry
	Now     time.Time // default: the time
}

func (c Common) open(dir string) (keyFolder, time.Time, error) {
	now := c.Now
	if now.IsZero() {
		now = time.Now()
	}
	keys, err := keysOf(dir, c.Keys)
	return keys, now.UTC().Truncate(time.Second), err
}

// InitOptions are the options of Init.
type InitOptions struct {
	Common
	UseKeys bool // existing keys sign the new repository
}

// Init makes an empty repository and its keys. Administrators configure the root.json in it
// as their root of trust. Error Exists: there are metadata, channels or, without UseKeys,
// keys. The next Init finishes one that was killed.
func Init(ctx context.Context, dir string, o InitOptions) error {
	keys, now, err := o.open(dir)
	if err != nil {
		return err
	}
	if err := mayInit(dir, keys, o.UseKeys); err != nil {
		return err
	}
	for _, sub := range []string{"metadata", "channels", "blobs"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", dir, err)
		}
	}
	release, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer release()
	s := &state{dir: dir, keys: keys, expiry: o.Expires, now: now}
	if err := mayInit(dir, keys, o.UseKeys); err != nil { // with the lock held
		return err
	}
	err = durable.MkdirAll(string(keys), 0o700)
	if err == nil {
		err = durable.WriteFile(keys.unfinished(), nil, 0o600)
	}
	if err == nil {
		err = s.init()
	}
	if err == nil {
		err = durable.Remove(keys.unfinished())
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", dir, err)
	}
	return nil
}

// unfinished is a file that exists while Init runs.
func (k keyFolder) unfinished() string { return filepath.Join(string(k), ".init") }

// mayInit returns an error of kind Exists if Init would replace existing files.
func mayInit(dir string, keys keyFolder, useKeys bool) error {
	if _, err := os.Lstat(keys.unfinished()); err == nil {
		return nil // it was never published to
	}
	refuse := func(what, hint string) error {
		return errkind.New(errkind.Exists, "cannot make the repository %s: it is there already: %s", dir, what).WithHint("%s", hint)
	}
	for _, sub := range []string{"metadata", "channels"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", dir, err)
		}
		if len(entries) > 0 {
			return refuse(sub+" is not empty", "lull repo resign mends a repository whose timestamp is damaged or lost")
		}
	}
	for _, role := range Roles {
		if _, err := os.Lstat(keys.path(role)); err == nil && !useKeys {
			return refuse("there are keys in "+string(keys), "--use-keys signs the new repository with them")
		}
	}
	return nil
}

func (s *state) init() error {
	s.root = metadata.Root(s.expiry.until(metadata.ROOT, s.now))
	for _, role := range Roles {
		k, err := s.keys.read(s.keys.path(role))
		if errors.Is(err, fs.ErrNotExist) {
			k, err = s.keys.create(s.keys.path(role))
		}
		if err != nil {
			return err
		}
		if err := s.root.Signed.AddKey(k.public, role); err != nil {
			return err
		}
	}
	data, err := signed(s, metadata.ROOT, s.root)
	if err != nil {
		return err
	}
	if err := s.writeRoot(data, 1); err != nil {
		return err
	}
	// Each is published as its next version, 1.
	s.targets, s.snapshot, s.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	s.targets.Signed.Version, s.snapshot.Signed.Version, s.timestamp.Signed.Version = 0, 0, 0
	return s.writeAll()
}

// Options are the options of Publish.
type Options struct {
	Common
	Channel  string       // default: stable
	Urgency  repo.Urgency // default: medium
	Notes    string       // default: those of the lull.yaml
	AllowKey []string     // files, relative to the source, that may be published although they are private keys
	Overlay  string       // file whose keys replace those of the lull.yaml; "" means none
	Rollout  *int         // percent of the machines; default: 100
	Steps    []repo.Step  // rollout by time, from now on; replaces Rollout
	Workers  int          // default: 2, or 1 on a machine with one processor
	Progress func(done, total int)
}

// Result is the result of Publish.
type Result struct {
	Name     string
	Channel  string
	Package  digest.Digest
	Version  string
	Blobs    int   // of the package and its subpackages, manifests included
	NewBlobs int   // new in the repository
	Bytes    int64 // of all blobs, uncompressed
	NewBytes int64 // written, compressed

	Files       int        // regular files of the source
	FileBytes   int64      // their size
	Largest     []File     // at most five of them, the largest first
	Executables []string   // paths, sorted
	Omitted     []Omission // paths that were left out, sorted
	Private     []string   // directories of the repository that only their owner can read
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
	r.Omitted = omitted
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
	if o.Channel == "" {
		o.Channel = "stable"
	}
	if o.Urgency == "" {
		o.Urgency = repo.UrgencyMedium
	}
	if o.Workers <= 0 {
		o.Workers = min(2, runtime.NumCPU())
	}
	if err := repo.ValidChannel(o.Channel); err != nil {
		return nil, err
	}
	keys, now, err := o.open(dir)
	if err != nil {
		return nil, err
	}
	m, l, err := readSource(srcDir, keys, o)
	if err != nil {
		return nil, err
	}
	release, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer release()
	s, err := load(dir, keys, o.Expires, now, false)
	if err != nil {
		return nil, err
	}
	b, err := newBatch(dir)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	defer b.close()
	m.Entries = l.entries
	if err := b.addFiles(ctx, srcDir, m.Entries, o); err != nil {
		return nil, cannot(srcDir, err)
	}
	res, err := b.finish(m)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	res.Channel = o.Channel
	res.describe(l.entries, l.omitted)
	if err := ctx.Err(); err != nil {
		return nil, cannot(srcDir, err)
	}
	if err := s.point(m, res, o); err != nil {
		return nil, cannot(srcDir, err)
	}
	res.Private, err = privateDirs(dir, res.Name)
	return res, err
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

func readSource(srcDir string, keys keyFolder, o Options) (*manifest.Meta, *lister, error) {
	path := filepath.Join(srcDir, SourceFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errkind.New(errkind.Invalid, "cannot publish %s: it has no %s", srcDir, SourceFile)
	}
	if err != nil {
		return nil, nil, cannot(srcDir, err)
	}
	m, err := parseSource(path, content, o.Overlay)
	if err != nil {
		return nil, nil, errkind.New(errkind.Invalid, "%w", err)
	}
	l := &lister{src: srcDir, keys: keys}
	for _, path := range o.AllowKey {
		l.allow = append(l.allow, filepath.ToSlash(filepath.Clean(path)))
	}
	if err := l.walk(); err != nil {
		return nil, nil, cannot(srcDir, err)
	}
	if err := exports.Check(m.Name, &m.Launch, srcDir); err != nil {
		return nil, nil, errkind.New(errkind.Invalid, "cannot publish %s: %w", srcDir, err)
	}
	return m, l, nil
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
	work, done := make(chan *manifest.Entry), make(chan struct{}, 64)
	total := 0
	for i := range entries {
		if entries[i].IsFile() {
			total++
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
			c, err := newCompressor()
			if err != nil {
				return err
			}
			defer c.enc.Close()
			for e := range work {
				if err := b.add(ctx, filepath.Join(srcDir, filepath.FromSlash(e.Path)), e, c); err != nil {
					return err
				}
				select {
				case done <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for n := 1; n <= total; n++ {
			select {
			case <-done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if o.Progress != nil {
				o.Progress(n, total)
			}
		}
		return nil
	})
	return g.Wait()
}

// finish adds the manifest and moves all blobs into the repository.
func (b *batch) finish(m *manifest.Meta) (*Result, error) {
	data, err := m.Encode()
	if err != nil {
		return nil, err
	}
	c, err := newCompressor()
	if err != nil {
		return nil, err
	}
	defer c.enc.Close()
	pkg := digest.Of(data)
	if err := b.addBytes(pkg, data, c); err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	if err := b.addClosure(sizes, pkg, m, int64(len(data))); err != nil {
		return nil, err
	}
	if err := b.commit(); err != nil {
		return nil, err
	}
	res := &Result{
		Name: m.Name, Package: pkg, Version: m.Version,
		Blobs: len(sizes), NewBlobs: len(b.fresh), NewBytes: b.bytes.Load(),
	}
	for _, size := range sizes {
		res.Bytes += size
	}
	return res, nil
}

// point writes the pointer, and the metadata that signs it.
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
	next := repo.Offer{Pointer: *p}
	if len(o.Steps) > 0 {
		next.Start, next.Steps = s.now, o.Steps
	}
	list, err := s.offers(p.Name, p.Channel)
	if err != nil {
		return err
	}
	return s.setOffers(append(repo.Offers{next}, before(list, &next, s.now)...))
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
	for path := range s.targets.Signed.Targets {
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
