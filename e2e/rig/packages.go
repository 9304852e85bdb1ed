package rig

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Deb makes lull's Debian package of a version, as the Makefile does, and returns
// its path; "" is the version that the Makefile names. Programs of another version
// are linked anew.
func Deb(tb TB, version string) string {
	tb.Helper()
	dir := packagesDir(tb)
	if version == "" {
		return onePackage(tb, dir, "deb", "BIN="+Binaries(tb, ""))
	}
	return onePackage(tb, dir, "deb", "BIN="+filepath.Join(dir, "bin"), "VERSION="+version)
}

// Repacked makes a package (deb or rpm) of a version whose programs are those of
// Binaries, without linking them for that version.
func Repacked(tb TB, format, version string) string {
	tb.Helper()
	return onePackage(tb, packagesDir(tb), format, "BIN="+Binaries(tb, ""), "VERSION="+version, "--old-file=build")
}

func packagesDir(tb TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "lull-packages-")
	if err == nil {
		built.Lock()
		err = removeWithUs(dir)
		built.Unlock()
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatalf("cannot make a package: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func onePackage(tb TB, dir, format string, args ...string) string {
	tb.Helper()
	cmd := exec.Command("make", append(args, "--no-print-directory", "-s", "packages", "FORMATS="+format, "DIST="+dir)...)
	cmd.Dir = Module()
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("cannot make a package: %v\n%s", err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*."+format))
	if err != nil || len(made) != 1 {
		tb.Fatalf("cannot make a package: there are %q", made)
	}
	return made[0]
}
