package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
)

// addSub makes a package with the application of these tests, and with subpackages.
func (w *world) addSub(name string, subpackages map[string]digest.Digest) digest.Digest {
	w.Helper()
	l := &manifest.Launch{Name: name, Version: "1", Apps: []manifest.App{{Name: name, Command: []string{"bin/app"}}}, Subpackages: subpackages}
	b, err := l.Encode()
	w.no(err)
	pkg := digest.Of(b)
	dir := filepath.Join(w.root, "packages", pkg.String())
	w.no(os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	w.no(os.MkdirAll(filepath.Join(dir, manifest.Reserved, "sub"), 0o755))
	w.no(os.WriteFile(filepath.Join(dir, "bin/app"), []byte(script), 0o755))
	w.no(os.WriteFile(filepath.Join(dir, manifest.Reserved, "launch.json"), b, 0o644))
	for sub, of := range subpackages {
		w.no(os.Symlink("../../../"+of.String(), filepath.Join(dir, manifest.SubpackageDir(sub))))
	}
	return pkg
}

// TestSubpackage launches applications of subpackages, installed and not.
func TestSubpackage(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, false)
	w.untracked()
	inner := w.addSub("inner", nil)
	helper := w.addSub("helper", map[string]digest.Digest{"x.inner-1": inner})
	sup := w.addSub(app, map[string]digest.Digest{"helper": helper})
	revision := filepath.Join(w.root, "revisions", app, "2")
	w.no(os.Symlink("../../packages/"+sup.String(), revision))
	w.swap(2)
	folder := t.TempDir()
	dir := func(pkg digest.Digest) string { return filepath.Join(w.root, "packages", pkg.String()) }
	for _, installed := range []bool{true, false} {
		run := func(what string) result {
			args := []string{what, "tell"}
			if !installed {
				args = append([]string{"--package", sup.String(), "--folder", folder}, args...)
			}
			return w.end(w.with(w.command(args...), "LULL_SUBPACKAGE_STALE=/x"))
		}
		for what, want := range map[string][]string{
			app:                       {"LULL_PACKAGE_DIR=" + dir(sup), "LULL_SUBPACKAGE_HELPER=" + dir(sup) + "/.lull/sub/helper"},
			app + "/helper":           {"LULL_PACKAGE_DIR=" + dir(helper), "LULL_SUBPACKAGE_X_INNER_1=" + dir(helper) + "/.lull/sub/x.inner-1"},
			app + "/helper/x.inner-1": {"LULL_PACKAGE_DIR=" + dir(inner), "LULL_INSTANCE=" + app},
		} {
			r := run(what)
			if r.code != 0 || strings.Contains(r.out, "STALE") {
				t.Errorf("%s: got status %d and the output below, want status 0 and no LULL_SUBPACKAGE_STALE:\n%s%s", what, r.code, r.out, r.stderr)
			}
			for _, line := range want {
				if !strings.Contains(r.out, line+"\n") {
					t.Errorf("%s (installed: %v) has no %s:\n%s", what, installed, line, r.out)
				}
			}
			if strings.Count(r.out, "LULL_SUBPACKAGE_") != strings.Count(strings.Join(want, " "), "LULL_SUBPACKAGE_") {
				t.Errorf("%s has not exactly the LULL_SUBPACKAGE_ variables of %q:\n%s", what, want, r.out)
			}
		}
		for what, want := range map[string]string{
			app + "/none":                       "org.lull-test.launch has no subpackage \"none\"\nhint: it has helper\n",
			app + "/helper/..":                  `helper has no subpackage ".."`,
			app + "/":                           `has no subpackage ""`,
			app + strings.Repeat("/helper", 17): "it names more than 16 subpackages",
			app + strings.Repeat("/", 64<<10):   "it names more than 16 subpackages",
			app + "/helper/x.inner-1/more":      `inner has no subpackage "more"`,
		} {
			if r := run(what); r.code == 0 || !strings.Contains(r.stderr, want) {
				t.Errorf("%.80s (installed: %v): got status %d and the error output %.300q, want a failure and %q", what, installed, r.code, r.stderr, want)
			}
		}
	}
	for _, flag := range []string{"--service=daemon", "--hook=quit"} {
		if r := w.run(flag, app+"/helper"); r.code != 64 {
			t.Errorf("%s: status %d, want 64: %s", flag, r.code, r.stderr)
		}
	}
}
