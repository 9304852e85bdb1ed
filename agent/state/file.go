package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// DB is the open file.
type DB struct {
	path string

	mu       sync.RWMutex // guards what follows; held for writing only to re-open the file
	db       *bbolt.DB
	readOnly bool
	broken   error // why nothing more can be written
}

// CorruptError reports that the file is damaged.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("cannot use %s: it is damaged: %v", e.Path, e.Err)
}

// Unwrap returns what is wrong.
func (e *CorruptError) Unwrap() error { return e.Err }

var buckets = [][]byte{bucketInstances, bucketRefreshes, bucketGroups, bucketHolds, bucketSets, bucketSystem, bucketEnded}

// Open opens the file, or makes it where there is none, and reads all of it. The
// error is a *CorruptError where that shows any damage.
func Open(path string) (*DB, error) {
	db, readOnly, err := openFile(path)
	if err != nil {
		return nil, err
	}
	d := &DB{path: path, db: db, readOnly: readOnly}
	if err := d.check(); err != nil {
		return nil, errors.Join(&CorruptError{path, err}, guard(db.Close))
	}
	return d, nil
}

func openFile(path string) (db *bbolt.DB, readOnly bool, err error) {
	options := bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType}
	open := func() (err error) { db, err = bbolt.Open(path, 0o600, &options); return err }
	err = guard(open)
	if errors.Is(err, syscall.EROFS) {
		options.ReadOnly, readOnly = true, true
		err = guard(open)
	}
	switch {
	case err == nil && readOnly:
		return db, readOnly, nil
	case err == nil:
		if err = guard(func() error { return makeBuckets(db) }); err == nil {
			err = durable.SyncDir(filepath.Dir(path)) // bbolt flushes the file, but not its name
		}
		if err == nil {
			return db, readOnly, nil
		}
		err = errors.Join(err, guard(db.Close))
	case errors.Is(err, berrors.ErrTimeout):
		return nil, false, errkind.New(errkind.Busy, "cannot open %s: another agent uses it", path)
	}
	if errors.As(err, new(*panicked)) || errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) ||
		errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, errBuckets) {
		return nil, false, &CorruptError{path, err}
	}
	var p *fs.PathError
	if !errors.As(err, &p) && !errors.As(err, new(syscall.Errno)) {
		// bbolt has no error of its own for a file that ends too early.
		return nil, false, &CorruptError{path, err}
	}
	return nil, false, errkind.New(errkind.KindOf(err), "cannot open %s: %w", path, err)
}

var errBuckets = errors.New("its parts are not those that it was made with")

// makeBuckets makes what a new file lacks, or one of an older version. A file in
// which something is missing and something is strange is of no version: there a
// name was damaged.
func makeBuckets(db *bbolt.DB) error {
	var strange []byte
	missing := slices.Clone(buckets)
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			left := slices.DeleteFunc(missing, func(b []byte) bool { return string(b) == string(name) })
			if len(left) == len(missing) {
				strange = slices.Clone(name)
			}
			missing = left
			return nil
		})
	})
	switch {
	case err != nil || len(missing) == 0:
		return err
	case strange != nil:
		return fmt.Errorf("%w: %.40q is there, %s is missing", errBuckets, strange, missing[0])
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, b := range missing {
			if _, err := tx.CreateBucket(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// check reads everything. A refresh's record may be damaged: the reader of the
// journal drops it alone.
func (d *DB) check() error {
	err := guard(func() error {
		return d.db.View(func(tx *bbolt.Tx) error {
			if fi, err := os.Stat(d.path); err != nil || fi.Size() < tx.Size() {
				return errors.Join(err, fmt.Errorf("%d bytes were expected, and not all are there", tx.Size()))
			}
			for _, name := range buckets {
				b := tx.Bucket(name)
				if b == nil {
					return fmt.Errorf("%w: %s is missing", errBuckets, name)
				}
				err := b.ForEach(func(k, v []byte) error {
					if _, err := content(k, v); err != nil && string(name) != string(bucketRefreshes) {
						return fmt.Errorf("record %.80q of %s: %w", k, name, err)
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	// It walks the same pages, in a goroutine where nothing could be caught; and
	// finds pages that are free and in use, which the next change would destroy.
	return guard(func() error {
		return d.db.View(func(tx *bbolt.Tx) error {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = err
				}
			}
			return first
		})
	})
}

// SetAside renames a damaged file, so that nothing of it is lost, and returns
// its new name.
func SetAside(path string, now time.Time) (string, error) {
	aside := path + ".corrupt-" + now.UTC().Format("20060102T150405.000Z")
	return aside, durable.Rename(path, aside)
}

// panicked is what bbolt thinks of a file that it cannot read.
type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprint(p.value) }

// guard runs what reads pages of the file: bbolt panics where they make no sense,
// and the processor faults where they are not there.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v}
		}
	}()
	return f()
}

// Path is where the file lies.
func (d *DB) Path() string { return d.path }

// ReadOnly reports whether the file could be opened for reading only.
func (d *DB) ReadOnly() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.readOnly
}

// Close closes the file.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return nil // a lock in it may never be released
	}
	return guard(d.db.Close)
}

func (d *DB) view(fn func(*bbolt.Tx) error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.judge(guard(func() error { return d.db.View(fn) }))
}

func (d *DB) update(fn func(*bbolt.Tx) error) error {
	if err := d.writable(); err != nil {
		return err
	}
	d.mu.RLock()
	err := d.broken
	if err == nil {
		err = d.judge(guard(func() error { return d.db.Update(fn) }))
	}
	d.mu.RUnlock()
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if errors.As(err, new(*panicked)) {
		d.mu.Lock()
		d.broken = err
		d.mu.Unlock()
	}
	return err
}

// errUnchanged ends an update that would write what is there: a commit flushes the file twice.
var errUnchanged = errors.New("nothing has changed")

// judge decides how to handle damage that is found only now.
func (d *DB) judge(err error) error {
	if errors.As(err, new(*panicked)) {
		return errkind.New(errkind.Failed, "cannot use %s: it is damaged: %w", d.path, err).
			WithHint("restart lulld: it sets the file aside and makes a new one")
	}
	return err
}

// writable re-opens a file that could only be read when it was opened.
func (d *DB) writable() error {
	if !d.ReadOnly() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.readOnly {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot change %s: %w", d.path, unwrapPath(err))
	}
	f.Close()
	if err := guard(d.db.Close); err != nil {
		return err
	}
	db, readOnly, err := openFile(d.path)
	if err != nil {
		d.broken = err
		return err
	}
	d.db, d.readOnly = db, readOnly
	return nil
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumLen = len("#12345678")

// sum binds a record to its key.
func sum(key, text []byte) string {
	return fmt.Sprintf("#%08x", crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, text))
}

// encode is a record: JSON, and behind it a checksum.
func encode(key []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(b, sum(key, b)...), nil
}

var errSum = errors.New("its checksum is wrong")

// content is the JSON of a record.
func content(key, record []byte) ([]byte, error) {
	n := len(record) - sumLen
	if n < 0 || string(record[n:]) != sum(key, record[:n]) {
		return nil, errSum
	}
	return record[:n], nil
}

func decode(key, record []byte, v any) error {
	text, err := content(key, record)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func (d *DB) put(bucket []byte, key string, v any) error {
	b, err := encode([]byte(key), v)
	if err != nil {
		return err
	}
	err = d.update(func(tx *bbolt.Tx) error { return put(tx.Bucket(bucket), []byte(key), b) })
	if err != nil {
		return fmt.Errorf("cannot record %s %s: %w", bucket, strconv.Quote(key), err)
	}
	return nil
}

// put writes a value, unless it is there.
func put(b *bbolt.Bucket, key, value []byte) error {
	if old := b.Get(key); old != nil && bytes.Equal(old, value) {
		return errUnchanged
	}
	return b.Put(key, value)
}

func (d *DB) get(bucket []byte, key string, v any) (found bool, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket).Get([]byte(key))
		if found = b != nil; !found {
			return nil
		}
		return decode([]byte(key), b, v)
	})
	if err != nil {
		return found, fmt.Errorf("cannot read %s %s: %w", bucket, strconv.Quote(key), err)
	}
	return found, nil
}

func (d *DB) remove(bucket []byte, key string) error {
	return d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b.Get([]byte(key)) == nil {
			return errUnchanged
		}
		return b.Delete([]byte(key))
	})
}

func all[T any](d *DB, bucket []byte) (list []T, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		list = nil
		return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
			var v T
			if err := decode(k, b, &v); err != nil {
				return fmt.Errorf("cannot read %s %s: %w", bucket, k, err)
			}
			list = append(list, v)
			return nil
		})
	})
	return list, err
}

// Asides lists the files that were set aside beside path, oldest first.
func Asides(path string) []string {
	list, _ := filepath.Glob(path + ".corrupt-*") // the pattern is ours
	return list
}
