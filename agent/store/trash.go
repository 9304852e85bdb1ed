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

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
)

// trashPath is a blob's place in the trash: trash/A/HASH, by the first digit.
// Several directories, because names are added and deleted at the same time.
func (s *Store) trashPath(k Key) string {
	name := k.String()
	return s.path(trashDir, name[:1], name)
}

// emptyTrash deletes the content of the trash, and makes its directories.
func (s *Store) emptyTrash() error {
	if err := removeChildren(s.path(trashDir)); err != nil {
		return err
	}
	for i := range 16 {
		if err := os.Mkdir(s.path(trashDir, fmt.Sprintf("%x", i)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// TakenTree is a package's tree in the trash.
type TakenTree struct {
	place string
	files map[Key]string // path below place of each blob, as far as known
	taken []Key          // blobs that lost their name and lie in the tree alone
}

// Trash moves blobs into the trash, a small batch in one go. It asks may
// for each, under the write lock: no caller can find a blob resident between
// answer and move. An error of may ends the batch. It returns those that are
// in the
// trash now; the caller gives them to Discard.
//
// Those that also lie in tree, if it is not nil, only lose their name: they are
// kept by the tree, can be taken back from there, and go with DiscardTree. That
// is cheaper, and needs no space at all. They are returned as inTree.
func (s *Store) Trash(batch []Key, tree *TakenTree, may func(Key) (bool, error)) (taken, inTree []Key, err error) {
	if err := s.writable(); err != nil {
		return nil, nil, err
	}
	s.residency.Lock()
	defer s.residency.Unlock()
	for _, k := range batch {
		ok, err := may(k)
		if err != nil {
			return taken, inTree, err
		}
		if !ok {
			continue
		}
		there, err := s.takeLocked(k, tree)
		if err != nil {
			return taken, inTree, err
		}
		switch {
		case there == "":
		case there == s.trashPath(k):
			taken = append(taken, k)
		default:
			inTree = append(inTree, k)
			tree.taken = append(tree.taken, k)
		}
	}
	return taken, inTree, nil
}

// takeLocked moves one blob and returns its new path, "" if it did not exist.
func (s *Store) takeLocked(k Key, tree *TakenTree) (string, error) {
	place := s.trashPath(k)
	var err error
	if tree != nil && tree.files[k] != "" {
		place = tree.place + "/" + tree.files[k]
		if err = faultpoint.Hit("store.takeaway.unlink"); err == nil {
			err = unix.Unlink(s.BlobPath(k))
		}
	} else {
		err = durable.Move(s.BlobPath(k), place)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			// Even a name costs a block if a directory is full. Deleting does not.
			err = unix.Unlink(s.BlobPath(k))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s.trashed[k] = place
	return place, nil
}

// untrash makes a blob of the trash resident.
func (s *Store) untrash(k Key) bool {
	s.residency.Lock()
	defer s.residency.Unlock()
	place, ok := s.trashed[k]
	if !ok {
		return false
	}
	// The collector may have deleted it meanwhile; then these fail.
	var err error
	if place == s.trashPath(k) {
		err = durable.Move(place, s.BlobPath(k))
	} else {
		err = unix.Link(place, s.BlobPath(k))
	}
	if err != nil {
		return false
	}
	delete(s.trashed, k)
	return true
}

// Purge deletes blobs in the trash and returns those that are gone: one may
// have been taken back.
func (s *Store) Purge(keys []Key) (deleted []Key, err error) {
	var failed []Key
	for _, k := range keys {
		e := faultpoint.Hit("store.discard")
		if e == nil {
			e = os.Remove(s.trashPath(k))
		}
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
			failed = append(failed, k)
		}
	}
	return s.forget(keys, failed), err
}

// forget strikes keys off the list of what is in the trash, but for those that
// failed to be deleted, and returns those that had not been taken back.
func (s *Store) forget(keys, failed []Key) (deleted []Key) {
	s.residency.Lock()
	defer s.residency.Unlock()
	for _, k := range keys {
		if _, ok := s.trashed[k]; ok && !slices.Contains(failed, k) {
			deleted = append(deleted, k)
			delete(s.trashed, k)
		}
	}
	return deleted
}

// TakeTree moves a package's tree into the trash, and returns nil if may,
// called under the write lock, refuses or there is no tree. The caller gives
// it to DiscardTree.
func (s *Store) TakeTree(pkg digest.Digest, may func() (bool, error)) (*TakenTree, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	place, err := s.takeTree(pkg, may)
	if place == "" {
		return nil, err
	}
	t := &TakenTree{place: place, files: map[Key]string{}}
	own := manifest.Reserved + "/meta.json"
	// Without its meta the tree goes as well, only less cheaply.
	if m, err := readMeta(pkg, place+"/"+own); err == nil {
		for i := range m.Entries {
			if e := &m.Entries[i]; e.IsFile() {
				t.files[Key{e.Blob, e.Exec}] = e.Path
			}
		}
		t.files[MetaKey(pkg)] = own
	}
	return t, nil
}

func (s *Store) takeTree(pkg digest.Digest, may func() (bool, error)) (string, error) {
	s.residency.Lock()
	defer s.residency.Unlock()
	ok, err := may()
	if err != nil || !ok {
		return "", err
	}
	place := s.path(trashDir, fmt.Sprintf("%s.tree-%d", pkg, s.serial.Add(1)))
	err = durable.Move(s.PackageDir(pkg), place)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// Where no name can be added to the trash, one that is ignored and
		// deleted at start will do.
		place = s.path(packagesDir, fmt.Sprintf("%s%s.%d", newPrefix, pkg, s.serial.Add(1)))
		err = durable.Move(s.PackageDir(pkg), place)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return place, nil
}

// DiscardTree deletes a tree in the trash, and with it the blobs that Trash
// has left in it. It returns those of them that had not been taken back.
func (s *Store) DiscardTree(t *TakenTree) (deleted []Key, err error) {
	if err := faultpoint.Hit("store.discard.tree"); err != nil {
		return nil, err
	}
	err = removeTree(t.place)
	return s.forget(t.taken, nil), err
}

// Ingests lists the packages with an inactive unfinished ingest, and its size
// in bytes.
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

// DropIngest deletes the remains of an unfinished ingest, unless it is active.
func (s *Store) DropIngest(pkg digest.Digest) error {
	if err := s.writable(); err != nil {
		return err
	}
	place, err := s.takeIngest(pkg)
	if err != nil || place == "" {
		return err
	}
	return removeTree(place)
}

// takeIngest moves it away, so that a new ingest can begin at once.
func (s *Store) takeIngest(pkg digest.Digest) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.path(tmpDir, pkg.String())
	if s.ingests[pkg] {
		return "", nil
	}
	place := s.path(trashDir, fmt.Sprintf("%s.ingest-%d", pkg, s.serial.Add(1)))
	err := durable.Move(dir, place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "", removeTree(dir) // no room for a name; under the lock, then
	case err != nil:
		return "", err
	}
	return place, nil
}

// removeTree deletes a file or directory with its content.
func removeTree(path string) error {
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := removeChildren(path); err != nil {
		return err
	}
	return os.Remove(path)
}

// deleters are the goroutines that may delete beside those that were asked to.
// The last name of a file costs a wait for the disk, for the inode, its extents, or
// to have the blocks discarded, and no lock is held meanwhile: unlike workers,
// many bring much.
var deleters = make(chan struct{}, 7)

// removeChildren deletes the content of a directory. Subdirectories are shared
// among the deleters that are free.
func removeChildren(path string) error {
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
		if err := removeChildren(path + "/" + name); err != nil {
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
		case deleters <- struct{}{}:
			g.Go(func() error {
				defer func() { <-deleters }()
				return remove(name)
			})
		default:
			note(remove(name))
		}
	}
	note(g.Wait())
	return first
}
