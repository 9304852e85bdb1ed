package gc

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/index"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/need"
)

// TestStrays: what a process uses is not collected, whatever the indices say.
func TestStrays(t *testing.T) {
	cat, err := os.ReadFile(need.Program(t, "cat"))
	if err != nil {
		t.Fatal(err)
	}
	sh := need.Program(t, "sh")
	for _, c := range []struct {
		what  string
		start func(t *testing.T, dir string) *exec.Cmd
	}{
		{"executable", func(t *testing.T, dir string) *exec.Cmd { return exec.Command(filepath.Join(dir, "bin/cat")) }},
		{"working folder", func(t *testing.T, dir string) *exec.Cmd {
			c := exec.Command("cat")
			c.Dir = filepath.Join(dir, "bin")
			return c
		}},
		{"command line", func(t *testing.T, dir string) *exec.Cmd {
			return exec.Command("cat", "-", filepath.Join(dir, "data"))
		}},
		{"descriptor", func(t *testing.T, dir string) *exec.Cmd {
			f, err := os.Open(filepath.Join(dir, "data"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			c := exec.Command("cat")
			c.ExtraFiles = []*os.File{f}
			return c
		}},
		{"mount", func(t *testing.T, dir string) *exec.Cmd {
			need.Root(t)
			unshare := need.Program(t, "unshare")
			return exec.Command(unshare, "-m", "--propagation", "private", sh, "-c", `mount --bind "$0" /mnt && exec cat`, dir)
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			pkg := w.r.Package(t, storetest.Spec{Name: "cat", Files: map[string]string{"bin/cat*": string(cat), "data": "data"}, Subs: map[string]digest.Digest{"rt": w.runtime}})
			w.r.Put(t, w.s, pkg)
			cmd := c.start(t, w.s.PackageDir(pkg))
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			stop := func() { in.Close(); cmd.Wait() }
			t.Cleanup(stop)
			// Cat answers when it runs.
			in.Write([]byte("\n"))
			if _, err := bufio.NewReader(out).ReadByte(); err != nil {
				t.Fatal(err)
			}
			p := w.plan(t)
			if !slices.ContainsFunc(p.Strays, func(r index.Root) bool {
				return r.Package == pkg && r.PID == cmd.Process.Pid && r.Holder == "stray process cat"
			}) {
				t.Errorf("strays: %v", p.Strays)
			}
			if slices.Contains(p.Trees, pkg) || slices.Contains(p.Trees, w.runtime) || !slices.Contains(p.Trees, w.one) {
				t.Errorf("victims: %v", p.Trees)
			}
			if _, err := Execute(context.Background(), w.s, rooted(), p, Options{}); err != nil {
				t.Fatal(err)
			}
			if missing, err := w.s.Missing(pkg); err != nil || len(missing) > 0 {
				t.Errorf("missing %v, %v", missing, err)
			}
			stop()
			if p := w.plan(t); len(p.Strays) > 0 || !slices.Contains(p.Trees, pkg) {
				t.Errorf("after its end: strays %v", p.Strays)
			}
		})
	}
}
