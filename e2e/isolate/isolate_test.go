package isolate_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/isolate"
	"github.com/lull/lull/e2e/require"
)

// TestMain plays a package that has shards, or whose tests leave a process, on request.
func TestMain(m *testing.M) {
	if os.Getenv("LULL_TEST_SHARDS") != "" {
		os.Exit(isolate.Shards(3, func() int {
			i, n := isolate.Shard()
			fmt.Printf("%d of %d\n", i, n)
			return i
		}))
	}
	if os.Getenv("LULL_TEST_LEAVES") == "" {
		os.Exit(m.Run())
	}
	os.Exit(isolate.Main(isolate.All, func() int {
		b, err := os.ReadFile("/proc/self/cgroup")
		fmt.Printf("%s%v\n", b, err)
		top := os.Getenv("LULL_TEST_LEAVES")
		if err := os.Mkdir(filepath.Join(top, "lull"), 0o755); err != nil {
			fmt.Println(err)
			return 3
		}
		cmd := exec.Command("sleep", "10000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 3
		}
		if err := os.WriteFile(filepath.Join(top, "lull/cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
			fmt.Println(err)
			return 3
		}
		fmt.Println("left", cmd.Process.Pid)
		return 0
	}))
}

// TestLeft: the tests have the root of a hierarchy, which is invisible
// outside; a process that they leave fails them, and it and its cgroup are
// gone.
func TestLeft(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd manages the cgroups of this machine: packages take turns")
	}
	top := require.Unified(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LULL_TEST_LEAVES="+top)
	b, err := cmd.CombinedOutput()
	out := string(b)
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, "0::/\n") || !strings.Contains(out, "the tests have left process ") || !strings.Contains(out, ": sleep 10000") {
		t.Errorf("tests that leave a process: got %v, want exit status 1, the root cgroup, and sleep 10000 named as left:\n%s", err, out)
	}
	_, pid, _ := strings.Cut(out, "\nleft ")
	pid, _, _ = strings.Cut(pid, "\n")
	if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); pid == "" || err == nil && strings.HasPrefix(string(b), "sleep") {
		t.Errorf("process %q is still there: %q", pid, b)
	}
	if left, _ := filepath.Glob(filepath.Join(top, "lull-test-"+fmt.Sprint(cmd.Process.Pid))); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// TestShards: each process runs once, and one that fails fails the package.
func TestShards(t *testing.T) {
	require.Root(t)
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd manages the cgroups of this machine: packages take turns")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LULL_TEST_SHARDS=yes")
	out, err := cmd.CombinedOutput()
	lines := strings.Fields(strings.ReplaceAll(string(out), " of ", "/"))
	slices.Sort(lines)
	if want := []string{"0/3", "1/3", "2/3"}; !slices.Equal(lines, want) || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("they print %q and end with %v; want %q and exit status 2", lines, err, want)
	}
}
