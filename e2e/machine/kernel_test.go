package machine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// These are tests of package vacancy that need nothing but a kernel and a file system,
// which is that of the temporary directory: the ones whose answer is up to the file
// system, and those that the kernel alone decides.
const (
	onFileSystem = `^TestHoldersAreSeen$/^here$|^(TestThroughOverlay|TestSealKeepsOut)$`
	onKernel     = onFileSystem + `|^TestHoldersAreSeen$/^(tmpfs|overlay)$|^TestScanNamesHolders$/^(here|overlay)$|^(TestForcedBreak|TestRefused|TestHidepid)$`
)

// TestVacancyOnKernels runs them on the kernels of both suites, with ext4, XFS, btrfs,
// tmpfs and overlays. Each of the four machines takes less than half a minute of a processor.
func TestVacancyOnKernels(t *testing.T) {
	require.QEMU(t)
	require.Program(t, "mkfs.xfs", "mkfs.btrfs")
	require.NotShort(t)
	t.Parallel()
	const inside = "/opt/vacancy.test"
	program := filepath.Join(t.TempDir(), "vacancy.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "./agent/vacancy")
	build.Dir, build.Env = rig.Module(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range []suite.Suite{suite.Bookworm, suite.Trixie} {
		t.Run(string(s), func(t *testing.T) {
			for _, data := range []string{"xfs", "btrfs"} {
				vm := rig.StartVM(t, rig.VMOptions{Suite: s, Minimal: true, Data: data, Files: map[string]string{inside: program}})
				kernel := strings.TrimSpace(vm.Must("uname", "-r").Stdout)
				run := func(fs, dir, tests string) {
					t.Helper()
					began := time.Now()
					// CI: what the machine lacks is a failure.
					r := vm.RunWithin(limit, "env", "CI=true", "TMPDIR="+dir, inside, "-test.v", "-test.timeout=0", "-test.run="+tests)
					skipped := slices.DeleteFunc(strings.Split(r.Stdout, "\n"), func(l string) bool {
						return !strings.HasPrefix(strings.TrimSpace(l), "--- SKIP") || strings.Contains(l, "overlay/O_PATH")
					})
					if r.Code != 0 || len(skipped) > 0 || strings.Count(r.Stdout, "--- PASS: TestHoldersAreSeen/here/") != 9 {
						t.Errorf("on Linux %s and %s: %v", kernel, fs, r)
					}
					t.Logf("Linux %s, %s: %d passed in %v", kernel, fs, strings.Count(r.Stdout, "--- PASS: "), time.Since(began).Round(time.Second))
				}
				run(data, "/var/lib/lull", onFileSystem)
				if data == "xfs" {
					vm.Must("sh", "-c", "mkdir -p /root/tests && grep -q ' / ext4 ' /proc/mounts")
					run("ext4", "/root/tests", onKernel)
				}
				vm.Poweroff()
			}
		})
	}
}
