package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// ReleaseAgent returns the path of a lull-release-agent for tests: that in
// $LULL_BIN, else one that the C compiler makes.
func ReleaseAgent(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("LULL_BIN"); dir != "" {
		if path := filepath.Join(dir, "lull-release-agent"); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	require.Program(t, "cc")
	_, self, _, _ := runtime.Caller(0)
	out := filepath.Join(t.TempDir(), "lull-release-agent")
	build := filepath.Join(filepath.Dir(self), "..", "..", "..", "cmd", "lull-release-agent", "build.sh")
	if text, err := exec.Command("sh", build, out).CombinedOutput(); err != nil {
		t.Fatalf("cannot build the release agent: %v\n%s", err, text)
	}
	return out
}
