package fulldisk_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// server is a repository behind a web server that calls before once it is asked for a blob.
type server struct {
	files http.Handler

	mu     sync.Mutex
	before func()
	blobs  int // requests
}

func (v *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/blobs/") {
		v.mu.Lock()
		v.blobs++
		if v.before != nil {
			v.before()
			v.before = nil
		}
		v.mu.Unlock()
	}
	v.files.ServeHTTP(w, r)
}

// TestDeltaOnFullDisk: the disk becomes full after a pack was admitted, so that its decoding
// fails in the middle of a file. The old version stays, whole, and the error is that there is
// no space. With space, the refresh can be done.
func TestDeltaOnFullDisk(t *testing.T) {
	s := set(t, 64*mib, 0)
	const name = "org.lull.one"
	write := func(version string) string {
		dir := s.Path("source-" + version)
		weight := make([]byte, 16*mib)
		rand.NewChaCha8([32]byte{}).Read(weight)
		copy(weight[8*mib:], version)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "weight"), weight, 0o644),
			os.WriteFile(filepath.Join(dir, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\n", name, version), 0o644)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	version := func() string {
		b, err := os.ReadFile(filepath.Join(s.Store, "current", name, "weight"))
		if err != nil || len(b) != 16*mib {
			t.Fatalf("%s is not whole: %d bytes, %v", name, len(b), err)
		}
		return string(b[8*mib : 8*mib+1])
	}
	v := &server{files: http.FileServer(http.Dir(s.Repo))}
	web := httptest.NewServer(v)
	t.Cleanup(web.Close)
	s.MustLull("publish", "--repo", s.Repo, write("1"))
	s.MustLull("repo", "add", "web", web.URL, "--trust", filepath.Join(s.Repo, "root.json"))
	s.MustLull("install", name)
	if r := s.MustLull("publish", "--repo", s.Repo, write("2")); !strings.Contains(r.Stdout, "delta from package") {
		t.Fatalf("there is no delta: %v", r)
	}

	filling := filepath.Join(s.Store, "filling")
	v.mu.Lock()
	v.blobs = 0
	v.before = func() { // room for the pack and half of the file
		s.fill()
		if fi, err := os.Stat(filling); err != nil || os.Truncate(filling, fi.Size()-8*mib) != nil {
			t.Errorf("cannot free space: %v", err)
		}
	}
	v.mu.Unlock()
	r := s.Lull("refresh", name)
	if r.Code != 73 {
		t.Errorf("a full disk is not named: %v", r)
	}
	if got := version(); got != "1" {
		t.Errorf("it has version %s, want 1", got)
	}
	if v.blobs == 0 {
		t.Error("no pack was fetched")
	}
	s.MustLull("verify")
	if err := os.Remove(filling); err != nil {
		t.Fatal(err)
	}
	s.MustLull("refresh", name)
	if got := version(); got != "2" {
		t.Errorf("it has version %s, want 2", got)
	}
	s.MustLull("verify")
	if left, _ := filepath.Glob(filepath.Join(s.Store, "tmp", "*")); len(left) > 0 {
		t.Errorf("left in tmp: %q", left)
	}
}
