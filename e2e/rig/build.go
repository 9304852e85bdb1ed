package rig

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// built has the directories with binaries that this process has made, by
// build tags, and the programs of GoBuild, by package and flags.
var built struct {
	sync.Mutex
	dirs, programs map[string]string
	alive          []io.Closer // marks of this process's life; never closed
}

// Module returns the top directory of the source tree: the one that this was
// built from, or that of LULL_SOURCE, if it is mounted somewhere else.
func Module() string {
	if dir := os.Getenv("LULL_SOURCE"); dir != "" {
		return dir
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Binaries returns a directory that every user can read, with lull's binaries.
// They are built once per process and set of tags; without tags they are
// copied from the directory that LULL_BIN names, if it is set. Main removes
// the directory.
func Binaries(tb TB, tags string) string {
	tb.Helper()
	built.Lock()
	defer built.Unlock()
	if dir, ok := built.dirs[tags]; ok {
		return dir
	}
	dir, err := builtDir(tags)
	if err != nil {
		tb.Fatalf("cannot build: %v", err)
	}
	if from := os.Getenv("LULL_BIN"); from != "" && tags == "" {
		err = copyBinaries(from, dir)
	} else {
		err = build(dir, tags)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return dir
}

// Installed makes a directory with the files that `make install` installs.
func Installed(tb TB, tags string) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "lull-installed-")
	if err != nil {
		tb.Fatalf("cannot install: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), install(tb, dir, tags)); err != nil {
		tb.Fatalf("%v", err)
	}
	return dir
}

func install(tb TB, dir, tags string) error {
	tb.Helper()
	cmd := exec.Command("make", "--no-print-directory", "-s", "install", "BIN="+Binaries(tb, tags), "TAGS="+tags, "DESTDIR="+dir)
	cmd.Dir = Module()
	return must(tb, 10*time.Minute, cmd)
}

// removeWithUs has a directory removed when this process is gone, for any
// reason: a test that runs into its time limit does not come to Main's end.
// The caller holds built.
func removeWithUs(dir string) error {
	cmd := exec.Command("sh", "-c", `cat >/dev/null; rm -rf "$1"`, "lull-janitor", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	built.alive = append(built.alive, stdin) // or it would be closed as garbage
	return cmd.Start()
}

// build compiles the commands as the Makefile does.
func build(dir, tags string) error {
	cmd := exec.Command("make", "--no-print-directory", "-s", "build", "BIN="+dir, "TAGS="+tags)
	cmd.Dir = Module()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build: %w\n%s", err, out)
	}
	return nil
}

func copyBinaries(from, to string) error {
	names, err := filepath.Glob(filepath.Join(from, "*"))
	if err != nil || len(names) == 0 {
		return fmt.Errorf("cannot use LULL_BIN=%s: no binaries there", from)
	}
	for _, name := range names {
		if err := copyFile(name, filepath.Join(to, filepath.Base(name))); err != nil {
			return fmt.Errorf("cannot copy the binaries: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, st.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// GoBuild compiles one program of the source tree, with values for string variables of its
// main package. A process compiles the same program once, because each time it is linked anew.
func GoBuild(tb TB, pkg, to string, values map[string]string) {
	tb.Helper()
	var ld []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		ld = append(ld, "-X main."+k+"="+values[k])
	}
	program, err := goBuild(pkg, strings.Join(ld, " "))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.RemoveAll(to))
	}
	if err == nil {
		err = copyFile(program, to)
	}
	if err != nil {
		tb.Fatalf("cannot build %s: %v", pkg, err)
	}
}

func goBuild(pkg, flags string) (program string, err error) {
	built.Lock()
	defer built.Unlock()
	if program, ok := built.programs[pkg+" "+flags]; ok {
		return program, nil
	}
	dir, err := builtDir("program " + pkg + " " + flags)
	if err != nil {
		return "", err
	}
	program = filepath.Join(dir, path.Base(pkg))
	cmd := exec.Command("go", "build", "-ldflags", "-s -w "+flags, "-o", program, pkg)
	cmd.Dir = Module()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	if built.programs == nil {
		built.programs = map[string]string{}
	}
	built.programs[pkg+" "+flags] = program
	return program, nil
}

// builtDir makes a directory that is removed with those of Binaries. The caller has the lock.
func builtDir(key string) (string, error) {
	dir, err := os.MkdirTemp("", "lull-bin-")
	if err != nil {
		return "", err
	}
	if built.dirs == nil {
		built.dirs = map[string]string{}
	}
	built.dirs[key] = dir
	return dir, errors.Join(os.Chmod(dir, 0o755), removeWithUs(dir))
}

func removeBuilt() error {
	built.Lock()
	defer built.Unlock()
	for _, dir := range built.dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	built.dirs, built.programs = nil, nil
	return nil
}
