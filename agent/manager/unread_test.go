package manager

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/repo/publish"
)

// TestRetryAfterAnyFailure: a check that failed because a repository could not be trusted is
// retried in minutes too, and a successful one ends that.
func TestRetryAfterAnyFailure(t *testing.T) {
	m := newManager(t)
	dir := newRepository(t, publish.Options{}, "believed 1")
	m.mustAdd(t, "one", dir, dir)
	stamp := filepath.Join(dir, "metadata", "timestamp.json")
	good, err := os.ReadFile(stamp)
	if err != nil {
		t.Fatal(err)
	}
	write(t, stamp, "{}")
	if _, err := m.requests.Check(t.Context(), nil, offers.Mode{}); !errkind.Is(err, errkind.Untrusted) {
		t.Fatalf("the look ends with %v; want an error of kind %v", err, errkind.Untrusted)
	}
	if unreachable, _ := m.repos.Unreachable(); unreachable {
		t.Error("the network is blamed")
	}
	if failed, wait := m.repos.Unread(); !failed || wait != 0 {
		t.Errorf("Unread: got %v and a wait of %v, want true and none", failed, wait)
	}
	write(t, stamp, string(good))
	if _, err := m.requests.Check(t.Context(), nil, offers.Mode{}); err != nil {
		t.Fatal(err)
	}
	if failed, _ := m.repos.Unread(); failed {
		t.Error("it counts as failed after a good look")
	}
}
