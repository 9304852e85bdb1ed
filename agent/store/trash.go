package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/faultpoint"
)

// TakeAway moves blobs into the trash, a small batch in one go. It asks may for
// each, under the write lock: nobody can find a blob resident between answer
// and move. An error of may ends the batch. It returns those that are in the
// trash now; the caller gives them to Discard.
func (s *Store) TakeAway(batch []Key, may func(Key) (bool, error)) (taken []Key, err error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	for _, k := range batch {
		ok, err := may(k)
		if err != nil {
			return taken, err
		}
		if !ok {
			continue
		}
		err = durable.Move(s.BlobPath(k), s.path(trashDir, k.String()))
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			// Even a name costs a block where a folder is full. Deleting does not.
			err = os.Remove(s.BlobPath(k))
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return taken, err
		}
		s.trashed[k] = struct{}{}
		taken = append(taken, k)
	}
	return taken, nil
}

// takeBack makes a blob resident again that lies in the trash.
func (s *Store) takeBack(k Key) bool {
	s.residency.Lock()
	defer s.residency.Unlock()
	if _, ok := s.trashed[k]; !ok {
		return false
	}
	// The collector may have deleted it meanwhile; then this fails.
	if durable.Move(s.path(trashDir, k.String()), s.BlobPath(k)) != nil {
		return false
	}
	delete(s.trashed, k)
	return true
}

// Discard deletes blobs in the trash and returns those that are gone: one may
// have been taken back.
func (s *Store) Discard(keys []Key) (deleted []Key, err error) {
	var failed []Key
	for _, k := range keys {
		e := faultpoint.Hit("store.discard")
		if e == nil {
			e = os.Remove(s.path(trashDir, k.String()))
		}
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
			failed = append(failed, k)
		}
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	for _, k := range keys {
		if _, ok := s.trashed[k]; ok && !slices.Contains(failed, k) {
			deleted = append(deleted, k)
			delete(s.trashed, k)
		}
	}
	return deleted, err
}

// TakeTree moves a package's tree into the trash and returns its place there,
// "" if may, asked under the write lock, said no or there is no tree. The
// caller gives the place to DiscardTree.
func (s *Store) TakeTree(pkg digest.Digest, may func() (bool, error)) (place string, err error) {
	if err := s.writable(); err != nil {
		return "", err
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	ok, err := may()
	if err != nil || !ok {
		return "", err
	}
	return s.trashTree(s.PackageDir(pkg), pkg.String())
}

func (s *Store) trashTree(dir, name string) (string, error) {
	place := s.path(trashDir, fmt.Sprintf("%s.tree-%d", name, s.serial.Add(1)))
	err := durable.Move(dir, place)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// Where no name can be added to the trash, a name that is ignored and
		// deleted at start will do.
		place = s.path(packagesDir, newPrefix+name)
		err = durable.Move(dir, place)
	}
	if err != nil {
		return "", err
	}
	return place, nil
}

// DiscardTree deletes a tree in the trash.
func (s *Store) DiscardTree(place string) error {
	if err := faultpoint.Hit("store.discard.tree"); err != nil {
		return err
	}
	return removeTree(place)
}

// Ingests lists the packages with an unfinished ingest of which nobody is at
// work, and the bytes in it.
func (s *Store) Ingests() (map[digest.Digest]int64, error) {
	entries, err := os.ReadDir(s.path(tmpDir))
	if err != nil {
		return nil, err
	}
	list := map[digest.Digest]int64{}
	for _, e := range entries {
		k, ok := parseName([]byte(e.Name()))
		if !ok {
			continue
		}
		s.mu.Lock()
		active := s.ingests[k.Digest]
		s.mu.Unlock()
		if active {
			continue
		}
		var bytes int64
		files, err := os.ReadDir(s.path(tmpDir, e.Name()))
		if err != nil {
			continue // just finished
		}
		for _, f := range files {
			if fi, err := f.Info(); err == nil {
				bytes += fi.Size()
			}
		}
		list[k.Digest] = bytes
	}
	return list, nil
}

// DropIngest deletes what an unfinished ingest has left, unless somebody is at
// work on it.
func (s *Store) DropIngest(pkg digest.Digest) error {
	if err := s.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.ingests[pkg] {
		s.mu.Unlock()
		return nil
	}
	s.ingests[pkg] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.ingests, pkg)
		s.mu.Unlock()
	}()
	return removeTree(s.path(tmpDir, pkg.String()))
}

// removeTree deletes a file or folder with all that is in it.
func removeTree(path string) error {
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := removeChildren(path, make(chan struct{}, workers-1)); err != nil {
		return err
	}
	return os.Remove(path)
}

// removeChildren deletes what is in a folder. Subfolders are shared among as
// many more goroutines as spare has room for.
func removeChildren(path string, spare chan struct{}) error {
	if spare == nil {
		spare = make(chan struct{}, workers-1)
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var names []string
	if err := readNames(dir, func(name []byte) error {
		names = append(names, string(name))
		return nil
	}); err != nil {
		return err
	}
	var g errgroup.Group
	var folders []string
	for _, name := range names {
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		switch err {
		case nil, unix.ENOENT:
		case unix.EISDIR, unix.EPERM:
			folders = append(folders, name)
		default:
			return &fs.PathError{Op: "unlink", Path: path + "/" + name, Err: err}
		}
	}
	remove := func(name string) error {
		if err := removeChildren(path+"/"+name, spare); err != nil {
			return err
		}
		if err := os.Remove(path + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	var first error
	var once sync.Once
	note := func(err error) {
		if err != nil {
			once.Do(func() { first = err })
		}
	}
	for _, name := range folders {
		select {
		case spare <- struct{}{}:
			g.Go(func() error {
				defer func() { <-spare }()
				return remove(name)
			})
		default:
			note(remove(name))
		}
	}
	note(g.Wait())
	return first
}
