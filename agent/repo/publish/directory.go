package publish

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// directory is a repository in a directory of this machine. Its lock excludes all other
// publishers.
type directory struct {
	dir    string
	staged durable.Batch // used by the holder of the lock
}

// Directory returns the storage of a directory.
func Directory(dir string) Storage { return newDirectory(dir) }

func newDirectory(dir string) *directory { return &directory{dir: dir} }

func (d *directory) path(path string) string { return filepath.Join(d.dir, filepath.FromSlash(path)) }

func (d *directory) Lock(ctx context.Context) (func(), error) { return lock(ctx, d.dir) }

func (d *directory) Shared() bool { return false }

// scratch is the directory of unfinished blobs. Only the holder of the repository's lock uses
// it.
const scratch = ".publish"

func (d *directory) Scratch() (string, error) {
	dir := d.path(scratch)
	if err := os.RemoveAll(dir); err != nil { // left by a killed publisher
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755)
}

func (d *directory) Read(_ context.Context, path string) ([]byte, string, error) {
	f, err := os.Open(d.path(path))
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxRead+1))
	if err == nil && len(data) > MaxRead {
		err = errkind.Errorf("%s is larger than %d bytes", path, MaxRead)
	}
	return data, "", err
}

func (d *directory) Open(_ context.Context, path string) (io.ReadCloser, error) {
	return os.Open(d.path(path))
}

func (d *directory) Stat(_ context.Context, path string) (Info, error) {
	fi, err := os.Stat(d.path(path))
	if err != nil {
		return Info{}, err
	}
	return Info{fi.Size(), fi.ModTime()}, nil
}

// List leaves out what is not a regular file.
func (d *directory) List(ctx context.Context, prefix string, do func(string, Info) error) error {
	err := filepath.WalkDir(d.path(prefix), func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		return do(filepath.ToSlash(rel), Info{fi.Size(), fi.ModTime()})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// served is the mode of all files of a repository, independent of the publisher's umask: a
// web server of another user reads them.
const served = 0o644

// Keep also makes the blob readable for a web server.
func (d *directory) Keep(_ context.Context, path string) (bool, error) {
	full := d.path(path)
	fi, err := os.Lstat(full)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&served != served {
		err = os.Chmod(full, served)
	}
	return err == nil, err
}

func (d *directory) Put(_ context.Context, f Object) error {
	if f.From != "" {
		return d.staged.Move(f.From, d.path(f.Path))
	}
	return d.staged.Add(d.path(f.Path), f.Data, served)
}

func (d *directory) Create(ctx context.Context, f Object) error { return d.Put(ctx, f) }

func (d *directory) Flush(context.Context) error { return d.staged.Commit() }

func (d *directory) Discard() { _ = d.staged.Discard() }

func (d *directory) Swap(_ context.Context, f Object, _ string) error {
	return durable.WriteFile(d.path(f.Path), f.Data, served)
}

// Remove also deletes the directories below the top ones that are empty then.
func (d *directory) Remove(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := os.Remove(d.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for dir := filepath.Dir(filepath.FromSlash(path)); strings.Contains(dir, string(filepath.Separator)); dir = filepath.Dir(dir) {
			if os.Remove(filepath.Join(d.dir, dir)) != nil { // not empty
				break
			}
		}
	}
	return nil
}
