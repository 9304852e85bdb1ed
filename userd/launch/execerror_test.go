package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// program puts another file in the place of the application.
func (w *world) program(rev uint32, content []byte) {
	w.Helper()
	w.install(rev, rev-1, true)
	dir, err := filepath.EvalSymlinks(filepath.Join(w.root, "current", app))
	w.no(err)
	w.no(os.WriteFile(filepath.Join(dir, "bin/app"), content, 0o755))
}

// TestWhyNotExecuted: the error names the missing interpreter, and the line
// ends that lead the kernel to another one.
func TestWhyNotExecuted(t *testing.T) {
	c := filepath.Join(t.TempDir(), "c.c")
	if err := os.WriteFile(c, []byte("int main(void){return 0;}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	elf := filepath.Join(t.TempDir(), "elf")
	if out, err := exec.Command(require.Program(t, "cc"), "-Wl,--dynamic-linker=/nonexistent/ld.so", "-o", elf, c).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	loader, err := os.ReadFile(elf)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		content []byte
		want    []string
	}{
		"no interpreter":              {[]byte("#!/opt/none/python3 -u\n"), []string{"its interpreter /opt/none/python3 is not there", "\nhint: install what has /opt/none/python3"}},
		"CRLF":                        {[]byte("#!/bin/sh\r\necho x\r\n"), []string{`called "/bin/sh\r"`, "\nhint: the script has the line ends of Windows"}},
		"CRLF and an argument in env": {[]byte("#! /nonexistent/env python3\r\n"), []string{"its interpreter /nonexistent/env is not there"}},
		"no loader":                   {loader, []string{"its interpreter /nonexistent/ld.so is not there"}},
		"a directory as interpreter":  {[]byte("#!/etc\n"), []string{"its interpreter /etc cannot be executed"}},
		"nothing":                     {[]byte("\x00\x01\x02\x03 no program"), []string{"no program for this machine"}},
		"empty":                       {nil, []string{"no program for this machine"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.untracked()
			w.program(1, k.content)
			r := w.run(app)
			for _, want := range k.want {
				if r.code == 0 || !strings.Contains(r.stderr, want) {
					t.Errorf("status %d, without %q: %s", r.code, want, r.stderr)
				}
			}
		})
	}
}

// TestNoexec: a store on a file system that is mounted noexec is named, with what to do.
func TestNoexec(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	w.untracked()
	w.no(os.MkdirAll(w.root, 0o755))
	w.no(syscall.Mount("lull-test", w.root, "tmpfs", syscall.MS_NOEXEC, "size=1m"))
	t.Cleanup(func() { syscall.Unmount(w.root, syscall.MNT_DETACH) })
	w.install(1, 0, true)
	r := w.run(app, "exit", "0")
	if r.code != 77 || !strings.Contains(r.stderr, "mounted noexec") || !strings.Contains(r.stderr, "\nhint: mount "+w.root+" without noexec") {
		t.Errorf("status %d: %s; want code 77, %q in the error output and %q in the error output", r.code, r.stderr, "mounted noexec", "\nhint: mount "+w.root+" without noexec")
	}
}
