package files_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestGoTarball: the programs of the Go toolchain, in a tarball like those of go.dev, are
// installed, refreshed when the running one ends, reverted, removed and collected. The
// tarball lacks most of the sources.
func TestGoTarball(t *testing.T) {
	s := set(t, rig.Options{})
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	tarball := func(version string) string {
		file := s.Path("go" + version + ".linux-" + runtime.GOARCH + ".tar.gz")
		args := []string{"-C", filepath.Dir(root), "--transform", "s,^[^/]*,go,", "-czf", file}
		for _, part := range []string{"VERSION", "go.env", "bin", "lib/time", "pkg/tool/" + runtime.GOOS + "_" + runtime.GOARCH + "/asm", "src/errors"} {
			args = append(args, filepath.Join(filepath.Base(root), part))
		}
		if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return file
	}
	version := func(want string) {
		t.Helper()
		if p, _ := s.API.Package("go"); p.Str("Version") != want {
			t.Errorf("version %s is installed, want %s", p.Str("Version"), want)
		}
		r := s.User.Lull("run", "go", "version")
		if r.Code != 0 || !strings.HasPrefix(r.Stdout, "go version go") {
			t.Errorf("got %v, want exit status 0 and output that begins with %q", r, "go version go")
		}
		r = s.User.Lull("run", "go", "env", "GOROOT")
		tree, err := filepath.EvalSymlinks(filepath.Join(s.Store, "current", "go"))
		if want := filepath.Join(tree, "go"); err != nil || strings.TrimSpace(r.Stdout) != want {
			t.Errorf("the toolchain finds itself in %s, want %s: %v", r.Stdout, want, err)
		}
	}
	if r := s.MustLull("install", tarball("1.98.0")); !strings.Contains(r.Stdout, "go 1.98.0 is installed") {
		t.Errorf("got %v, want %q in the output", r, "go 1.98.0 is installed")
	}
	version("1.98.0")

	input, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	run := s.User.StartLull(func(c *exec.Cmd) { c.Stdin = input }, "run", "--app", "gofmt", "go")
	input.Close()
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package("go")
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.refused(75, "is running", "install", tarball("1.99.0"))
	if _, err := end.WriteString("package a\nvar  a int\n"); err != nil {
		t.Error(err)
	}
	end.Close()
	s.Until("it is refreshed", limit, func() (bool, string) {
		p, _ := s.API.Package("go")
		return p.Str("Version") == "1.99.0", p.Str("Version")
	})
	version("1.99.0")
	s.MustLull("revert", "go")
	version("1.98.0")
	s.MustLull("remove", "go")
	s.MustLull("gc")
	if n := s.blobs(); n != 0 {
		t.Errorf("the repository has %d blobs after the removal, want 0", n)
	}
	s.clean()
}

// TestLicense: the license in the AppStream metadata of a file is shown.
func TestLicense(t *testing.T) {
	s := set(t, rig.Options{})
	s.MustLull("install", s.tarball("1.0", map[string]string{"share/metainfo/notes.metainfo.xml": `<?xml version="1.0"?>
<component type="desktop-application"><id>notes</id><name>Notes</name><summary>Writes notes</summary>
<metadata_license>CC0-1.0</metadata_license><project_license>MPL-2.0 OR MIT</project_license></component>
`}))
	if r := s.User.Lull("info", notes); r.Code != 0 || !strings.Contains(r.Stdout, "MPL-2.0 OR MIT") {
		t.Errorf("got %v, want exit status 0 and %q in the output", r, "MPL-2.0 OR MIT")
	}
}
