package main

import (
	"embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// sources are the small programs that are measured with.
//
//go:embed programs/*.c
var sources embed.FS

// programsEnv names a directory with them, for a container without a compiler.
const programsEnv = "LULL_BENCH_PROGRAMS"

// programs returns the directory of the compiled programs.
func programs(tb rig.TB) string {
	if dir := os.Getenv(programsEnv); dir != "" {
		return dir
	}
	dir := tempDir(tb)
	compile(tb, dir)
	return dir
}

// compile makes them, static.
func compile(tb rig.TB, dir string) {
	entries, err := sources.ReadDir("programs")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	for _, e := range entries {
		b, err := sources.ReadFile("programs/" + e.Name())
		if err != nil {
			tb.Fatalf("%v", err)
		}
		cmd := exec.Command("cc", "-O2", "-static", "-x", "c", "-o", filepath.Join(dir, strings.TrimSuffix(e.Name(), ".c")), "-")
		cmd.Stdin = strings.NewReader(string(b))
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("cannot compile %s: %v\n%s", e.Name(), err, out)
		}
	}
}

// tempDir is a directory that every user can read.
func tempDir(tb rig.TB) string {
	dir, err := os.MkdirTemp("", "lull-bench-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatalf("cannot make a scratch directory: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
