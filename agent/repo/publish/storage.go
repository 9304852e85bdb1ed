package publish

import (
	"context"
	"io"
	"time"
)

// Storage holds the files of a repository: a directory or a bucket of an object store. Paths
// are relative, with slashes. The error of a missing file wraps fs.ErrNotExist. A Storage may
// be used from any goroutine, except that only one at a time writes.
type Storage interface {
	// Lock excludes other publishers on this machine until release.
	Lock(ctx context.Context) (release func(), err error)
	// Shared reports whether publishers that Lock does not exclude may write at the same
	// time. Then Create and Swap decide between them.
	Shared() bool
	// Scratch makes a directory for unfinished blobs. Put can move files out of it.
	Scratch() (dir string, err error)

	// Read returns a whole file of at most MaxRead bytes. The tag identifies its content
	// for Swap.
	Read(ctx context.Context, path string) (data []byte, tag string, err error)
	// Open returns the content of a file.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
	// Stat describes a file.
	Stat(ctx context.Context, path string) (Info, error)
	// List calls do with each file whose path begins with prefix, a directory with its
	// final slash. Files that were written or deleted a moment ago may be wrong in it.
	// It returns the error of do.
	List(ctx context.Context, prefix string, do func(path string, i Info) error) error
	// Keep reports whether a blob exists, and will still exist when a publication that
	// refers to it is signed.
	Keep(ctx context.Context, path string) (bool, error)

	// Put stages a file. It is in place, and on stable storage, after the next Flush, and
	// before any file that is created later. An existing file is replaced.
	Put(ctx context.Context, f Object) error
	// Create is Put for a path that must be new. The error wraps fs.ErrExist if another
	// publisher has created it with other content. If publishers exclude each other, an
	// existing file is one that a killed publisher has left, and is replaced.
	Create(ctx context.Context, f Object) error
	// Flush ends what Put and Create have begun.
	Flush(ctx context.Context) error
	// Discard drops what is staged.
	Discard()
	// Swap replaces a file that still has a tag, at once. "" means that the file does not
	// exist. The error wraps fs.ErrExist if the file has changed.
	Swap(ctx context.Context, f Object, tag string) error
	// Remove deletes files. A missing one is not an error.
	Remove(ctx context.Context, paths []string) error
}

// MaxRead bounds what Storage.Read returns, in bytes.
const MaxRead = 64 << 20

// Object is a file to be written.
type Object struct {
	Path string
	Data []byte
	From string // a file in the directory of Scratch that has the content, instead of Data
}

// Info describes a stored file.
type Info struct {
	Size     int64 // bytes
	Modified time.Time
}
