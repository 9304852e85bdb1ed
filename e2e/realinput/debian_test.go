package realinput_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// debs downloads a Debian package in its two newest versions, older first, and
// returns the versions and the files. They are kept in the cache directory of
// the user who runs the tests.
func debs(t *testing.T, name string) (versions, files [2]string) {
	t.Helper()
	require.Program(t, "apt-get", "apt-cache", "dpkg", "dpkg-deb")
	found := known(t, name)
	if len(found) < 2 && os.Getuid() == 0 {
		output(t, "", "apt-get", "update", "-qq")
		found = known(t, name)
	}
	if len(found) < 2 {
		require.Missing(t, "needs %s in two versions; the Debian archive has %q", name, found)
	}
	for i, version := range found[len(found)-2:] {
		versions[i], files[i] = version, cached(t, name, version)
	}
	return versions, files
}

// cached downloads a version of a Debian package, unless it is in the cache.
func cached(t *testing.T, name, version string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "lull", "debs")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cache, name+"_"+version+".deb")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	dir := t.TempDir()
	output(t, dir, "apt-get", "download", "-q", name+"="+version)
	got, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(got) != 1 {
		t.Fatalf("apt-get download left %q (%v)", got, err)
	}
	output(t, "", "cp", got[0], file+".partial")
	if err := os.Rename(file+".partial", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// known lists the versions that apt offers, oldest first.
func known(t *testing.T, name string) []string {
	t.Helper()
	var versions []string
	for line := range strings.Lines(output(t, "", "apt-cache", "madison", name)) {
		if f := strings.Split(line, "|"); len(f) == 3 && !slices.Contains(versions, strings.TrimSpace(f[1])) {
			versions = append(versions, strings.TrimSpace(f[1]))
		}
	}
	slices.SortFunc(versions, func(a, b string) int {
		if exec.Command("dpkg", "--compare-versions", a, "lt", b).Run() == nil {
			return -1
		}
		return 1
	})
	return versions
}

func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// unpack extracts a package and makes its symlinks relative, so that it works
// from any directory; those to other packages are removed.
func unpack(t *testing.T, deb, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "", "dpkg-deb", "--extract", deb, dir)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return err
		}
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		inside := filepath.Join(filepath.Dir(path), target)
		if filepath.IsAbs(target) {
			inside = filepath.Join(dir, target)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		if _, err := os.Lstat(inside); err != nil || !strings.HasPrefix(inside, dir+"/") {
			return nil
		}
		rel, err := filepath.Rel(filepath.Dir(path), inside)
		if err != nil {
			return err
		}
		return os.Symlink(rel, path)
	})
	if err != nil {
		t.Fatal(err)
	}
}
