package publish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/sysmanifest"
	"github.com/lull/lull/agent/repo"
)

// batch is a set of new blobs of a repository: compressed files in a directory of their own,
// which commit stages together.
type batch struct {
	store    Storage
	tmp      string
	replaced map[string]string // path in the source → file that is published in its place
	seen     sync.Map          // digest.Digest → struct{}: present or in progress
	bytes    atomic.Int64      // compressed, new

	reported, staged int // blobs in fresh that a Result counts, and that were staged

	mu    sync.Mutex
	fresh []digest.Digest
}

func newBatch(store Storage) (*batch, error) {
	tmp, err := store.Scratch()
	return &batch{store: store, tmp: tmp}, err
}

func (b *batch) close() { os.RemoveAll(b.tmp) }

// wanted reports whether the blob must be written. It returns true to one caller only.
func (b *batch) wanted(ctx context.Context, d digest.Digest) (bool, error) {
	if _, again := b.seen.LoadOrStore(d, struct{}{}); again {
		return false, nil
	}
	kept, err := b.store.Keep(ctx, repo.BlobPath(d))
	return !kept, err
}

// compressor belongs to one worker.
type compressor struct {
	enc     *zstd.Encoder
	content []byte
	packed  []byte
	wrote   func(n int) // called with the bytes of each frame of a large file; may be nil
}

// newCompressor returns a compressor; quick means that time is worth more than space.
func newCompressor(quick bool) (*compressor, error) {
	level := zstd.SpeedDefault
	if quick {
		level = zstd.SpeedFastest
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true), zstd.WithEncoderCRC(true))
	return &compressor{enc: enc}, err
}

// buffer returns n bytes of content.
func (c *compressor) buffer(n int64) []byte {
	if int64(len(c.content)) < n {
		c.content = make([]byte, max(n, min(2*int64(len(c.content)), repo.FrameSize)))
	}
	return c.content[:n]
}

// add adds the file at path to the batch and completes its entry.
func (b *batch) add(ctx context.Context, path string, e *manifest.Entry, c *compressor) error {
	f, size, err := openFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	e.Size = size
	if size <= repo.FrameSize {
		// One more byte than expected reveals a file that grows.
		n, err := io.ReadFull(f, c.buffer(min(size+1, repo.FrameSize)))
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if int64(n) != size {
			return changed(path)
		}
		e.Blob = digest.Of(c.content[:n])
		return b.addBytes(ctx, e.Blob, c.content[:n], c)
	}
	var n int64
	if e.Blob, n, err = digest.Read(contextReader{ctx, f}); err != nil {
		return err
	}
	if n != size {
		return changed(path)
	}
	if wanted, err := b.wanted(ctx, e.Blob); err != nil || !wanted {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	again, err := b.write(e.Blob, contextReader{ctx, f}, c)
	if err == nil && again != e.Blob {
		err = changed(path)
	}
	return err
}

// addBytes adds content to the batch.
func (b *batch) addBytes(ctx context.Context, d digest.Digest, content []byte, c *compressor) error {
	wanted, err := b.wanted(ctx, d)
	if err != nil || !wanted {
		return err
	}
	if len(content) > repo.FrameSize { // a large manifest
		_, err := b.write(d, bytes.NewReader(content), c)
		return err
	}
	c.packed = c.enc.EncodeAll(content, c.packed[:0])
	path := filepath.Join(b.tmp, d.String())
	if err := errors.Join(os.WriteFile(path, c.packed, served), os.Chmod(path, served)); err != nil {
		return err
	}
	b.done(d, len(c.packed))
	return nil
}

// write compresses r frame by frame and returns the digest of its content.
func (b *batch) write(d digest.Digest, r io.Reader, c *compressor) (sum digest.Digest, err error) {
	f, err := os.OpenFile(filepath.Join(b.tmp, d.String()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, served)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if err := f.Chmod(served); err != nil {
		return sum, err
	}
	h, table, total := digest.New(), repo.SeekTable{}, 0
	content := c.buffer(repo.FrameSize)
	for {
		n, err := io.ReadFull(r, content)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return sum, err
		}
		if n == 0 {
			break
		}
		h.Write(content[:n])
		c.packed = c.enc.EncodeAll(content[:n], c.packed[:0])
		table.Add(len(c.packed), n)
		total += len(c.packed)
		if _, err := f.Write(c.packed); err != nil {
			return sum, err
		}
		if c.wrote != nil {
			c.wrote(n)
		}
	}
	seek := table.Encode()
	if _, err := f.Write(seek); err != nil {
		return sum, err
	}
	b.done(d, total+len(seek))
	return digest.From(h), f.Close()
}

func (b *batch) done(d digest.Digest, packed int) {
	b.bytes.Add(int64(packed))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fresh = append(b.fresh, d)
}

// commit stages the batch. A name in blobs/ means a whole blob on stable storage, so the
// storage flushes the content first.
func (b *batch) commit(ctx context.Context) error {
	for ; b.staged < len(b.fresh); b.staged++ {
		d := b.fresh[b.staged]
		if err := b.store.Put(ctx, Object{Path: repo.BlobPath(d), From: filepath.Join(b.tmp, d.String())}); err != nil {
			return err
		}
	}
	return nil
}

// readMeta reads a manifest that is in the repository.
func readMeta(ctx context.Context, store Storage, pkg digest.Digest) (*manifest.Meta, int64, error) {
	fail := func(err error) (*manifest.Meta, int64, error) {
		return nil, 0, errkind.New(errkind.Invalid, "cannot use package %s, which is not (whole) in the repository: %w", pkg, err)
	}
	data, err := readBlob(ctx, store, pkg, manifest.MaxSize)
	if err != nil {
		return fail(err)
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return fail(err)
	}
	return m, int64(len(data)), nil
}

// readBlob returns the content of a blob, of at most limit bytes.
func readBlob(ctx context.Context, store Storage, d digest.Digest, limit int64) ([]byte, error) {
	f, err := store.Open(ctx, repo.BlobPath(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dec, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	data, err := io.ReadAll(io.LimitReader(dec, limit+1))
	if err == nil && digest.Of(data) != d {
		err = errkind.Errorf("its content is not what its name says")
	}
	return data, err
}

// systemFile returns the system.json of a package; nil means that it is no update of the system.
func systemFile(m *manifest.Meta) *manifest.Entry {
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Path == sysmanifest.Name && e.IsFile() {
			return e
		}
	}
	return nil
}

// required returns the packages that a package needs in the repository: its subpackages, and
// for an update of the system the packages of that system. Error Invalid: its system.json
// cannot be used.
func required(ctx context.Context, store Storage, m *manifest.Meta) ([]digest.Digest, error) {
	var list []digest.Digest
	for _, sub := range m.Subpackages {
		list = append(list, sub)
	}
	file := systemFile(m)
	if file == nil {
		return list, nil
	}
	var sys sysmanifest.Manifest
	text, err := readBlob(ctx, store, file.Blob, sysmanifest.MaxSize)
	if err == nil {
		sys, err = sysmanifest.Parse(text)
	}
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use %s of %s %s: %w", sysmanifest.Name, m.Name, m.Version, err)
	}
	return slices.Concat(list, sys.Images, sys.Base, sys.Cache), nil
}

// addClosure adds to sizes the manifest m, of size bytes and digest pkg, its content and that
// of its subpackages, all of which must be in the repository.
func (b *batch) addClosure(ctx context.Context, sizes map[digest.Digest]int64, pkg digest.Digest, m *manifest.Meta, size int64) error {
	sizes[pkg] = size
	for _, blob := range m.Blobs() {
		sizes[blob.Digest] = blob.Size
		if wanted, err := b.wanted(ctx, blob.Digest); err != nil {
			return err
		} else if !wanted {
			continue
		}
		// It is missing, or so old that a publisher would write it again.
		if _, err := b.store.Stat(ctx, repo.BlobPath(blob.Digest)); err != nil {
			return errkind.New(errkind.Invalid, "cannot use package %s: its blob %s is not in the repository", pkg, blob.Digest)
		}
	}
	for _, sub := range m.Subpackages {
		if _, known := sizes[sub]; known {
			continue
		}
		sm, size, err := readMeta(ctx, b.store, sub)
		if err != nil {
			return err
		}
		if err := b.addClosure(ctx, sizes, sub, sm, size); err != nil {
			return err
		}
	}
	return nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
