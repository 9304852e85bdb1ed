package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterpreter: a script is run by the interpreter of its package if the host lacks it, with
// the arguments that the kernel would give it, also through a layout.
func TestInterpreter(t *testing.T) {
	for _, line := range []string{"#!/usr/bin/lull-test-interpreter -x y", "#! /bin/lull-test-interpreter   -x y \n", "#!/usr/bin/lull-test-interpreter"} {
		w := newWorld(t)
		w.untracked()
		dir := filepath.Join(w.root, "packages", w.install(1, 0, true).String())
		w.no(os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755))
		w.no(os.WriteFile(filepath.Join(dir, "usr/bin/lull-test-interpreter"), []byte("#!/bin/sh\nfor a; do echo \"[$a]\"; done\n"), 0o755))
		w.no(os.WriteFile(filepath.Join(dir, "bin/app"), []byte(line+"\n"), 0o755))
		want := "[" + filepath.Join(dir, "bin/app") + "]\n[a b]\n[c]\n"
		if strings.Contains(line, "-x") {
			want = "[-x y]\n" + want
		}
		if r := w.run(app, "a b", "c"); r.code != 0 || r.out != want {
			t.Errorf("%q: status %d: got %q, want %q\n%s", line, r.code, r.out, want, r.stderr)
		}
	}
	// That of the host comes first, and one that is nowhere is an error that names it.
	w := newWorld(t)
	w.untracked()
	dir := filepath.Join(w.root, "packages", w.install(1, 0, true).String())
	w.no(os.WriteFile(filepath.Join(dir, "bin/sh"), []byte("#!/bin/false\n"), 0o755))
	if r := w.run(app, "exit", "7"); r.code != 7 {
		t.Errorf("with a shell of its own: status %d, want 7\n%s", r.code, r.stderr)
	}
	w.no(os.WriteFile(filepath.Join(dir, "bin/app"), []byte("#!/usr/bin/lull-test-interpreter\n"), 0o755))
	if r := w.run(app); r.code == 0 || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("without its interpreter: status %d: %s", r.code, r.stderr)
	}
}
