package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/printable"
)

// The bounds of an upload, beside convert.MaxBytes.
const (
	maxName = 255             // bytes
	idle    = 5 * time.Minute // without a byte from the client
	chunk   = 1 << 20         // bytes copied between two checks of the disk
)

// Upload is a file that a client sends.
type Upload struct {
	Name string

	s    *Store
	dir  string // scratch, with the one file content
	pipe *os.File
	done chan struct{} // closed when Receive has returned

	hash digest.Digest // written before done is closed
	err  error         // likewise
}

// ValidName returns an error of kind Invalid unless name is the name of a file.
func ValidName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.Contains(name, "/") ||
		!utf8.ValidString(name) || strings.ContainsFunc(name, printable.Hostile) {
		return errkind.New(errkind.Invalid, "cannot receive the file %.80q: it is no name of a file", name)
	}
	return nil
}

// NewUpload makes an upload and returns the end of its pipe for the client. The caller must
// call Receive next, and Remove at the end.
func (s *Store) NewUpload(name string) (u *Upload, client *os.File, err error) {
	if err := ValidName(name); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(s.Root, scratchPrefix)
	if err != nil {
		return nil, nil, err
	}
	pipe, client, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Upload{Name: name, s: s, dir: dir, pipe: pipe, done: make(chan struct{})}, client, nil
}

// Receive copies the content until the client closes its end or ctx ends. Open returns its
// error.
func (u *Upload) Receive(ctx context.Context) {
	defer close(u.done)
	stop := context.AfterFunc(ctx, func() { u.pipe.Close() })
	defer stop()
	err := u.receive()
	if err != nil && ctx.Err() != nil {
		err = errkind.New(errkind.Interrupted, "the client has left")
	}
	u.pipe.Close() // the client's next write fails with EPIPE
	if err != nil {
		u.err = errkind.New(errkind.KindOf(err), "cannot receive the file %s: %w", u.Name, err)
	}
}

func (u *Upload) receive() error {
	if err := faultpoint.Hit("local.receive"); err != nil {
		return err
	}
	f, err := os.OpenFile(u.path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := digest.New()
	to := io.MultiWriter(f, h)
	for total := int64(0); ; {
		if err := u.s.MayWrite(chunk); err != nil {
			return err
		}
		if err := u.pipe.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		n, err := io.CopyN(to, u.pipe, chunk)
		switch total += n; {
		case total > convert.MaxBytes:
			return errkind.New(errkind.Invalid, "it has more than %d bytes", int64(convert.MaxBytes))
		case errors.Is(err, io.EOF):
			u.hash = digest.From(h)
			return f.Close()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the client has sent nothing for %s", idle)
		case err != nil:
			return err
		}
	}
}

func (u *Upload) path() string { return filepath.Join(u.dir, u.Name) }

// Open waits for the end of Receive. It returns the copy and its digest.
func (u *Upload) Open(ctx context.Context) (*os.File, digest.Digest, error) {
	select {
	case <-u.done:
	case <-ctx.Done():
		return nil, u.hash, errkind.New(errkind.Interrupted, "cannot receive the file %s: %w", u.Name, context.Cause(ctx))
	}
	if u.err != nil {
		return nil, u.hash, u.err
	}
	f, err := os.Open(u.path())
	return f, u.hash, err
}

// Remove deletes the copy. It is called after Receive has returned.
func (u *Upload) Remove() error { return os.RemoveAll(u.dir) }
