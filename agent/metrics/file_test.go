package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
)

func TestReplace(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "lull.prom")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func() error{
		"nothing is there":     func() error { return nil },
		"an old one is there":  func() error { return os.WriteFile(path, []byte("old and longer"), 0o600) },
		"a link is there":      func() error { return os.Symlink(elsewhere, path) },
		"a crash left one":     func() error { return os.WriteFile(filepath.Join(dir, tempName("lull.prom")), []byte("half"), 0o600) },
		"a link is in its way": func() error { return os.Symlink(elsewhere, filepath.Join(dir, tempName("lull.prom"))) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := prepare(); err != nil {
				t.Fatal(err)
			}
			if err := Replace(path, []byte("new")); err != nil {
				t.Fatal(err)
			}
			st, err := os.Lstat(path)
			if err != nil || st.Mode() != 0o644 {
				t.Errorf("it is %v, want 0o644, %v", st.Mode(), err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "new" {
				t.Errorf("%q, %v; want no error and content %q", b, err, "new")
			}
			if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "mine" {
				t.Errorf("behind the link: %q, %v; want no error and content %q", b, err, "mine")
			}
			if err := Remove(path); err != nil {
				t.Error(err)
			}
			if err := Remove(path); err != nil {
				t.Errorf("again: %v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("got %v left (%v), want nothing", left, err)
			}
		})
	}
}

func TestBadPlaces(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "real"), 0o755), os.Symlink("real", filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "real", "folder.prom"), 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"link/lull.prom":   "a symbolic link is on the way to it",
		"no/lull.prom":     "no such file or directory",
		"file/lull.prom":   "not a directory",
		"real/folder.prom": "is a directory",
	} {
		err := Replace(filepath.Join(dir, path), []byte("new"))
		if err == nil || !strings.HasPrefix(err.Error(), "cannot write the metrics in "+filepath.Join(dir, path)+": ") ||
			!strings.Contains(err.Error(), want) || errkind.HintOf(err) == "" {
			t.Errorf("%s: got %v (hint %q), want \"cannot write the metrics in …: \" with %q and a hint", path, err, errkind.HintOf(err), want)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "real")); err != nil || len(left) != 1 {
		t.Errorf("got %v (%v), want folder.prom alone", left, err)
	}
}

// TestReadersSeeWholeFiles: during any number of replacements, a reader finds one text from
// its beginning to its end.
func TestReadersSeeWholeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lull.prom")
	texts := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)}
	if err := Replace(path, texts[0]); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, texts[0]) && !bytes.Equal(b, texts[1]) {
					t.Errorf("got %d bytes (%v), want one of the two whole texts", len(b), err)
					return
				}
			}
		})
	}
	for i := range 300 {
		if err := Replace(path, texts[i%2]); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}
