package store

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
)

// workers is how many goroutines share work that waits for the disk or hashes.
// More than two bring nothing where names of one file system are changed.
const workers = 2

// bufferSize is that of copies and hashing.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Ingest collects the blobs of one package, its subpackages' among them, in
// tmp/. It is safe for concurrent use; Commit and Abort do not wait, so
// they come after the last Writer is closed.
type Ingest struct {
	s   *Store
	pkg digest.Digest
	dir string

	mu      sync.Mutex
	done    map[Key]int64 // whole and verified, not yet resident
	partial map[Key]begun // begun by a process that has died, or cut off
	ended   bool
}

// begun is the beginning of a blob.
type begun struct {
	n int64     // bytes
	h hash.Hash // of these; nil if they have to be read again
}

// Ingest begins or resumes the ingest of a package. The remains of a dead
// process are hashed again, once, as a power cut may have damaged them: whole blobs
// are kept, the others can be continued. A second ingest of the same package
// at the same time is an error of kind Busy.
func (s *Store) Ingest(pkg digest.Digest) (*Ingest, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.ingests[pkg] {
		s.mu.Unlock()
		return nil, errkind.New(errkind.Busy, "cannot store package %s: it is being stored already", pkg.Short())
	}
	s.ingests[pkg] = true
	s.mu.Unlock()
	i := &Ingest{s: s, pkg: pkg, dir: s.path(tmpDir, pkg.String()), done: map[Key]int64{}, partial: map[Key]begun{}}
	if err := i.resume(); err != nil {
		i.end()
		return nil, errkind.New(errkind.KindOf(err), "cannot store package %s: %w", pkg.Short(), err)
	}
	return i, nil
}

// Prepare moves files into the ingest of a package, by the blobs that they are to become. They
// belong to the caller alone, on the file system of the store. The next Ingest verifies them
// like the remains of a dead process, so that they need no source.
func (s *Store) Prepare(pkg digest.Digest, files map[Key]string) (err error) {
	if s.HasPackage(pkg) {
		return nil
	}
	i, err := s.Ingest(pkg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	for k, file := range files {
		if s.Has(k) || i.Has(k) {
			continue
		}
		if err := os.Rename(file, i.Path(k)); err != nil {
			return err
		}
	}
	return nil
}

func (i *Ingest) end() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if !i.ended {
		i.ended = true
		delete(i.s.ingests, i.pkg)
	}
}

// resume reads the content of the directory.
func (i *Ingest) resume() error {
	err := os.Mkdir(i.dir, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(workers)
	for _, e := range entries {
		path := i.dir + "/" + e.Name()
		k, ok := parseName([]byte(e.Name()))
		if !ok || !e.Type().IsRegular() {
			if err := removeTree(path); err != nil {
				return err
			}
			continue
		}
		g.Go(func() error { return i.resumeBlob(k, path) })
	}
	return g.Wait()
}

func (i *Ingest) resumeBlob(k Key, path string) error {
	h, n, err := hashFile(path)
	if err != nil {
		return err
	}
	d := digest.From(h)
	if d == k.Digest {
		if err := os.Chmod(path, k.mode()); err != nil {
			return err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if d == k.Digest {
		i.done[k] = n
	} else {
		i.partial[k] = begun{n, h}
	}
	return nil
}

func hashFile(path string) (hash.Hash, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	h := digest.New()
	n, err := copyBuffered(h, f)
	return h, n, err
}

func copyBuffered(w io.Writer, r io.Reader) (int64, error) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	// Hide ReadFrom and WriteTo: they would allocate buffers of their own.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, *b)
}

// Has reports whether the blob has been written completely, though it is not yet
// resident.
func (i *Ingest) Has(k Key) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.done[k]
	return ok
}

// Partial is the number of bytes of a blob that are there already; Create
// continues behind them.
func (i *Ingest) Partial(k Key) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.partial[k].n
}

// Path is the path of a blob that Has reports.
func (i *Ingest) Path(k Key) string { return i.dir + "/" + k.String() }

// Meta reads the meta of this package or a subpackage, resident or written as
// a whole but not yet resident.
func (i *Ingest) Meta(pkg digest.Digest) (*manifest.Meta, error) {
	if k := MetaKey(pkg); i.Has(k) {
		return readMeta(pkg, i.Path(k))
	}
	return i.s.Meta(pkg)
}

// Forget drops the partial content of a blob, so that it begins from the start.
func (i *Ingest) Forget(k Key) error {
	i.mu.Lock()
	delete(i.partial, k)
	delete(i.done, k)
	i.mu.Unlock()
	if err := os.Remove(i.dir + "/" + k.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Scratch returns a new file without a name, for content that is used while it is open.
func (i *Ingest) Scratch() (*os.File, error) {
	f, err := os.CreateTemp(i.dir, "scratch-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// ForgetOthers drops all blobs but those that need selects.
func (i *Ingest) ForgetOthers(need func(Key) bool) error {
	var others []Key
	i.mu.Lock()
	others = slices.AppendSeq(slices.Collect(maps.Keys(i.done)), maps.Keys(i.partial))
	i.mu.Unlock()
	others = slices.DeleteFunc(others, need)
	for _, k := range others {
		if err := i.Forget(k); err != nil {
			return err
		}
	}
	return nil
}

// Writer takes the bytes of one blob, behind Offset. It belongs to one
// goroutine.
type Writer struct {
	i      *Ingest
	k      Key
	f      *os.File
	h      hash.Hash
	size   int64 // -1 if unknown
	offset int64
	n      int64
	err    error // of Write
}

// Create begins to write a blob, or continues one that was begun. With a size
// of -1, for manifests, only the hash shows whether it is complete.
func (i *Ingest) Create(k Key, size int64) (*Writer, error) {
	w := &Writer{i: i, k: k, h: digest.New(), size: size}
	err := w.open()
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot store blob %s: %w", k.Digest.Short(), err)
	}
	return w, nil
}

func (w *Writer) open() error {
	begun := w.i.take(w.k)
	flags := os.O_RDWR | os.O_CREATE
	if begun.n == 0 {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(w.i.dir+"/"+w.k.String(), flags, 0o600)
	if err != nil {
		return err
	}
	w.f = f
	if begun.n > 0 {
		switch {
		case w.size >= 0 && begun.n > w.size:
			err = f.Truncate(0)
		case begun.h != nil:
			w.h = begun.h
			w.offset, err = f.Seek(begun.n, io.SeekStart)
		default:
			w.offset, err = copyBuffered(w.h, f)
		}
		if err != nil {
			f.Close()
			return err
		}
	}
	w.n = w.offset
	return nil
}

// take returns the beginning of a blob. Its hash is the caller's then.
func (i *Ingest) take(k Key) begun {
	i.mu.Lock()
	defer i.mu.Unlock()
	b := i.partial[k]
	if b.n > 0 {
		i.partial[k] = begun{n: b.n}
	}
	return b
}

// Offset is the number of bytes that were there already.
func (w *Writer) Offset() int64 { return w.offset }

// Size is the number of bytes that are there now.
func (w *Writer) Size() int64 { return w.n }

// Complete reports whether all bytes of the blob are written.
func (w *Writer) Complete() bool { return w.size >= 0 && w.n == w.size }

// Write appends b. More bytes than the blob has are refused as Untrusted.
func (w *Writer) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	limit := w.size
	if limit < 0 {
		limit = manifest.MaxSize // only metas come without a size
	}
	if w.n+int64(len(b)) > limit {
		w.err = errkind.New(errkind.Untrusted, "cannot store blob %s: it is longer than the %d bytes that it may have", w.k.Digest.Short(), limit)
		return 0, w.err
	}
	n, err := w.f.Write(b)
	w.h.Write(b[:n])
	w.n += int64(n)
	if err == nil {
		err = faultpoint.Hit("store.write")
	}
	if err != nil {
		w.err = errkind.New(errkind.KindOf(err), "cannot store blob %s: %w", w.k.Digest.Short(), err)
		return n, w.err
	}
	return n, nil
}

// Suspend stops writing; what is there can be continued by a later Create.
func (w *Writer) Suspend() error {
	w.i.mu.Lock()
	w.i.partial[w.k] = begun{w.n, w.h}
	w.i.mu.Unlock()
	return w.f.Close()
}

// Close ends writing. A blob that is whole waits for Commit. One that is too
// short can be continued; its error is of kind Unavailable. One with wrong
// content is thrown away; its error is of kind Untrusted.
func (w *Writer) Close() error {
	if w.err != nil && !errkind.Is(w.err, errkind.Untrusted) {
		return errors.Join(w.err, w.Suspend())
	}
	if w.err == nil && w.size >= 0 && w.n < w.size {
		short := errkind.New(errkind.Unavailable, "cannot store blob %s: it ended after %d of %d bytes", w.k.Digest.Short(), w.n, w.size)
		return errors.Join(short, w.Suspend())
	}
	if w.err == nil && digest.From(w.h) != w.k.Digest {
		w.err = errkind.New(errkind.Untrusted, "cannot store blob %s: %w", w.k.Digest.Short(), ErrCorrupt)
	}
	if w.err != nil {
		return errors.Join(w.err, w.f.Close(), w.i.Forget(w.k))
	}
	err := errors.Join(w.f.Chmod(w.k.mode()), w.f.Close())
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot store blob %s: %w", w.k.Digest.Short(), err)
	}
	w.i.mu.Lock()
	defer w.i.mu.Unlock()
	delete(w.i.partial, w.k)
	w.i.done[w.k] = w.n
	return nil
}

// Commit makes everything resident that has been written as a whole: one flush
// for all, then names. The ingest can go on; with nothing left, its
// directory is removed.
func (i *Ingest) Commit() error {
	if err := i.commit(); err != nil {
		return errkind.New(errkind.KindOf(err), "cannot store package %s: %w", i.pkg.Short(), err)
	}
	return nil
}

func (i *Ingest) commit() error {
	i.mu.Lock()
	keys := make([]Key, 0, len(i.done))
	for k := range i.done {
		keys = append(keys, k)
	}
	i.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	if err := faultpoint.Hit("store.commit.flush"); err != nil {
		return err
	}
	if err := i.flush(keys); err != nil {
		return err
	}
	if err := faultpoint.Hit("store.commit.names"); err != nil {
		return err
	}
	from, err := os.Open(i.dir)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Open(i.s.path(blobsDir))
	if err != nil {
		return err
	}
	defer to.Close()
	var g errgroup.Group
	half := (len(keys) + workers - 1) / workers
	for start := 0; start < len(keys); start += half {
		lot := keys[start:min(start+half, len(keys))]
		g.Go(func() error {
			for _, k := range lot {
				if err := i.publish(from, to, k); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// fewFiles are flushed one by one: a flush of the file system waits for the
// writes of all processes.
const fewFiles = 4

func (i *Ingest) flush(keys []Key) error {
	if len(keys) > fewFiles {
		return durable.SyncFS(i.dir)
	}
	for _, k := range keys {
		if err := durable.SyncFile(i.Path(k)); err != nil {
			return err
		}
	}
	return nil
}

func (i *Ingest) publish(from, to *os.File, k Key) error {
	name := k.String()
	err := durable.MoveNewAt(int(from.Fd()), name, int(to.Fd()), k.rel())
	if errors.Is(err, fs.ErrExist) {
		// Resident by another way. The inode that trees are linked to stays.
		err = unix.Unlinkat(int(from.Fd()), name, 0)
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", name, err)
	}
	i.mu.Lock()
	delete(i.done, k)
	i.mu.Unlock()
	return nil
}

// Close ends the ingest. Uncommitted content stays in tmp/, to be resumed by
// the next ingest of the package, until the collector removes it.
func (i *Ingest) Close() error {
	err := os.Remove(i.dir)
	i.end()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// Abort ends the ingest and throws away what is not committed.
func (i *Ingest) Abort() error {
	err := removeTree(i.dir)
	i.end()
	return err
}

// Copy copies with a buffer that is shared between calls.
func Copy(w io.Writer, r io.Reader) (int64, error) { return copyBuffered(w, r) }
