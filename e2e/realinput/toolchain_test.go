package realinput_test

import (
	"cmp"
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const toolchain = "org.golang.go"

// TestToolchain publishes, installs, runs, verifies and collects the Go
// toolchain.
func TestToolchain(t *testing.T) {
	require.Root(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "cc", "cp")
	require.Lock(t, "freezer")
	goroot := strings.TrimSpace(output(t, "", "go", "env", "GOROOT"))

	w := rig.New(t, rig.Options{})
	w.Configure("policy.yaml", policy)
	w.StartAgent()
	src := w.Path("src")
	output(t, "", "cp", "-a", "--reflink=auto", goroot, src)
	yaml := "name: " + toolchain + "\nversion: \"" + strings.TrimPrefix(runtime.Version(), "go") +
		"\"\nsummary: The Go toolchain\napps:\n  - {name: go, command: [bin/go]}\n"
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	w.MustLull("repo", "init", w.Repo)
	step := func(limit time.Duration, args ...string) rig.Result {
		t.Helper()
		r := w.Admin.RunWithin(limit, "lull", args...)
		t.Logf("%6.2fs %v", r.Took.Seconds(), r)
		if r.Code != 0 {
			t.FailNow()
		}
		return r
	}
	// Go's own tests have keys that are no secrets.
	step(10*time.Minute, "publish", "--repo", w.Repo, src,
		"--allow-key", "src/crypto/tls/testdata/example-key.pem", "--allow-key", "src/crypto/x509/platform_root_key.pem")
	step(time.Minute, "repo", "add", "local", w.Repo)
	step(10*time.Minute, "install", toolchain)
	installed, err := filepath.EvalSymlinks(filepath.Join(w.Store, "current", toolchain))
	if err != nil {
		t.Fatal(err)
	}
	same(t, goroot, installed)
	if r := w.User.Lull("run", toolchain, "version"); r.Code != 0 || !strings.Contains(r.Stdout, runtime.Version()) {
		t.Errorf("it does not run: %v", r)
	}
	step(5*time.Minute, "verify")
	step(time.Minute, "gc")
	same(t, goroot, installed)

	step(time.Minute, "remove", toolchain)
	dry := step(time.Minute, "--json", "gc", "--dry-run").Stdout
	if n := strings.Count(dry, `"hash"`); n < 5000 {
		t.Errorf("the plan names %d blobs, want at least 5000", n)
	}
	step(time.Minute, "gc")
	for _, dir := range []string{"blobs", "packages", "trash", "tmp"} {
		left := 0
		filepath.WalkDir(filepath.Join(w.Store, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				left++
			}
			return nil
		})
		if left > 0 {
			t.Errorf("%d files are left in %s", left, dir)
		}
	}
}

// same checks that all files of one tree are in the other, with their content
// and their execute bits.
func same(t *testing.T, want, got string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(want, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		other := filepath.Join(got, strings.TrimPrefix(path, want))
		if d.Type() == fs.ModeSymlink {
			a, err1 := os.Readlink(path)
			b, err2 := os.Readlink(other)
			if err1 != nil || err2 != nil || a != b {
				t.Errorf("%s leads to %q, want %q", other, b, a)
			}
			return nil
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(other)
		if err != nil {
			t.Error(err)
			return nil
		}
		if sha256.Sum256(a) != sha256.Sum256(b) {
			t.Errorf("%s has %d bytes with another content, want the %d bytes of %s", other, len(b), len(a), path)
		}
		st1, err1 := os.Stat(path)
		st2, err2 := os.Stat(other)
		if err := cmp.Or(err1, err2); err != nil {
			t.Error(err)
		} else if st1.Mode()&0o100 != st2.Mode()&0o100 {
			t.Errorf("%s has mode %v, want the owner's x bit of %v", other, st2.Mode(), st1.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files are the same", files)
}
