package copytree

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// record is what the source of an entry looked like.
type record struct {
	inode
	size uint64
	sec  int64
	nsec uint32
	mode uint16
	racy bool // the change time was too fresh to judge
}

func recordOf(st *unix.Statx_t, racy bool) record {
	return record{inodeOf(st), st.Size, st.Ctime.Sec, st.Ctime.Nsec, st.Mode, racy}
}

// The index is a header that names the source's root, the records, and a
// checksum: private to one machine, and thrown away when anything is odd.
const indexMagic = "lull datacopy index 1\n"

type indexWriter struct {
	b     []byte
	n     int // records
	paths int // the bytes of their paths
}

// full reports whether no more is remembered.
func (w *indexWriter) full() bool { return w.n >= maxIndex || w.paths >= maxPaths }

func newIndexWriter(root inode) *indexWriter {
	w := &indexWriter{b: []byte(indexMagic)}
	w.b = binary.AppendUvarint(w.b, root.dev)
	w.b = binary.AppendUvarint(w.b, root.ino)
	return w
}

func (w *indexWriter) add(rel string, r record) {
	w.n++
	w.paths += len(rel)
	racy := uint64(0)
	if r.racy {
		racy = 1
	}
	w.b = binary.AppendUvarint(w.b, uint64(len(rel)))
	w.b = append(w.b, rel...)
	for _, v := range [...]uint64{r.dev, r.ino, r.size, uint64(r.sec), uint64(r.nsec), uint64(r.mode), racy} {
		w.b = binary.AppendUvarint(w.b, v)
	}
}

// sealed returns the whole file.
func sealed(w *indexWriter) []byte {
	return binary.BigEndian.AppendUint32(w.b, crc32.ChecksumIEEE(w.b))
}

// write puts the index in place, on stable storage.
func (w *indexWriter) write(dir *os.File, name string) error {
	tmp := name + newSuffix
	if err := unlink(int(dir.Fd()), tmp); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), tmp)
	defer f.Close()
	if _, err := f.Write(sealed(w)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), name); err != nil {
		return err
	}
	return dir.Sync()
}

// newSuffix marks an index that is not whole yet.
const newSuffix = ".new"

func unlinkIndex(dir int, partial string) error {
	return errors.Join(unlink(dir, partial+indexSuffix), unlink(dir, partial+indexSuffix+newSuffix))
}

var errIndex = errors.New("it is damaged")

// loadIndex returns the records by path, or nil when there is no index of that
// source that can be used.
func loadIndex(dir int, name string, root inode) map[string]record {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	records, err := parseIndex(b, root)
	if err != nil {
		return nil
	}
	return records
}

func parseIndex(b []byte, root inode) (map[string]record, error) {
	end := len(b) - 4
	if end < len(indexMagic) || string(b[:len(indexMagic)]) != indexMagic || crc32.ChecksumIEEE(b[:end]) != binary.BigEndian.Uint32(b[end:]) {
		return nil, errIndex
	}
	b = b[len(indexMagic):end]
	var err error
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err, b = errIndex, nil
			return 0
		}
		b = b[n:]
		return v
	}
	if dev, ino := next(), next(); err != nil || (inode{dev, ino}) != root {
		return nil, errIndex
	}
	records := map[string]record{}
	for len(b) > 0 {
		n := next()
		if n > uint64(len(b)) {
			return nil, errIndex
		}
		rel := string(b[:n])
		b = b[n:]
		r := record{inode: inode{next(), next()}, size: next(), sec: int64(next()), nsec: uint32(next()), mode: uint16(next()), racy: next() == 1}
		if err != nil {
			return nil, err
		}
		records[rel] = r
	}
	return records, nil
}
