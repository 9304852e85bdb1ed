package roots

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
)

// TestWhatIsInstalledIsProtected: of two goroutines that publish the installed revisions at
// once, the slower one does not remove the protection that the other needs.
func TestWhatIsInstalledIsProtected(t *testing.T) {
	db, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	indices := index.New()
	roots := &Roots{State: db, Indices: indices, Published: func([]string) error { return nil }}
	var all sync.WaitGroup
	for i := range byte(4) {
		all.Go(func() {
			for n := range byte(30) {
				pkg := digest.Of([]byte{i, n})
				err := db.UpdateInstance(fmt.Sprintf("a%d", i), func(r *state.Instance) error {
					r.Revisions = []state.Revision{{Number: uint32(n) + 1, Package: pkg}}
					return nil
				})
				if err == nil {
					err = roots.Publish("")
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.ContainsFunc(indices.Snapshot(), func(r index.Root) bool { return r.Index == index.InstalledIndex && r.Package == pkg }) {
					t.Errorf("got what a%d has installed unprotected, want it among the roots", i)
					return
				}
			}
		})
	}
	all.Wait()
}
