package vacancy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

// TestScanNamesHolders: each use is named with its process and the strongest way.
func TestScanNamesHolders(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.name, func(t *testing.T) {
			dir := fs.mount(t)
			path, tether := program(t, filepath.Join(dir, "program")), filepath.Join(t.TempDir(), "tether")
			must(t, os.WriteFile(tether, nil, 0o444))
			file, err := statInode(path)
			must(t, err)
			rope, err := statInode(tether)
			must(t, err)
			q := Query{Files: map[Inode]bool{file: true}, Tethers: map[Inode]bool{rope: true}, TetherFD: 900}
			want := map[int]Use{
				executes(t, path).cmd.Process.Pid:          Executes,
				holds(t, "map", path).cmd.Process.Pid:      Mapped,
				holds(t, "open", path).cmd.Process.Pid:     Open,
				holds(t, "tether", tether).cmd.Process.Pid: Tethered,
				holds(t, "open", tether).cmd.Process.Pid:   Tethered, // at another number
			}
			for _, deep := range []bool{false, true} {
				q.Deep = deep
				o, err := Scan(t.Context(), 0, q)
				if err != nil || !o.Complete {
					t.Fatalf("deep %v: got %+v, %v; want a complete scan and no error", deep, o, err)
				}
				got := map[int]Use{}
				for _, h := range o.Holders {
					got[h.PID] = h.Use
				}
				for pid, use := range want {
					quick := use == Executes
					if deep && got[pid] != use || !deep && quick && got[pid] != use {
						t.Errorf("deep %v: process %d uses it by %v, want %v", deep, pid, got[pid], use)
					}
				}
				if !o.Runs() {
					t.Error("nothing runs")
				}
			}
		})
	}
}

// TestScanIsBounded: a budget ends a scan, which then is not complete.
func TestScanIsBounded(t *testing.T) {
	o, err := Scan(t.Context(), time.Nanosecond, Query{Deep: true})
	if err != nil || o.Complete {
		t.Errorf("got %+v, %v; want an incomplete scan and no error", o, err)
	}
}

// TestFilesOf: what a process executes, has mapped and has open.
func TestFilesOf(t *testing.T) {
	dir := t.TempDir()
	path := program(t, filepath.Join(dir, "program"))
	in, err := statInode(path)
	must(t, err)
	for _, h := range []*holder{executes(t, path), holds(t, "map", path), holds(t, "open", path)} {
		set, err := FilesOf(h.cmd.Process.Pid)
		if err != nil || !set[in] {
			t.Errorf("got files %v (%v), want %v among them", set, err, in)
		}
	}
	if set, err := FilesOf(1 << 29); err != nil || len(set) != 0 {
		t.Errorf("a process that does not exist: got %v (%v), want no files and no error", set, err)
	}
}

// TestHidepid: the agent is root, which hidepid does not concern; a holder in such a
// mount is seen like any other.
func TestHidepid(t *testing.T) {
	require.Root(t)
	path := program(t, filepath.Join(t.TempDir(), "program"))
	h := holds(t, "map", path, "unshare", "--pid", "--fork", "--mount", "sh", "-c", `mount -t proc -o hidepid=invisible proc /proc && exec "$0" "$@"`)
	if ok, _ := taken(t, NewLeases(), path); ok {
		t.Error("not seen")
	}
	in, err := statInode(path)
	must(t, err)
	o, err := Scan(t.Context(), 0, Query{Files: map[Inode]bool{in: true}, Deep: true})
	if err != nil || !o.Runs() {
		t.Errorf("got %+v, %v; want a running process and no error", o, err)
	}
	h.end()
}

func TestExecutable(t *testing.T) {
	dir := t.TempDir()
	program(t, filepath.Join(dir, "tool"))
	lib := program(t, filepath.Join(dir, "lib.so"))
	must(t, os.Chmod(lib, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "text"), make([]byte, 100), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, manifest.Reserved), 0o755))
	program(t, filepath.Join(dir, manifest.Reserved, "own"))
	must(t, os.Symlink("tool", filepath.Join(dir, "link")))
	must(t, os.WriteFile(filepath.Join(dir, "small"), []byte("x"), 0o644))
	got, err := Executable(dir)
	must(t, err)
	want := []string{dir + "/script", dir + "/tool", dir + "/lib.so"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestInterpreters: what an interpreter outside of the package runs is not seen at
// the script, which is why launches have a tether.
func TestInterpreters(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		require.Missing(t, "needs python3")
	}
	dir := t.TempDir()
	script, tether := filepath.Join(dir, "script"), filepath.Join(dir, "tether")
	must(t, os.WriteFile(script, []byte("import sys\nprint('R', flush=True)\nsys.stdin.read()\n"), 0o755))
	must(t, os.WriteFile(tether, nil, 0o444))
	h := start(t, exec.Command(python, script))
	l := NewLeases()
	if ok, _ := taken(t, l, script); !ok {
		t.Log("this python keeps its script open")
	}
	h.end()
	h = start(t, exec.Command("sh", "-c", `exec 9<"$0"; exec "$@"`, tether, python, script))
	s, err := l.Open(tether, []string{script})
	must(t, err)
	defer s.Close()
	if r := s.Take(); !r.Tether {
		t.Errorf("got %+v, want the tether seen", r)
	}
	h.end()
}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n, " files"), func(b *testing.B) {
			dir := b.TempDir()
			var files []string
			for i := range n {
				files = append(files, filepath.Join(dir, fmt.Sprint(i)))
				if err := os.WriteFile(files[i], []byte("x"), 0o755); err != nil {
					b.Fatal(err)
				}
			}
			l := NewLeases()
			s, err := l.Open("", files)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for b.Loop() {
				if r := s.Take(); len(r.Denied) > 0 {
					b.Fatal(r)
				}
				b.StopTimer()
				s.Release(true)
				b.StartTimer()
			}
		})
	}
}
