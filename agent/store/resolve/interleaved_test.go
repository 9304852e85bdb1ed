package resolve_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// TestInterleaved runs a collection at each passage of a fault point, and
// between any two changes of the indices: content that an index holds and that
// was whole is whole after it, and a resolve under way succeeds.
func TestInterleaved(t *testing.T) {
	dir := memory(t)
	program := filepath.Join(dir, "interleaver")
	build := exec.Command(require.Program(t, "go"), "build", "-tags", "faultpoint", "-o", program, "./testdata/interleaver")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := storetest.New()
	runtime := r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"libc": "libc"}})
	subs := map[string]digest.Digest{"rt": runtime}
	pkgs := []digest.Digest{runtime,
		r.Package(t, storetest.Spec{Name: "app", Subs: subs, Files: map[string]string{"bin/a*": "one", "same": "same"}}),
		r.Package(t, storetest.Spec{Name: "app", Version: "2", Subs: subs, Files: map[string]string{"bin/a*": "two", "same": "same"}}),
		r.Package(t, storetest.Spec{Name: "once", Subs: subs, Files: map[string]string{"bin/a*": "one", "other": "other"}})}
	blobs := filepath.Join(dir, "blobs")
	if err := os.Mkdir(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{filepath.Join(dir, "roots"), blobs}
	for _, pkg := range pkgs {
		args = append(args, pkg.String())
	}
	for _, d := range append(pkgs, digest.Of([]byte("libc")), digest.Of([]byte("one")), digest.Of([]byte("two")), digest.Of([]byte("same")), digest.Of([]byte("other"))) {
		if err := os.WriteFile(filepath.Join(blobs, d.String()), r.Content(d), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || n < 60 {
		t.Errorf("got %s passages (%v), want a number of at least 60", out, err)
	}
	t.Logf("%d passages", n)
}
