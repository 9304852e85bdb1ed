package repo

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// Files reads the files of a server or directory that is not a repository of lull's, with the
// same bounds and retries. Paths are slash-separated and relative to its address. It may be
// used from any goroutine.
type Files struct {
	src source
	url string
}

// OpenFiles prepares to read files at an address like that of a Config, with its limit and
// proxy. Kind Invalid: it is not an address.
func OpenFiles(address string, network Network) (*Files, error) {
	src, err := newSource(Config{URL: address, Limit: network.Limit, Proxy: network.Proxy}, defaultBackoff)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use the url %.200q: %w", shown(address), err)
	}
	return &Files{src, shown(address)}, nil
}

// Close ends idle connections.
func (f *Files) Close() {
	if w, ok := f.src.(*web); ok {
		w.client.CloseIdleConnections()
	}
}

// escaped returns a path in the form of a request, so that a server receives '%' and '+'
// literally.
func (f *Files) escaped(path string) string {
	if f.src.dir() != "" {
		return path
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// Get returns a file of at most limit bytes. If the server still has the file of the tag,
// changed is false. newTag is "" where there are no tags. Kind NotFound: there is no such
// file; Untrusted: it is larger; Unavailable: it cannot be read.
func (f *Files) Get(ctx context.Context, path string, limit int64, tag string) (data []byte, newTag string, changed bool, err error) {
	data, newTag, err = f.src.getIfChanged(ctx, f.escaped(path), limit, tag)
	if err == errUnchanged {
		return nil, tag, false, nil
	}
	return data, newTag, true, f.failed(path, err)
}

// Open returns a file from a byte onwards. Transient failures are retried. Kinds as for Get.
func (f *Files) Open(ctx context.Context, path string, from int64) (io.ReadCloser, error) {
	r, err := f.src.open(ctx, f.escaped(path), from)
	return r, f.failed(path, err)
}

func (f *Files) failed(path string, err error) error {
	kind := errkind.Unavailable
	var large tooLarge
	switch {
	case err == nil:
		return nil
	case err == errMissing:
		kind = errkind.NotFound
	case errors.As(err, &large):
		kind = errkind.Untrusted
	case errors.Is(err, context.Canceled):
		kind = errkind.Interrupted
	}
	return errkind.New(kind, "cannot read %s at %s: %w", path, f.url, err)
}
