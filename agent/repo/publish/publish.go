package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unicode/utf8"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/repo"
)

// Common are the options that all operations share. The zero value is good.
type Common struct {
	Keys    string // folder of the keys; default: the repository's path and ".keys"
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
type InitOptions struct{ Common }

// Init makes an empty repository, and keys unless they are there already. The
// root.json in it is what administrators configure as their root of trust. Error
// Exists: there is a repository.
func Init(ctx context.Context, dir string, o InitOptions) error {
	keys, now, err := o.open(dir)
	if err != nil {
		return err
	}
	for _, sub := range []string{"metadata", "channels", "blobs"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return problem.New(problem.KindOf(err), "cannot make the repository %s: %w", dir, err)
		}
	}
	release, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer release()
	s := &state{dir: dir, keys: keys, expiry: o.Expires, now: now}
	if _, err := os.Lstat(s.path("timestamp.json")); err == nil {
		return problem.New(problem.Exists, "cannot make the repository %s: it is there already", dir)
	}
	if err := s.init(); err != nil {
		return problem.New(problem.KindOf(err), "cannot make the repository %s: %w", dir, err)
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
	Rollout  *int         // percent of the machines; default: 100
	Workers  int          // default: 2, or 1 on a machine with one processor
	Progress func(done, total int)
}

// Result is what Publish has done.
type Result struct {
	Name     string
	Channel  string
	Package  digest.Digest
	Version  string
	Blobs    int   // of the package and its subpackages, metas included
	NewBlobs int   // that were not in the repository before
	Bytes    int64 // of all blobs, uncompressed
	NewBytes int64 // written, compressed
}

// Publish puts the package source srcDir into the repository and lets a channel
// point to it. Error Invalid: the source has something that no package may have;
// the text names it.
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
	m, entries, err := readSource(srcDir)
	if err != nil {
		return nil, err
	}
	release, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer release()
	s, err := load(dir, keys, o.Expires, now)
	if err != nil {
		return nil, err
	}
	b, err := newBatch(dir)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	defer b.close()
	m.Entries = entries
	if err := b.addFiles(ctx, srcDir, m.Entries, o); err != nil {
		return nil, cannot(srcDir, err)
	}
	res, err := b.finish(m)
	if err != nil {
		return nil, cannot(srcDir, err)
	}
	res.Channel = o.Channel
	if err := ctx.Err(); err != nil {
		return nil, cannot(srcDir, err)
	}
	if err := s.point(m, res, o); err != nil {
		return nil, cannot(srcDir, err)
	}
	return res, nil
}

func readSource(srcDir string) (*meta.Meta, []meta.Entry, error) {
	path := filepath.Join(srcDir, SourceFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, problem.New(problem.Invalid, "cannot publish %s: it has no %s", srcDir, SourceFile)
	}
	if err != nil {
		return nil, nil, cannot(srcDir, err)
	}
	m, err := parseSource(path, content)
	if err != nil {
		return nil, nil, problem.New(problem.Invalid, "%w", err)
	}
	entries, err := walk(srcDir)
	if err != nil {
		return nil, nil, cannot(srcDir, err)
	}
	return m, entries, nil
}

// cannot makes an error public once.
func cannot(srcDir string, err error) error {
	if errors.As(err, new(*problem.Error)) {
		return err
	}
	kind := problem.KindOf(err)
	if errors.Is(err, context.Canceled) {
		kind = problem.Interrupted
	}
	return problem.New(kind, "cannot publish %s: %w", srcDir, err)
}

// addFiles hashes and compresses the files beside each other.
func (b *batch) addFiles(ctx context.Context, srcDir string, entries []meta.Entry, o Options) error {
	g, ctx := errgroup.WithContext(ctx)
	work, done := make(chan *meta.Entry), make(chan struct{}, 64)
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

// finish adds the meta and moves all blobs into the repository.
func (b *batch) finish(m *meta.Meta) (*Result, error) {
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
func (s *state) point(m *meta.Meta, res *Result, o Options) error {
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
	data, err := p.Encode()
	if err != nil {
		return err
	}
	sum := digest.Of(data)
	folder := filepath.Join(s.dir, "channels", p.Name)
	if err := durable.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(folder, sum.String()+"."+p.Channel+".json"), data, 0o644); err != nil {
		return err
	}
	target := metadata.TargetFile()
	target.Length = int64(len(data))
	target.Hashes["sha256"] = metadata.HexBytes(sum[:])
	s.targets.Signed.Targets[repo.PointerPath(p.Name, p.Channel)] = target
	return s.writeAll()
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
