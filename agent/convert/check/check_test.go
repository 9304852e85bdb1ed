package check_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert/check"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

// tree writes files by path; those whose text begins with #! can be executed.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for p, text := range files {
		full := filepath.Join(dir, p)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func cc(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("cc %v: %v: %s", args, err, out)
	}
}

func texts(t *testing.T, dir, host string, l *manifest.Launch) string {
	t.Helper()
	list, err := check.Tree(dir, host, l)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range list {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

const entry = "[Desktop Entry]\nType=Application\nName=Thing\nExec=thing %F\nIcon=thing\n"

// TestRoot: the programs of a package with a root find the files of the runtime, not those of
// the machine. Those of a runtime in another package are not known.
func TestRoot(t *testing.T) {
	dir, host := t.TempDir(), t.TempDir()
	tree(t, host, map[string]string{"bin/sh": "#!"})
	tree(t, dir, map[string]string{"bin/own": "#!", "usr/bin/a": "#!/bin/own\n", "usr/bin/b": "#!/bin/sh\ncat /usr/share/thing/x\n", "usr/share/thing/x": "x"})
	for root, want := range map[string]string{
		"":                "usr/bin/b:2: it names /usr/share/thing, which is in the package, and nothing is at that path on the machine\n",
		manifest.RootSelf: "usr/bin/b:1: its interpreter /bin/sh is not on this machine\n",
		"runtime":         "usr/bin/b:2: it names /usr/share/thing, which is in the package, and nothing is at that path on the machine\n",
	} {
		if got := texts(t, dir, host, &manifest.Launch{Root: root}); got != want {
			t.Errorf("root %q: got\n%s\nwant\n%s", root, got, want)
		}
	}
}

// TestScripts: the paths in scripts and desktop files, with the line.
func TestScripts(t *testing.T) {
	dir, host := t.TempDir(), t.TempDir()
	tree(t, host, map[string]string{"bin/sh": "#!", "usr/bin/env": "#!", "usr/share/here/x": "x", "usr/share/icons/hicolor/48x48/apps/themed.png": "x", "usr/bin/python3": "#!"})
	tree(t, dir, map[string]string{
		"usr/bin/good":    "#!/bin/sh\nexec \"${0%/*}/../share/thing/run\" /usr/share/here/x /usr/share/thingy /tmp/usr/share/thing\n",
		"usr/bin/thing":   "#!/bin/sh\n\ncat /usr/share/thing/data\n",
		"usr/bin/nothing": "#!/usr/bin/nothing-of-this -x\n",
		"usr/bin/by-env":  "#!/usr/bin/env -S nothing-of-this x\n",
		"usr/bin/snake":   "#!/usr/bin/python3\nimport thing\n",
		"usr/lib/python3/dist-packages/thing/a.py": "import os\nDATA = '/usr/share/thing'\n",
		"usr/share/thing/data":                     "x",
		"usr/share/here/x":                         "x",
		"usr/share/doc/thing/example.py":           "x = '/usr/share/thing'\n",
		"usr/share/applications/thing.desktop":     entry,
		"usr/share/applications/bad.desktop":       strings.Replace(entry, "Exec=thing %F", "Exec=\"thing", 1),
		"usr/share/applications/worse.desktop":     "[Desktop]\n",
		"usr/share/applications/icon.desktop":      strings.Replace(entry, "Icon=thing", "Icon=/usr/share/none.png", 1),
	})
	l := &manifest.Launch{Icon: "themed", Apps: []manifest.App{{Name: "thing", Desktop: "usr/share/applications/thing.desktop"}, {Name: "bad", Desktop: "usr/share/applications/bad.desktop"},
		{Name: "worse", Desktop: "usr/share/applications/worse.desktop"}, {Name: "icon", Desktop: "usr/share/applications/icon.desktop"}}}
	got := texts(t, dir, host, l)
	for _, want := range []string{
		"usr/bin/thing:3: it names /usr/share/thing,",
		"usr/bin/nothing:1: its interpreter /usr/bin/nothing-of-this is not on this machine\n",
		"usr/bin/by-env:1: its interpreter nothing-of-this is not on this machine\n",
		"usr/bin/snake:1: it may import usr/lib/python3/dist-packages/thing,",
		"usr/lib/python3/dist-packages/thing/a.py:2: it names /usr/share/thing,",
		"usr/share/applications/thing.desktop:5: the icon thing is neither",
		"usr/share/applications/bad.desktop:4: its Exec cannot be rewritten: ",
		"usr/share/applications/worse.desktop: it cannot be exported: ",
		"usr/share/applications/icon.desktop:5: the icon /usr/share/none.png is not in the package\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	for _, none := range []string{"usr/bin/good", "usr/share/doc", "themed"} {
		if strings.Contains(got, none) {
			t.Errorf("got %q, want it absent:\n%s", none, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 10 { // the icon of bad.desktop too
		t.Errorf("got %d findings, want 10:\n%s", n, got)
	}
	if got := texts(t, dir, host, &manifest.Launch{Apps: l.Apps[:1]}); !strings.Contains(got, "lull.yaml: there is no icon") {
		t.Errorf("got\n%s\nwant \"lull.yaml: there is no icon\"", got)
	}
}

// TestLibraries: libraries are searched for in the loader's order.
func TestLibraries(t *testing.T) {
	require.Program(t, "cc")
	dir, src := t.TempDir(), t.TempDir()
	tree(t, src, map[string]string{"lib.c": "int thing(void) { return 1; }\n", "main.c": "int thing(void);\nint main(void) { return thing() + sizeof(\"/opt/thing/data\"); }\nconst char *data = \"/opt/thing/data\";\n",
		"other.c": "int other(void) { return 2; }\n"})
	tree(t, dir, map[string]string{"opt/thing/data": "x", "bin/damaged": "\x7fELF and nothing"})
	for _, d := range []string{"lib", "bin", "private"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lib := filepath.Join(dir, "lib/libthing.so.1")
	cc(t, "-shared", "-fPIC", "-Wl,-soname,libthing.so.1", "-o", lib, src+"/lib.c")
	gone := filepath.Join(src, "libgone.so.2")
	cc(t, "-shared", "-fPIC", "-Wl,-soname,libgone.so.2", "-o", gone, src+"/other.c")
	cc(t, "-o", dir+"/bin/found", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib", src+"/main.c", lib)
	cc(t, "-o", dir+"/bin/lost", src+"/main.c", lib, "-Wl,--no-as-needed", gone)
	cc(t, "-shared", "-fPIC", "-Wl,--no-as-needed", "-o", dir+"/private/libuser.so", src+"/lib.c", lib) // loaded into found
	got := texts(t, dir, "/", &manifest.Launch{})
	for _, want := range []string{
		"bin/lost: it needs libthing.so.1, which is in the package as lib/libthing.so.1, where it is not looked for\n",
		"bin/lost: it needs libgone.so.2, which is neither in the package nor on this machine\n",
		"bin/damaged: it is a damaged program or library\n",
		"bin/found: it names /opt/thing,", "bin/lost: it names /opt/thing,",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 5 {
		t.Errorf("got %d findings, want 5:\n%s", n, got)
	}
	tree(t, dir, map[string]string{"AppRun": "#!/bin/sh\nexport LD_LIBRARY_PATH=$PWD/lib\n"})
	if got := texts(t, dir, "/", &manifest.Launch{}); strings.Contains(got, "libthing") {
		t.Errorf("got\n%s\nwant nothing about libthing", got)
	}
}

// FuzzContent: no content of a file makes the check fail.
func FuzzContent(f *testing.F) {
	f.Add("#!/bin/sh\n/opt/x\n")
	f.Add("\x7fELF\x02\x01\x01\x00")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		tree(t, dir, map[string]string{"opt/x/file.py": text, "opt/x/x.desktop": text, "bin/x": "#!" + text})
		if _, err := check.Tree(dir, "/", &manifest.Launch{Icon: "x", Apps: []manifest.App{{Name: "x", Desktop: "opt/x/x.desktop"}}}); err != nil {
			t.Error(err)
		}
	})
}
