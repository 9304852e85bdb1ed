package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// DropCorrupt prepares the repair of a finding: a broken blob loses its name, so
// that the next resolve fetches it, and a foreign file is deleted. A blob that
// only has the wrong mode or owner is put right at once. DropCorrupt all findings,
// then rebuild the trees of their Packages: a tree that is rebuilt in between has
// what is condemned later.
func (s *Store) DropCorrupt(f Finding) error {
	if err := s.writable(); err != nil {
		return err
	}
	var err error
	switch {
	case f.Key != Key{}:
		if s.restore(f.Key) != nil {
			err = s.DropBlob(f.Key)
		}
	case f.Package.IsZero():
		if path := filepath.Join(s.root, f.What); strings.HasPrefix(path, s.path(blobsDir)+"/") || strings.HasPrefix(path, s.path(packagesDir)+"/") {
			err = removeTree(path)
		}
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot remove %s: %w", f.What, err)
	}
	return nil
}

// DropBlob takes the name of a broken blob away.
func (s *Store) DropBlob(k Key) error {
	if err := s.writable(); err != nil {
		return err
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	s.condemned.Add(1)
	err := os.RemoveAll(s.BlobPath(k))
	if err == nil {
		err = durable.SyncDir(filepath.Dir(s.BlobPath(k)))
	}
	return err
}

var errOtherContent = errors.New("it has other content")

// restore replaces a blob whose content is good by a file that is ours alone:
// who could write the old one may still have it open.
func (s *Store) restore(k Key) (err error) {
	fd, err := unix.Open(s.BlobPath(k), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(fd), s.BlobPath(k))
	defer from.Close()
	if st, err := from.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(err, errOtherContent)
	}
	to, err := os.CreateTemp(s.root, durable.TempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, to.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(to.Name()))
		}
	}()
	h := digest.New()
	if _, err := copyBuffered(io.MultiWriter(to, h), from); err != nil {
		return err
	}
	if digest.From(h) != k.Digest {
		return errOtherContent
	}
	if err := errors.Join(to.Chmod(k.mode()), to.Sync()); err != nil {
		return err
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	s.condemned.Add(1)
	return durable.Rename(to.Name(), s.BlobPath(k))
}
