package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// readNames calls f for each name in an open directory, as the kernel returns
// them: a million names are read without a million allocations, so name is
// valid during the call only.
func readNames(dir *os.File, f func(name []byte) error) error {
	const header = 19 // d_ino, d_off, d_reclen, d_type: getdents64(2)
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Getdents(int(dir.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "readdir", Path: dir.Name(), Err: err}
		}
		if n <= 0 {
			return nil
		}
		for rest := buf[:n]; len(rest) > header; {
			length := int(binary.NativeEndian.Uint16(rest[16:]))
			name := rest[header:length]
			if i := slices.Index(name, 0); i >= 0 {
				name = name[:i]
			}
			rest = rest[length:]
			if len(name) <= 2 && (string(name) == "." || string(name) == "..") {
				continue
			}
			if err := f(name); err != nil {
				return err
			}
		}
	}
}

// parseName reads a blob's file name without allocating.
func parseName(name []byte) (k Key, ok bool) {
	const digits = 2 * digest.Size
	switch {
	case len(name) == digits+1 && name[digits] == 'x':
		k.Exec = true
	case len(name) != digits:
		return k, false
	}
	for _, c := range name[:digits] {
		if c >= 'A' && c <= 'F' {
			return k, false
		}
	}
	_, err := hex.Decode(k.Digest[:], name[:digits])
	return k, err == nil
}

// FanOut is the number of directories that the blobs are spread over.
const FanOut = 256

// ScanBlobs calls f for every resident blob whose digest begins with the byte
// part, and foreign, which may be nil, for other names. Different parts can be
// scanned at the same time. Blobs that become resident or are removed meanwhile may
// or may not be seen.
func (s *Store) ScanBlobs(part int, f func(Key) error, foreign func(name string) error) error {
	sub := fmt.Sprintf("%02x", part)
	dir, err := os.Open(s.path(blobsDir, sub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return readNames(dir, func(name []byte) error {
		if k, ok := parseName(name); ok && int(k.Digest[0]) == part {
			return f(k)
		}
		if foreign != nil {
			return foreign(sub + "/" + string(name))
		}
		return nil
	})
}

var errStop = errors.New("stop")

// Blobs yields every resident blob with its size, in no order, and ends with
// an error if the store cannot be read.
func (s *Store) Blobs(yield func(Key, int64) bool) error {
	for part := range FanOut {
		err := s.ScanBlobs(part, func(k Key) error {
			if size, err := s.Size(k); err == nil && !yield(k, size) {
				return errStop
			}
			return nil
		}, nil)
		if err == errStop {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Size is the length of a resident blob in bytes.
func (s *Store) Size(k Key) (int64, error) {
	var st unix.Stat_t
	if err := fstatat(unix.AT_FDCWD, s.BlobPath(k), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: s.BlobPath(k), Err: err}
	}
	return st.Size, nil
}

// Usage counts the resident blobs and their bytes.
func (s *Store) Usage() (blobs int, bytes int64, err error) {
	err = s.Blobs(func(_ Key, size int64) bool {
		blobs++
		bytes += size
		return true
	})
	return blobs, bytes, err
}

// Trees lists the packages whose trees are there, sorted.
func (s *Store) Trees() ([]digest.Digest, error) {
	dir, err := os.Open(s.path(packagesDir))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var list []digest.Digest
	err = readNames(dir, func(name []byte) error {
		if k, ok := parseName(name); ok && !k.Exec {
			list = append(list, k.Digest)
		}
		return nil
	})
	slices.SortFunc(list, digest.Digest.Compare)
	return list, err
}

// Absent returns those of wants that are not resident. Content of the trash is
// restored. Ask only for registered keys: else it may
// be gone the moment after.
func (s *Store) Absent(wants []Want) ([]Want, error) {
	missing, err := s.look(wants)
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot find out what is missing: %w", err).WithHint("%s", errkind.HintOf(err))
	}
	return missing, nil
}

// look is Absent with the bare error.
func (s *Store) look(wants []Want) ([]Want, error) {
	dir, err := openDir(unix.AT_FDCWD, s.path(blobsDir))
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	s.await()
	parts := make([][]Want, workers)
	var g errgroup.Group
	for i := range parts {
		mine := wants[len(wants)*i/workers : len(wants)*(i+1)/workers]
		g.Go(func() (err error) {
			parts[i], err = absent(dir, mine)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return s.takeAllBack(slices.Concat(parts...)), nil
}

// takeAllBack leaves out what the trash still has.
func (s *Store) takeAllBack(missing []Want) []Want {
	return slices.DeleteFunc(missing, func(w Want) bool { return s.untrash(w.Key) })
}

// await returns when nothing is being taken away any more of what had been
// registered as wanted before: from then on the collector spares it.
func (s *Store) await() {
	s.residency.RLock()
	defer s.residency.RUnlock() // a removal holds it for writing
}

// absent is look without the trash, by one goroutine.
func absent(dir int, wants []Want) (absent []Want, err error) {
	for _, w := range wants {
		var st unix.Stat_t
		if fstatat(dir, w.Key.rel(), &st) != nil {
			absent = append(absent, w)
		} else if err := checkSize(w, &st); err != nil {
			return nil, err
		}
	}
	return absent, nil
}

// checkSize compares a resident blob with its size in a package.
func checkSize(w Want, st *unix.Stat_t) error {
	if w.Size < 0 || st.Size == w.Size {
		return nil
	}
	return errkind.New(errkind.Untrusted, "blob %s has %d bytes, the package names %d", w.Key.Digest.Short(), st.Size, w.Size).
		WithHint("lull verify shows whether the blob is broken")
}

// Missing returns what of the package, with its subpackages, is not resident.
// Metas come without a size; what they would ask for is unknown until they are
// there.
func (s *Store) Missing(pkg digest.Digest) ([]Want, error) {
	var missing []Want
	seen := map[digest.Digest]bool{}
	asked := map[Key]bool{}
	for todo := []digest.Digest{pkg}; len(todo) > 0; {
		p := todo[0]
		todo = todo[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		key := MetaKey(p)
		asked[key] = true
		if !s.Has(key) {
			missing = append(missing, Want{key, -1})
			continue
		}
		m, err := s.Meta(p)
		if err != nil {
			return nil, err
		}
		for _, w := range Wants(m) {
			if !asked[w.Key] && !s.Has(w.Key) {
				missing = append(missing, w)
			}
			asked[w.Key] = true
		}
		for _, sub := range m.Subpackages {
			todo = append(todo, sub)
		}
	}
	return missing, nil
}

// Distinct sorts wants by key and leaves each key once. It uses the slice.
func Distinct(wants []Want) []Want {
	slices.SortFunc(wants, func(a, b Want) int { return a.Key.Compare(b.Key) })
	return slices.CompactFunc(wants, func(a, b Want) bool { return a.Key == b.Key })
}

// Wants lists the content of a package: what Blobs lists, as keys.
func Wants(m *manifest.Meta) []Want {
	blobs := m.Blobs()
	wants := make([]Want, len(blobs))
	for i, b := range blobs {
		wants[i] = Want{Key{b.Digest, b.Exec}, b.Size}
	}
	return wants
}
