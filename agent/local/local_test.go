package local_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/local"
)

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		v, than string
		want    bool
	}{
		{"1.0", "2.0", true}, {"2.0", "1.0", false}, {"1.0", "1.0", false}, {"1.9", "1.10", true}, {"1:1.0", "2.0", false},
		{"1.0~rc1", "1.0", true}, {"1.0-1", "1.0-2", true}, {"v1.0", "v1.1", true}, {"nightly", "nightly", false},
		{"2026-11-28", "2026-11-29", true}, {"", "1", true},
	} {
		if got := local.Older(c.v, c.than); got != c.want {
			t.Errorf("%q is older than %q: %v, want %v", c.v, c.than, got, c.want)
		}
	}
}

// TestUpload: the content is the client's output until it closed its end. A full disk ends
// the upload, and the client's writes fail then.
func TestUpload(t *testing.T) {
	s := &local.Store{Root: t.TempDir(), MayWrite: func(int64) error { return nil }}
	u, client, err := s.NewUpload("a.zip")
	if err != nil {
		t.Fatal(err)
	}
	go u.Receive(t.Context())
	if _, err := client.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	client.Close()
	f, _, err := u.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "content" || filepath.Base(f.Name()) != "a.zip" {
		t.Errorf("got file %s with %q (%v), want a.zip with \"content\"", f.Name(), b, err)
	}
	s.MayWrite = func(int64) error { return errkind.New(errkind.NoSpace, "the disk is full") }
	full, client, err := s.NewUpload("b.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	go full.Receive(t.Context())
	if _, _, err := full.Open(t.Context()); !errkind.Is(err, errkind.NoSpace) || err.Error() != "cannot receive the file b.zip: the disk is full" {
		t.Errorf("a full disk: got %v, want an error of kind %v and error %q", err, errkind.NoSpace, "cannot receive the file b.zip: the disk is full")
	}
	if _, err := client.WriteString("more"); err == nil {
		t.Error("a write after that succeeds")
	}
	if err := u.Remove(); err != nil {
		t.Error(err)
	}
	if err := s.Tidy(); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(s.Root); err != nil || len(list) != 0 {
		t.Errorf("got %v left (%v), want nothing", list, err)
	}
}
