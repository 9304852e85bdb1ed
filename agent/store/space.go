package store

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

const reserveName = "reserve"

// Space is what a file system has.
type Space struct {
	Total, Free int64 // bytes; Free is what the store may use
	Block       int64 // bytes that are given out at a time
	Files       int64 // inodes free, -1 where they are not limited
}

// Space queries the file system of the store.
func (s *Store) Space() (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(s.root, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Space{}, &fs.PathError{Op: "statfs", Path: s.root, Err: err}
		}
		break
	}
	block := int64(st.Frsize)
	if block <= 0 {
		block = int64(st.Bsize)
	}
	space := Space{Total: int64(st.Blocks) * block, Free: int64(st.Bavail) * block, Block: block, Files: -1}
	if st.Files > 0 {
		space.Files = int64(st.Ffree)
	}
	return space, nil
}

// SetReserve sets the size of the reserve in bytes, and allocates it as far as
// there is room; 0 deletes it.
func (s *Store) SetReserve(bytes int64) error {
	if err := s.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	s.reserve = bytes
	s.mu.Unlock()
	return s.RestoreReserve()
}

// Reserve returns how many bytes the reserve shall hold, and how many it does.
func (s *Store) Reserve() (want, have int64, err error) {
	s.mu.Lock()
	want = s.reserve
	s.mu.Unlock()
	fi, err := os.Lstat(s.path(reserveName))
	if errors.Is(err, fs.ErrNotExist) {
		return want, 0, nil
	}
	if err != nil {
		return want, 0, err
	}
	return want, fi.Size(), nil
}

// ReleaseReserve gives the space of the reserve back and returns its size.
func (s *Store) ReleaseReserve() (int64, error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	path := s.path(reserveName)
	fi, err := os.Lstat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, errkind.New(errkind.KindOf(err), "cannot release the reserve: %w", err)
	}
	return fi.Size(), nil
}

// RestoreReserve re-creates a missing reserve, of the size that SetReserve has
// named, if at least as much stays free beside it. Too little room is no
// error.
func (s *Store) RestoreReserve() error {
	s.mu.Lock()
	bytes := s.reserve
	s.mu.Unlock()
	path := s.path(reserveName)
	fi, err := os.Lstat(path)
	if err == nil && fi.Size() == bytes && bytes > 0 {
		return nil
	}
	if _, err := s.ReleaseReserve(); err != nil || bytes <= 0 {
		return err
	}
	if space, err := s.Space(); err != nil || space.Free < 2*bytes {
		return err
	}
	if err := allocate(path, bytes); err != nil {
		rm := os.Remove(path)
		if errkind.Is(err, errkind.NoSpace) {
			return nil
		}
		return errkind.New(errkind.KindOf(err), "cannot make the reserve: %w", errors.Join(err, rm))
	}
	return nil
}

func allocate(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err = unix.Fallocate(int(f.Fd()), 0, 0, bytes)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.EOPNOTSUPP {
		// Zeros would do where they are not compressed away; there, and only
		// there, the reserve is smaller than it looks.
		zeros := make([]byte, 1<<20)
		for left := bytes; left > 0 && err != nil; left -= int64(len(zeros)) {
			if _, e := f.Write(zeros[:min(left, int64(len(zeros)))]); e != nil {
				return e
			}
		}
		return nil
	}
	return err
}
