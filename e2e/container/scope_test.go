package container_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/need"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

// inside are the packages with such tests, and the tests.
var inside = []struct{ pkg, run string }{
	{"./agent/runs", "^(TestScopeOfSystemd|TestScopePlaceBySystemd)$"},
	{"./agent/services", "^(TestHooksOfSystemd)$"},
}

// TestWithSystemd runs them with the unified cgroup hierarchy alone and with
// the hybrid one.
func TestWithSystemd(t *testing.T) {
	need.Container(t)
	bin := rig.Binaries(t, "")
	dir := t.TempDir()
	for i, in := range inside {
		cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, filepath.Base(in.pkg)+".test"), inside[i].pkg)
		cmd.Dir = rig.Module()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, shape := range []struct {
		name    string
		unified bool
	}{{"unified", true}, {"hybrid", false}} {
		t.Run(shape.name, func(t *testing.T) {
			c := rig.Boot(t, shape.unified, bin+":/opt/lull", dir+":/opt/tests")
			for _, in := range inside {
				t.Run(filepath.Base(in.pkg), func(t *testing.T) {
					r := c.Service(5*time.Minute, []string{"LULL_IN_CONTAINER=1", "LULL_BIN=/opt/lull", "CI=" + os.Getenv("CI"), "HOME=/root"},
						"/opt/tests/"+filepath.Base(in.pkg)+".test", "-test.v", "-test.run="+in.run)
					passed := strings.Count(r.Stdout, "\n--- PASS: ")
					if r.Code != 0 || passed != strings.Count(in.run, "|")+1 {
						t.Errorf("%d tests passed: %v", passed, r)
					}
					t.Logf("%d tests passed in %v", passed, r.Took.Round(time.Millisecond))
				})
			}
		})
	}
}
