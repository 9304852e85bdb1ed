package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/sys/unix"
)

// errMissing means that the repository does not have a file.
var errMissing = errors.New("it is not there")

// errUnchanged is returned by getIfChanged for an unchanged file.
var errUnchanged = errors.New("it has not changed")

// tooLarge means a file that is larger than allowed.
type tooLarge struct{ limit int64 }

func (e tooLarge) Error() string { return fmt.Sprintf("it is larger than %d bytes", e.limit) }

// source reads the files of a repository. Paths are slash-separated and relative to the
// repository.
type source interface {
	// get returns a whole file of at most limit bytes.
	get(ctx context.Context, path string, limit int64) ([]byte, error)
	// getIfChanged is get, unless the file still is the one of tag: then the error is
	// errUnchanged. newTag is "" if a source has no tags.
	getIfChanged(ctx context.Context, path string, limit int64, tag string) (data []byte, newTag string, err error)
	// open returns a file from a byte onwards. The reader retries transient failures.
	open(ctx context.Context, path string, from int64) (io.ReadCloser, error)
	// tail returns the last n bytes of a file, or a whole shorter one, and its size.
	// errors.ErrUnsupported: this source cannot.
	tail(ctx context.Context, path string, n int64) ([]byte, int64, error)
	// dir is the directory of a local repository, or "".
	dir() string
}

func newSource(cfg Config, retry backoff) (source, error) {
	u, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return folder(u.Path), nil
	}
	return newWeb(u, cfg, retry), nil
}

// folder is a repository on this machine. It may belong to another user. So symlinks cannot
// lead out of it, and a file that is not regular does not block a read.
type folder string

func (f folder) dir() string { return string(f) }

func (f folder) openFile(path string) (*os.File, int64, error) {
	dir, err := unix.Open(string(f), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: string(f), Err: err}
	}
	defer unix.Close(dir)
	file, err := f.beneath(dir, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, errMissing
	}
	if err != nil {
		return nil, 0, err
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, fi.Size(), nil
}

// beneath opens a file of the folder, which is open as dir. A package has thousands: openat2(2)
// takes one call for what os.Root does in one for each directory.
func (f folder) beneath(dir int, path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), filepath.Join(string(f), path)), nil
	case unix.ENOSYS, unix.EPERM, unix.EAGAIN, unix.EINTR: // an old kernel, a filter, a rename at the same time
		root, err := os.OpenRoot(string(f))
		if err != nil {
			return nil, err
		}
		defer root.Close()
		return root.OpenFile(filepath.FromSlash(path), flags, 0)
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: err}
}

func (f folder) get(ctx context.Context, path string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, _, err := f.openFile(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file, limit)
}

func (f folder) getIfChanged(ctx context.Context, path string, limit int64, _ string) ([]byte, string, error) {
	data, err := f.get(ctx, path, limit)
	return data, "", err
}

func (f folder) open(ctx context.Context, path string, from int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, _, err := f.openFile(path)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (f folder) tail(_ context.Context, path string, n int64) ([]byte, int64, error) {
	file, size, err := f.openFile(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	b := make([]byte, min(n, size))
	_, err = file.ReadAt(b, size-int64(len(b)))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, size, err
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, tooLarge{limit}
	}
	return b, err
}

// userinfo finds user and password where a URL does not parse.
var userinfo = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`//[^/?#\s]*@`) })

// shown returns a URL without its password.
func shown(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return userinfo().ReplaceAllString(s, "//xxxxx@")
}
