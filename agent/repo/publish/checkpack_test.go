package publish

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
)

// TestPackIsChecked: a pack that does not make its files is found before it is offered.
func TestPackIsChecked(t *testing.T) {
	dir := t.TempDir()
	put := func(b []byte) delta.File {
		t.Helper()
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		f := delta.File{Digest: digest.Of(b), Size: int64(len(b))}
		path := filepath.Join(dir, repo.BlobPath(f.Digest))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, enc.EncodeAll(b, nil), 0o644)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	text := bytes.Repeat([]byte("some old text, "), 1000)
	old, other := put(text), put(append([]byte("more "), text...))
	m := &deltaMaker{ctx: t.Context(), store: newDirectory(dir)}
	encode := func(open func(delta.File) (io.ReadCloser, error)) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := delta.Encode(t.Context(), &b, []delta.Pair{{New: other, Old: &old}}, open); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	pack := encode(m.openFile)
	if err := m.check(bytes.NewReader(pack), int64(len(pack))); err != nil {
		t.Errorf("a good pack: %v", err)
	}
	path := filepath.Join(dir, repo.BlobPath(old.Digest))
	wrong := append([]byte("another "), text...)
	enc, err := zstd.NewWriter(nil)
	if err == nil {
		err = os.WriteFile(path, enc.EncodeAll(wrong[:len(text)], nil), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.check(bytes.NewReader(pack), int64(len(pack))); !errors.Is(err, errWrongPack) {
		t.Errorf("a pack that makes another file: got %v, want the error %v", err, errWrongPack)
	}
	if err := m.check(bytes.NewReader(pack[:20]), 20); !errors.Is(err, delta.ErrMalformed) {
		t.Errorf("a pack that is cut: got %v, want the error %v", err, delta.ErrMalformed)
	}
}
