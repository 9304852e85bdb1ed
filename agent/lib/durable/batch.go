package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/lull/lull/agent/lib/faultpoint"
)

// Batch replaces many files and flushes them together. Nothing is in place before Commit. A
// crash during Commit may leave the new files of some paths and the old ones of others, each
// of them whole. A Batch is not safe for concurrent use.
type Batch struct {
	moves []move
	dirs  map[string]bool // in which a directory was made
}

type move struct{ from, to string }

// flushEach is the number of files up to which each is flushed by itself. Flushing the whole
// file system also waits for the data of others.
const flushEach = 16

// Add stages data for path. The file will have mode perm exactly. Missing parent directories
// are made with mode 0755.
func (b *Batch) Add(path string, data []byte, perm fs.FileMode) error {
	if err := b.parent(path); err != nil {
		return err
	}
	tmp := temp(path)
	b.moves = append(b.moves, move{tmp, path})
	if err := faultpoint.Hit("durable.batch.create"); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(perm), f.Close())
}

// Move stages an existing file of the same file system for path.
func (b *Batch) Move(from, path string) error {
	if err := b.parent(path); err != nil {
		return err
	}
	b.moves = append(b.moves, move{from, path})
	return nil
}

func (b *Batch) parent(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := b.parent(dir); err != nil {
		return err
	}
	if err := faultpoint.Hit("durable.batch.mkdir"); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if b.dirs == nil {
		b.dirs = map[string]bool{}
	}
	b.dirs[filepath.Dir(dir)] = true
	return os.Chmod(dir, 0o755)
}

// Commit puts all staged files in place, in the order in which they were staged. All are on
// stable storage when it returns nil. Otherwise Discard deletes the rest.
func (b *Batch) Commit() error {
	if len(b.moves) == 0 {
		return nil
	}
	files := make([]string, len(b.moves))
	for i, m := range b.moves {
		files[i] = m.from
	}
	if err := flushAll(files, filepath.Dir(files[0]), SyncFile); err != nil {
		return err
	}
	dirs := b.dirs
	if dirs == nil {
		dirs = map[string]bool{}
	}
	for len(b.moves) > 0 {
		m := b.moves[0]
		if err := Move(m.from, m.to); err != nil {
			return err
		}
		b.moves = b.moves[1:]
		dirs[filepath.Dir(m.to)] = true
	}
	list := make([]string, 0, len(dirs))
	for d := range dirs {
		list = append(list, d)
	}
	b.dirs = nil
	return flushAll(list, list[0], SyncDir)
}

// Discard deletes what was staged and is not in place.
func (b *Batch) Discard() (err error) {
	for _, m := range b.moves {
		err = errors.Join(err, ignoreMissing(os.Remove(m.from)))
	}
	b.moves, b.dirs = nil, nil
	return err
}

// flushAll flushes a few paths side by side, so that the file system can write them in one
// transaction, or else the whole file system of dir.
func flushAll(paths []string, dir string, flush func(string) error) error {
	if len(paths) > flushEach {
		return SyncFS(dir)
	}
	errs := make([]error, len(paths))
	var all sync.WaitGroup
	for i, path := range paths {
		all.Go(func() { errs[i] = flush(path) })
	}
	all.Wait()
	return errors.Join(errs...)
}
