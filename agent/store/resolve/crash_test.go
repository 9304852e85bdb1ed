package resolve_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// TestCrash lets the process die at every fault point between a first resolve
// and the end of a collection. The remains must be whole: every blob has the
// hash of its name, every tree has all of its files and subpackages. The next
// process succeeds, and leaves nothing behind.
func TestCrash(t *testing.T) { testCrash(t, false) }

// TestCrashDelta is TestCrash with a pack that makes the second package: also between its
// fetch, each file that is made from it, and its removal.
func TestCrashDelta(t *testing.T) { testCrash(t, true) }

func testCrash(t *testing.T, packed bool) {
	require.NotShort(t) // what dies is another program
	dir := memory(t)
	crasher := filepath.Join(dir, "crasher")
	build := exec.Command(require.Program(t, "go"), "build", "-tags", "faultpoint", "-o", crasher, "./testdata/crasher")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := storetest.New()
	runtime := r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"libc": "libc"}})
	subs := map[string]digest.Digest{"rt": runtime}
	one := r.Package(t, storetest.Spec{Name: "app", Subs: subs, Files: map[string]string{"bin/a*": "one", "same": "same"}})
	two := r.Package(t, storetest.Spec{Name: "app", Version: "2", Subs: subs, Files: map[string]string{"bin/a*": "two", "same": "same"}})
	blobs := filepath.Join(dir, "blobs")
	if err := os.Mkdir(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{runtime, one, two, digest.Of([]byte("libc")), digest.Of([]byte("one")), digest.Of([]byte("two")), digest.Of([]byte("same"))} {
		if err := os.WriteFile(filepath.Join(blobs, d.String()), r.Content(d), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if packed {
		o := r.Delta(t, one, two)
		data, err := json.Marshal([]delta.Offer{o})
		err = errors.Join(err, os.WriteFile(filepath.Join(blobs, o.Pack.String()), r.Content(o.Pack), 0o644),
			os.WriteFile(filepath.Join(blobs, two.String()+".offers"), data, 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(root string, env ...string) error {
		c := exec.Command(crasher, root, blobs, one.String(), two.String())
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}

	list := filepath.Join(dir, "list")
	if err := run(filepath.Join(dir, "root"), "LULL_FAULT_LIST="+list); err != nil {
		t.Fatal(err)
	}
	passed, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	points := 0
	for point := range strings.Lines(string(passed)) {
		point = strings.TrimSpace(point)
		count[point]++
		points++
		for _, action := range []string{"kill", "enospc"} {
			fault := fmt.Sprintf("%s#%d:%s", point, count[point], action)
			root := filepath.Join(dir, fault)
			err := run(root, "LULL_FAULT="+fault)
			var exit *exec.ExitError
			if action == "kill" && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
				t.Errorf("%s: got %v, want the process killed", fault, err)
			}
			whole(t, fault, root)
			if err := run(root); err != nil {
				t.Errorf("after %s: %v", fault, err)
			}
			s, err := store.Open(root)
			if err != nil {
				t.Fatal(err)
			}
			storetest.Clean(t, s)
			if want := []digest.Digest{runtime, two}; len(s.Packages()) != 2 || !slices.Contains(s.Packages(), two) || len(storetest.Keys(t, s)) != 5 {
				t.Errorf("after %s: packages %v, want %v", fault, s.Packages(), want)
			}
			if t.Failed() {
				t.Fatalf("it died at %s", fault)
			}
			os.RemoveAll(root)
		}
	}
	if points < 30 {
		t.Errorf("passed %d fault points, want at least 30: %v", points, count)
	}
	if fetched, decoded := count["resolve.delta.fetched"], count["resolve.delta.decoded"]; packed != (fetched > 0 && decoded > 0) {
		t.Errorf("a pack was fetched %d times and decoded %d times, want both at least once: %v", fetched, decoded, packed)
	}
	t.Logf("%d points", points)
}

// whole checks the remains of a dead process, before any cleanup.
func whole(t *testing.T, fault, root string) {
	t.Helper()
	trees, _ := filepath.Glob(filepath.Join(root, "packages", "[0-9a-f]*"))
	for _, tree := range trees {
		missing, err := filepath.Glob(filepath.Join(tree, ".lull", "sub", "*"))
		if err != nil {
			t.Error(err)
		}
		for _, sub := range missing {
			if _, err := os.Stat(sub); err != nil {
				t.Errorf("%s: a subpackage is missing: %v", fault, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(root, "blobs")); err != nil {
		return // it did not come so far
	}
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	findings, _, err := s.Verify(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Errorf("%s: %s %s", fault, f.What, f.Problem)
	}
	for _, pkg := range s.Packages() {
		if missing, err := s.Missing(pkg); err != nil || len(missing) > 0 {
			t.Errorf("%s: of %s is missing %v (%v, %s)", fault, pkg.Short(), missing, err, errkind.KindOf(err))
		}
	}
}
