package gc

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// TestStrays: files in use by a process are not collected, regardless of the indices.
func TestStrays(t *testing.T) {
	cat, err := os.ReadFile(require.Program(t, "cat"))
	if err != nil {
		t.Fatal(err)
	}
	sh := require.Program(t, "sh")
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
			require.Root(t)
			unshare := require.Program(t, "unshare")
			return exec.Command(unshare, "-m", "--propagation", "private", sh, "-c", `mount --bind "$0" /mnt && exec cat`, dir)
		}},
		{"overlay", func(t *testing.T, dir string) *exec.Cmd {
			require.Root(t)
			unshare := require.Program(t, "unshare")
			return exec.Command(unshare, "-m", "--propagation", "private", sh, "-c", `mount -t overlay x -o ro,lowerdir="$0":/mnt /mnt && exec cat`, dir)
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
			me, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			p := w.plan(t)
			if !slices.ContainsFunc(p.Strays, func(r index.Root) bool {
				return r.Package == pkg && r.PID == cmd.Process.Pid && strings.HasPrefix(r.Holder, "stray process cat of user "+me.Username+", executing /")
			}) {
				t.Errorf("got strays %v, want cat (process %d) of user %s with package %s", p.Strays, cmd.Process.Pid, me.Username, pkg)
			}
			chains, err := Why(w.s, nil, pkg.String())
			if err != nil || !slices.ContainsFunc(chains, func(c Chain) bool {
				return c.Index == index.OpenIndex && c.PID == cmd.Process.Pid && strings.HasPrefix(c.Holder, "stray process cat of user "+me.Username+", executing /")
			}) {
				t.Errorf("Why: got %v, %v; want cat (process %d) of user %s in the index of open packages, and no error", chains, err, cmd.Process.Pid, me.Username)
			}
			if slices.Contains(p.Trees, pkg) || slices.Contains(p.Trees, w.runtime) || !slices.Contains(p.Trees, w.one) {
				t.Errorf("got trees %v to go, want %s and neither %s nor %s", p.Trees, w.one, pkg, w.runtime)
			}
			if _, err := Execute(context.Background(), w.s, rooted(), p, Options{}); err != nil {
				t.Fatal(err)
			}
			if missing, err := w.s.Missing(pkg); err != nil || len(missing) > 0 {
				t.Errorf("Missing: got %v, %v; want nothing missing and no error", missing, err)
			}
			stop()
			if p := w.plan(t); len(p.Strays) > 0 || !slices.Contains(p.Trees, pkg) {
				t.Errorf("after its end: got strays %v and trees %v to go, want no strays and %s to go", p.Strays, p.Trees, pkg)
			}
		})
	}
}

// TestStraysDeep: a directory deeper than the longest path keeps nothing,
// unless it is in a package.
func TestStraysDeep(t *testing.T) {
	require.Root(t)
	python := require.Program(t, "python3")
	w := newWorld(t)
	pkg := w.r.Package(t, storetest.Spec{Name: "deep", Files: map[string]string{"data": "data"}})
	w.r.Put(t, w.s, pkg)
	const script = `import os, sys
os.chdir(sys.argv[1])
for i in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
os.setuid(int(sys.argv[2]))
print(flush=True)
sys.stdin.read()
`
	for _, c := range []struct {
		what, dir, uid string
		keeps          bool
	}{
		{"a user's, elsewhere", t.TempDir(), "65534", false},
		{"root's, elsewhere", t.TempDir(), "0", false},
		{"on the store's file system", t.TempDir(), "65534", false},
		{"in a package", w.s.PackageDir(pkg), "65534", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.what == "on the store's file system" {
				c.dir = filepath.Join(w.s.Root(), "elsewhere")
				if err := os.Mkdir(c.dir, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(python, "-c", script, c.dir, c.uid)
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
			t.Cleanup(func() { in.Close(); cmd.Wait() })
			if _, err := bufio.NewReader(out).ReadByte(); err != nil {
				t.Fatal(err)
			}
			p := w.plan(t)
			if len(p.Doubts) > 0 {
				t.Fatalf("got doubts %v, want none", p.Doubts)
			}
			if kept := !slices.Contains(p.Trees, pkg); kept != c.keeps {
				t.Errorf("kept: %v, want %v; strays %v", kept, c.keeps, p.Strays)
			}
			if c.keeps && !slices.ContainsFunc(p.Strays, func(r index.Root) bool {
				return r.PID == cmd.Process.Pid && strings.HasPrefix(r.Holder, "stray process python3 of user nobody, executing /")
			}) {
				t.Errorf("got strays %v, want python3 (process %d) of user nobody", p.Strays, cmd.Process.Pid)
			}
		})
	}
}

// TestUnreadAreNamed: without the right to read other users' processes a collection
// names them, and goes on.
func TestUnreadAreNamed(t *testing.T) {
	require.Root(t)
	require.Program(t, "setpriv", "cat")
	if os.Getenv("LULL_TEST_BLIND") == "" {
		cmd := exec.Command("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", os.Args[0], "-test.run=^TestUnreadAreNamed$", "-test.v")
		cmd.Env = append(os.Environ(), "LULL_TEST_BLIND=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestUnreadAreNamed") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	w := newWorld(t)
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	in.Write([]byte("\n"))
	if _, err := bufio.NewReader(out).ReadByte(); err != nil { // cat answers when it runs
		t.Fatal(err)
	}
	result, err := Collect(t.Context(), w.s, rooted(), Options{})
	if err != nil || result.Packages == 0 {
		t.Fatalf("Collect: got %+v, %v; want packages gone and no error", result, err)
	}
	if !slices.ContainsFunc(result.Unread, func(u Unread) bool {
		return u.PID == cmd.Process.Pid && u.UID == 65534 && u.Command == "cat" && u.Err != nil
	}) {
		t.Errorf("process %d is not named: %+v", cmd.Process.Pid, result.Unread)
	}
}
