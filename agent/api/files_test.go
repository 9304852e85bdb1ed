package api

import (
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/local"
)

// TestMaxUploads: the files that a user has sent are bounded, and do not count for others.
func TestMaxUploads(t *testing.T) {
	x := uploads{list: map[string]*upload{}}
	send := func(uid uint32) (string, error) {
		return x.add(&upload{Upload: &local.Upload{Name: "lib.deb"}, owner: ":1.2", of: uid})
	}
	var first string
	for i := range maxUploads {
		id, err := send(1000)
		if err != nil {
			t.Fatalf("file %d: got %v, want no error", i+1, err)
		}
		if i == 0 {
			first = id
		}
	}
	if _, err := send(1000); !errkind.Is(err, errkind.LimitsExceeded) {
		t.Errorf("one file more: got %v, want %v", err, errkind.LimitsExceeded)
	}
	if _, err := send(1001); err != nil {
		t.Errorf("a file of another user: got %v, want no error", err)
	}
	x.drop(first)
	if _, err := send(1000); err != nil {
		t.Errorf("after one is gone: got %v, want no error", err)
	}
}
