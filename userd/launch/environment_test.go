package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
)

// TestEnvironment: a package's variables are applied to its programs. A program that
// launches an application of another package does not pass them on.
func TestEnvironment(t *testing.T) {
	w := newWorld(t)
	w.vars = map[string]manifest.Variable{
		"XDG_DATA_DIRS":   {Prepend: []string{"${package}/share"}},
		"LD_LIBRARY_PATH": {Prepend: []string{"${package}/lib"}, Append: []string{"${user_data}/lib"}},
		"THING_HOME":      {Value: "${user_common}/$$x"},
	}
	w.untracked()
	w.env = []string{"LD_LIBRARY_PATH=/usr/lib/x"}
	first := filepath.Join(w.root, "packages", w.install(1, 0, true).String())
	data := filepath.Join(w.home, ".local/share/lull", app)
	expect := func(what string, r result, want ...string) {
		t.Helper()
		lines := strings.Split(r.out, "\n")
		for _, line := range want {
			name, _, is := strings.Cut(line, "=")
			i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+"=") })
			switch {
			case is && !slices.Contains(lines, line):
				t.Errorf("%s: the line %q is missing: status %d, %s\n%s", what, line, r.code, r.stderr, r.out)
			case !is && i >= 0:
				t.Errorf("%s: there is the line %q", what, lines[i])
			}
		}
	}
	expect("application", w.run(app, "env"),
		"XDG_DATA_DIRS="+first+"/share:/usr/local/share:/usr/share", "LD_LIBRARY_PATH="+first+"/lib:/usr/lib/x:"+data+"/1/lib",
		"THING_HOME="+data+"/common/$x", "LULL_ENVIRONMENT=LD_LIBRARY_PATH:THING_HOME:XDG_DATA_DIRS", "LULL_HOST_LD_LIBRARY_PATH=/usr/lib/x")
	// A service of the system has no user's data.
	expect("service", w.run("--service", "env", app),
		"XDG_DATA_DIRS="+first+"/share:/usr/local/share:/usr/share", "LD_LIBRARY_PATH="+first+"/lib:/usr/lib/x", "THING_HOME", "LULL_USER_DATA")

	self, err := os.Executable()
	w.no(err)
	nested := []string{app, "nest", "env", "LULL_TEST_RUN=1", self, "--run-dir", w.ctl.RunDir(), app, "env"}
	expect("nested", w.run(nested...), "LD_LIBRARY_PATH="+first+"/lib:/usr/lib/x:"+data+"/1/lib", "LULL_HOST_LD_LIBRARY_PATH=/usr/lib/x", "LULL_HOST_XDG_DATA_DIRS")
	w.vars = nil
	w.add(2, 1, true)
	swap := filepath.Join(t.TempDir(), "swap")
	w.no(os.WriteFile(swap, []byte("#!/bin/sh\nln -sfn ../revisions/"+app+"/2 "+w.root+"/current/"+app+"\nexec \"$@\"\n"), 0o755))
	r := w.run(slices.Insert(nested, 2, swap)...)
	expect("nested in another package", r, "LD_LIBRARY_PATH=/usr/lib/x", "LULL_REVISION=2", "THING_HOME", "XDG_DATA_DIRS", "LULL_ENVIRONMENT", "LULL_HOST_LD_LIBRARY_PATH")
}
