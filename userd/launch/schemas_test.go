package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

const schema = `<schemalist><schema id="org.lull-test.launch" path="/org/lull-test/launch/">
<key name="word" type="s"><default>'from the package'</default></key></schema></schemalist>`

// TestSchemas: the settings schemas of a package are compiled once for each user and package,
// where a program finds them. Without them it starts all the same.
func TestSchemas(t *testing.T) {
	require.Program(t, "glib-compile-schemas", "gsettings")
	w := newWorld(t)
	w.vars = map[string]manifest.Variable{"XDG_DATA_DIRS": {Prepend: []string{"${package}/share"}}}
	w.untracked()
	dir := filepath.Join(w.root, "packages", w.install(1, 0, true).String(), "share/glib-2.0/schemas")
	write := func(dir, text string) {
		t.Helper()
		w.no(os.MkdirAll(dir, 0o755))
		w.no(os.WriteFile(filepath.Join(dir, "org.lull-test.launch.gschema.xml"), []byte(text), 0o644))
	}
	write(dir, schema)
	get := []string{app, "nest", "env", "GSETTINGS_BACKEND=memory", "gsettings", "get", "org.lull-test.launch", "word"}
	cache := filepath.Join(w.home, ".local/share/lull", app, "common/.lull")
	var first os.FileInfo
	for i := range 2 {
		if r := w.run(get...); r.code != 0 || r.out != "'from the package'\n" {
			t.Fatalf("launch %d: status %d: %s%s; want code 0 and output %q", i+1, r.code, r.out, r.stderr, "'from the package'\n")
		}
		found, err := filepath.Glob(cache + "/*/0/gschemas.compiled")
		if err != nil || len(found) != 1 {
			t.Fatalf("%q, %v; want no error and 1 of them", found, err)
		}
		fi, err := os.Stat(found[0])
		w.no(err)
		if first == nil {
			first = fi
		} else if !os.SameFile(first, fi) {
			t.Error("they were compiled twice")
		}
	}
	// Another package has other schemas, and the first cache goes.
	dir = filepath.Join(w.root, "packages", w.add(2, 1, true).String(), "share/glib-2.0/schemas")
	write(dir, strings.Replace(schema, "from the package", "of version 2", 1))
	w.swap(2)
	if r := w.run(get...); r.code != 0 || r.out != "'of version 2'\n" {
		t.Errorf("status %d: %s%s; want code 0 and output %q", r.code, r.out, r.stderr, "'of version 2'\n")
	}
	if found, _ := filepath.Glob(cache + "/*"); len(found) != 1 {
		t.Errorf("got %q, want 1 of them", found)
	}
	dir = filepath.Join(w.root, "packages", w.add(3, 2, true).String(), "share/glib-2.0/schemas")
	write(dir, schema)
	w.swap(3)
	bin := t.TempDir()
	w.no(os.WriteFile(filepath.Join(bin, "glib-compile-schemas"), []byte("#!/bin/sh\necho broken >&2; exit 1\n"), 0o755))
	w.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	require.Root(t) // the rest hides the machine's log
	r := w.end(w.unlogged(w.command(app, "tell"), ""))
	if r.code != 0 || !strings.Contains(r.out, "LULL_REVISION=3") || strings.Contains(r.out, schemaVariable) || !strings.Contains(r.stderr, "cannot be compiled") {
		t.Errorf("with a compiler that fails: got status %d and the output below, want status 0, LULL_REVISION=3, no %s and %q:\n%s%s", r.code, schemaVariable, "cannot be compiled", r.out, r.stderr)
	}
	if found, _ := filepath.Glob(cache + "/*"); len(found) != 1 {
		t.Errorf("got %q, want 1 of them", found)
	}
}
