package publish

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
)

// heap returns the bytes that are in use.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // finalizers free more
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// kept returns the bytes that a machine keeps of a repository of many packages, of which 20 are
// installed.
func kept(t *testing.T, packages int) int64 {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	c := Common{}
	if err := Init(t.Context(), dir, InitOptions{Common: c}); err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return fmt.Sprintf("org.example.package%06d", i) }
	err := c.transact(t.Context(), dir, false, func(s *state) error {
		for i := range packages {
			offer := repo.Offer{Pointer: repo.Pointer{Name: name(i), Channel: "stable", Package: digest.Of([]byte(name(i))), Version: "1.0",
				Urgency: repo.UrgencyMedium, Published: s.now, Size: 12_345_678, Notes: "Faster, and prettier.", Rollout: repo.Rollout{Percent: 100}}}
			if i < 20 {
				if err := s.writeOffers(repo.Offers{offer}); err != nil {
					return err
				}
				continue
			}
			target := metadata.TargetFile()
			target.Hashes["sha256"] = make([]byte, digest.Size)
			s.targets.Signed.Targets[repo.PointerPath(name(i), "stable")] = target
		}
		if err := s.divide(packages, nil, nil); err != nil {
			return err
		}
		if err := s.redistribute(); err != nil {
			return err
		}
		return s.writeAll()
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	before := heap()
	client, err := repo.Open(repo.Config{Name: "main", URL: dir, Root: root}, state)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range min(20, packages) {
		if _, err := client.Offers(t.Context(), name(i), "stable"); err != nil {
			t.Fatal(err)
		}
	}
	n := heap() - before
	runtime.KeepAlive(client)
	return n
}

// TestKeptByAMachine: a machine keeps at most 0.5 MiB of a repository of 10,000 packages, half
// of the goal.
func TestKeptByAMachine(t *testing.T) {
	kept(t, 0) // what is made once
	empty, large := kept(t, 0), kept(t, 10_000)
	t.Logf("%d bytes of 10,000 packages, %d of none", large, empty)
	if most := int64(1 << 19); large-empty > most || large <= empty {
		t.Errorf("%d bytes are kept of 10,000 packages, %d of none: want a difference of at most %d", large, empty, most)
	}
}
