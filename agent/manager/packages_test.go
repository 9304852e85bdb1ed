package manager

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/e2e/need"
)

// deaf hears nothing.
type deaf struct{}

func (deaf) RefreshChanged(refresh.Refresh) {}
func (deaf) PackageChanged(string)          {}
func (deaf) SpaceChanged()                  {}
func (deaf) SystemChanged()                 {}
func (deaf) RepositoriesChanged()           {}

// TestWhatIsInstalledIsProtected: of two that tell at once what is installed,
// the one who is slower does not take away the protection that the other needs.
func TestWhatIsInstalledIsProtected(t *testing.T) {
	need.Unified(t)
	need.Lock(t, "subtree")
	dir, run := t.TempDir(), t.TempDir()
	ctl, err := runctl.Create(run)
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := runs.Choose(runs.Options{RunDir: run, Want: "subtree", Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	m, err := New(Config{Root: dir, Conf: t.TempDir(), RunDir: run, Launcher: "/bin/true", Runctl: ctl, Tracker: tracker, Log: slog.Default()}, deaf{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var all sync.WaitGroup
	for i := range byte(4) {
		all.Go(func() {
			for n := range byte(30) {
				pkg := digest.Of([]byte{i, n})
				err := m.state.UpdateInstance(fmt.Sprintf("a%d", i), func(r *state.Instance) error {
					r.Revisions = []state.Revision{{Number: uint32(n) + 1, Package: pkg}}
					return nil
				})
				if err == nil {
					err = m.publishInstalled()
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.ContainsFunc(m.indices.Snapshot(), func(r index.Root) bool { return r.Index == index.InstalledIndex && r.Package == pkg }) {
					t.Errorf("what a%d has installed is not protected", i)
					return
				}
			}
		})
	}
	all.Wait()
}
