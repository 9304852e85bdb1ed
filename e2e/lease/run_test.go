package lease_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunSubpackages publishes by names and paths in one run, and runs and opens what is
// inside, with and without an installation.
func TestRunSubpackages(t *testing.T) {
	w := set(t)
	const show = "#!/bin/sh\nenv | grep ^LULL_ | sort\ncat \"$LULL_SUBPACKAGE_RUNTIME/text\"\n"
	shared := strings.Repeat("shared by both\n", 50_000)
	for path, text := range map[string]string{
		"runtime/lull.yaml": "name: org.lull.runtime\nversion: 1\n", "runtime/text": shared,
		"helper/lull.yaml": "name: org.lull.helper\nversion: 1\napps: [{name: helper, command: show}]\nsubpackages: {runtime: org.lull.runtime}\n", "helper/show*": show,
		"one/lull.yaml": "name: org.lull.one\nversion: 1\napps: [{name: one, command: show}]\nsubpackages: {runtime: org.lull.runtime@stable, helper: ../helper}\n", "one/show*": show,
		"two/lull.yaml": "name: org.lull.two\nversion: 1\napps: [{name: two, command: show}]\nsubpackages: {runtime: org.lull.runtime@stable}\n", "two/show*": show,
	} {
		path, exec := strings.CutSuffix(path, "*")
		perm := os.FileMode(0o644)
		if exec {
			perm = 0o755
		}
		path = w.Path(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), perm); err != nil {
			t.Fatal(err)
		}
	}
	w.MustLull("publish", w.Path("two"), w.Path("one"), w.Path("runtime"), "--repo", w.Repo)

	ran := func(out, suffix string) {
		t.Helper()
		if !strings.Contains(out, suffix) || !strings.HasSuffix(out, shared) {
			t.Errorf("got %.2000s, want %.200s", out, suffix)
		}
	}
	ran(w.MustLull("run", "--ephemeral", "org.lull.one/helper").Stdout, "LULL_INSTANCE=org.lull.one\n")
	ran(w.MustLull("run", "--ephemeral", "org.lull.one/helper@stable").Stdout, "LULL_REVISION=0\n")
	ran(w.MustLull("open", "--ephemeral", "org.lull.one/helper", "--", "sh", "-c", "ls; cat .lull/sub/runtime/text").Stdout, "show\n")
	w.MustLull("install", "org.lull.one", "org.lull.two")
	ran(w.MustLull("run", "org.lull.one").Stdout, "/.lull/sub/runtime\n")
	ran(w.MustLull("run", "org.lull.one/helper").Stdout, "LULL_INSTANCE=org.lull.one\nLULL_PACKAGE_DIR=")
	ran(w.MustLull("open", "org.lull.one/helper/runtime", "--", "cat", "text").Stdout, shared)
	if r := w.Lull("run", "org.lull.one/none"); r.Code == 0 || !strings.Contains(r.Stderr, `has no subpackage "none"`) {
		t.Errorf("got %v, want a failure and %q in the error output", r, `has no subpackage "none"`)
	}
	// What both contain is stored once, and kept by both.
	hash := strings.TrimSpace(w.MustLull("open", "org.lull.one/runtime", "--", "sh", "-c", "echo $LULL_PACKAGE").Stdout)
	why := w.MustLull("why", hash).Stdout
	for _, name := range []string{"org.lull.one", "org.lull.two"} {
		if !strings.Contains(why, name) {
			t.Errorf("%s is not in\n%s", name, why)
		}
	}
	var files []string
	err := filepath.WalkDir(filepath.Join(w.Store, "blobs"), func(path string, d os.DirEntry, err error) error {
		if fi, ierr := os.Lstat(path); ierr == nil && fi.Size() == int64(len(shared)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != 1 {
		t.Errorf("the shared file is stored as %v (error %v), want one blob", files, err)
	}
}
