package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// bytesRead returns how many bytes this process has read.
func bytesRead(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		require.Missing(t, "there is no /proc/self/io")
	}
	if _, err := fmt.Sscanf(string(b), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestResumeReadsOnce: a blob that is continued in the same process is not read, and after a
// restart once.
func TestResumeReadsOnce(t *testing.T) {
	const most = 1 << 20 // bytes that other work may read
	s := storetest.Open(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	half := len(content) / 2
	k := store.Key{Digest: digest.Of(content)}
	pkg := digest.Of([]byte("pkg"))
	i, err := s.Ingest(pkg)
	if err != nil {
		t.Fatal(err)
	}
	write := func(from, to int) error {
		t.Helper()
		w, err := i.Create(k, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		if w.Offset() != int64(from) {
			t.Errorf("it continues at %d, want %d", w.Offset(), from)
		}
		_, err = w.Write(content[from:to])
		return errors.Join(err, w.Close())
	}
	if err := write(0, half); !errkind.Is(err, errkind.Unavailable) {
		t.Fatalf("a half of a blob: %v, want an error of kind %s", err, errkind.Unavailable)
	}
	before := bytesRead(t)
	if err := write(half, half+1); !errkind.Is(err, errkind.Unavailable) {
		t.Fatalf("a half of a blob and a byte: %v, want an error of kind %s", err, errkind.Unavailable)
	}
	if n := bytesRead(t) - before; n > most {
		t.Errorf("in the same process it read %d bytes, want none of the blob", n)
	}

	s, err = store.Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	before = bytesRead(t)
	if i, err = s.Ingest(pkg); err != nil {
		t.Fatal(err)
	}
	if err := write(half+1, len(content)); err != nil {
		t.Fatal(err)
	}
	if n := bytesRead(t) - before; n < int64(half) || n > int64(half)+most {
		t.Errorf("after a restart it read %d bytes, want the %d that were there once", n, half+1)
	}
	if !i.Has(k) {
		t.Error("the blob is not whole")
	}
	if err := i.Abort(); err != nil {
		t.Fatal(err)
	}
}
