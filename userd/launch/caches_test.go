package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

// bitmap is an image that gdk-pixbuf reads by a loader of its own.
const bitmap = "#define x_width 8\n#define x_height 2\nstatic unsigned char x_bits[] = {\n 0x01, 0x80};\n"

// TestLoaders: programs have the image loaders of their package beside those of the host. The
// file of both is made once, and again when the host's changes.
func TestLoaders(t *testing.T) {
	require.Program(t, "gdk-pixbuf-csource")
	const dir = "/usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/2.10.0/loaders"
	require.File(t, dir+"/libpixbufloader-xbm.so")
	w := newWorld(t)
	w.vars = map[string]manifest.Variable{loadersVariable: {Value: "${package}" + dir}}
	w.untracked()
	install := func(rev, from uint32) {
		t.Helper()
		into := filepath.Join(w.root, "packages", w.add(rev, from, true).String(), dir)
		w.no(os.MkdirAll(into, 0o755))
		b, err := os.ReadFile(dir + "/libpixbufloader-xbm.so")
		w.no(err)
		w.no(os.WriteFile(filepath.Join(into, "libpixbufloader-xbm.so"), b, 0o644))
		w.swap(rev)
	}
	install(1, 0)
	image := filepath.Join(t.TempDir(), "x.xbm")
	w.no(os.WriteFile(image, []byte(bitmap), 0o644))
	host := filepath.Join(t.TempDir(), "loaders.cache") // of a host without any
	write := func(text string, at int64) {
		t.Helper()
		w.no(os.WriteFile(host, []byte(text), 0o644))
		w.no(os.Chtimes(host, time.Unix(at, 0), time.Unix(at, 0)))
	}
	write("# first\n", 1000)
	w.env = []string{loadersFileVariable + "=" + host}
	read := []string{app, "nest", "gdk-pixbuf-csource", image}
	cache := filepath.Join(w.home, ".local/share/lull", app, "common/.lull/loaders-*")
	only := func() (path string, fi os.FileInfo) {
		t.Helper()
		found, err := filepath.Glob(cache)
		if err != nil || len(found) != 1 {
			t.Fatalf("the files of loaders: got %q, %v, want one", found, err)
		}
		fi, err = os.Stat(found[0])
		w.no(err)
		return found[0], fi
	}
	expect := func() {
		t.Helper()
		if r := w.run(read...); r.code != 0 || !strings.Contains(r.out, "Pixbuf") {
			t.Fatalf("reading an image by the loader of the package: got status %d, want 0 and %q: %.300s%s", r.code, "Pixbuf", r.out, r.stderr)
		}
	}
	expect()
	_, first := only()
	expect()
	if _, again := only(); !os.SameFile(first, again) {
		t.Error("the file of loaders was made twice, want once")
	}
	write("# second\n", 500) // an image of a system has old times
	expect()
	path, again := only()
	if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), "# second\n") || os.SameFile(first, again) {
		t.Errorf("after a change of the host's file: got %.40q (%v), want the host's second one first", b, err)
	}
	install(2, 1)
	expect()
	if next, _ := only(); next == path {
		t.Errorf("package 2 has the file of package 1: got %s, want another", next)
	}

	// Without a loader that can be loaded, a launch says so and goes on.
	w.vars[loadersVariable] = manifest.Variable{Value: "${package}/nothing"}
	w.install(3, 2, true)
	require.Root(t) // the rest hides the machine's log
	if r := w.end(w.unlogged(w.command(app, "env"), "")); r.code != 0 || strings.Contains(r.out, "common/.lull") || strings.Contains(r.out, loadersVariable) || !strings.Contains(r.stderr, "the image loaders of "+app+" cannot be listed") {
		t.Errorf("without loaders: status %d: %s%s", r.code, r.out, r.stderr)
	}
}

// TestFonts: programs find the fonts of their package, and other programs do not.
func TestFonts(t *testing.T) {
	require.Program(t, "fc-list")
	const font = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
	require.File(t, font)
	w := newWorld(t)
	w.vars = map[string]manifest.Variable{"XDG_DATA_DIRS": {Prepend: []string{"${package}/usr/share"}}}
	w.untracked()
	dir := filepath.Join(w.root, "packages", w.install(1, 0, true).String(), "usr/share/fonts/truetype")
	b, err := os.ReadFile(font)
	w.no(err)
	w.no(os.MkdirAll(dir, 0o755))
	w.no(os.WriteFile(filepath.Join(dir, "own.ttf"), b, 0o644))
	if r := w.run(app, "nest", "fc-list", ":family=DejaVu Sans", "file"); r.code != 0 || !strings.Contains(r.out, dir+"/own.ttf") || !strings.Contains(r.out, font) {
		t.Errorf("fonts of the package and of the host: got status %d, want 0, %q and %q: %s%s", r.code, dir+"/own.ttf", font, r.out, r.stderr)
	}
}
