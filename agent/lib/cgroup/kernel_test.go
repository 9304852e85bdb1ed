package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// hierarchies are those of this machine, each with a group for the test.
func hierarchies(t *testing.T, test func(t *testing.T, top, dir string)) {
	for name, find := range map[string]func(testing.TB) string{"freezer": require.Freezer, "unified": require.Unified} {
		t.Run(name, func(t *testing.T) {
			top := find(t)
			dir, err := os.MkdirTemp(top, "lulltest.") // no name of ours: the release agent is not concerned
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := RemoveTree(dir); err != nil {
					t.Error(err)
				}
			})
			test(t, top, dir)
		})
	}
}

// cat is a process that ends with its input.
func cat(t *testing.T) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			in.Close()
			cmd.Wait()
		}
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func TestKernel(t *testing.T) {
	hierarchies(t, func(t *testing.T, top, dir string) {
		expect := func(want ...int) {
			t.Helper()
			got, err := Procs(dir)
			slices.Sort(want)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("got %v, %v, want %v", got, err, want)
			}
		}
		expect()
		deep := filepath.Join(dir, "a", "b")
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		p, end := cat(t)
		q, endQ := cat(t)
		if err := errors.Join(Join(deep, p), Join(dir, q)); err != nil {
			t.Fatal(err)
		}
		expect(p, q)
		all, err := Of(p)
		path := Freezer(all)
		if path == "/" || filepath.Join(top, path) != deep {
			path = Unified(all)
		}
		if err != nil || filepath.Join(top, path) != deep {
			t.Errorf("process %d is in %+v, %v, want %s", p, all, err, deep)
		}
		if err := RemoveTree(dir); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("a group with processes was removed: got %v, want the error %v", err, unix.EBUSY)
		}
		end()
		expect(q)
		endQ()
		expect()
		if err := Join(dir, p); !errors.Is(err, unix.ESRCH) {
			t.Errorf("a process that has ended has joined: got %v, want the error %v", err, unix.ESRCH)
		}
		if err := RemoveTree(dir); err != nil {
			t.Fatal(err)
		}
		if err := RemoveTree(dir); err != nil {
			t.Errorf("again: %v", err)
		}
		if pids, gone, err := Scan(dir); pids != nil || !gone || err != nil {
			t.Errorf("Scan of a removed group: got processes %v, gone %v, error %v; want none, true and no error", pids, gone, err)
		}
		if err := Join(dir, os.Getpid()); !Gone(err) {
			t.Errorf("Join of a removed group: got %v, want an error for which Gone is true", err)
		}
	})
}

// TestKernelVanishing has real groups come and go under the scan.
func TestKernelVanishing(t *testing.T) {
	hierarchies(t, func(t *testing.T, top, dir string) {
		p, _ := cat(t)
		home := filepath.Join(dir, "m")
		if err := errors.Join(os.Mkdir(home, 0o755), Join(home, p)); err != nil {
			t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, n := range []string{"a", "z", "m/x"} {
					os.MkdirAll(filepath.Join(dir, n, "deep"), 0o755)
					RemoveTree(filepath.Join(dir, n))
				}
			}
		}()
		for range 3000 {
			if got, err := Procs(dir); err != nil || !slices.Equal(got, []int{p}) {
				t.Errorf("got %v, %v, want %d", got, err, p)
				break
			}
		}
		close(stop)
		<-done
		if err := Join(top, p); err != nil {
			t.Fatal(err)
		}
	})
}

// TestThreadedGroup has a group of v2 that has threads and no processes.
func TestThreadedGroup(t *testing.T) {
	top := require.Unified(t)
	dir, err := os.MkdirTemp(top, "lulltest.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
	sub := filepath.Join(dir, "threads")
	p, end := cat(t)
	err = errors.Join(os.Mkdir(sub, 0o755), Join(dir, p))
	if err == nil {
		err = os.WriteFile(filepath.Join(sub, "cgroup.type"), []byte("threaded"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(filepath.Join(sub, "cgroup.procs")); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("cgroup.procs of a threaded group can be read: got %v, want the error %v", err, unix.EOPNOTSUPP)
	}
	if got, err := Procs(sub); err != nil || got != nil {
		t.Errorf("Procs of an empty threaded group: got %v, %v; want none and no error", got, err)
	}
	if got, err := Procs(dir); err != nil || !slices.Equal(got, []int{p}) {
		t.Errorf("got %v, %v; want no error and %v", got, err, []int{p})
	}
	end()
	if got, err := Procs(dir); err != nil || got != nil {
		t.Errorf("Procs after the process has ended: got %v, %v; want none and no error", got, err)
	}
}

func TestMounts(t *testing.T) {
	l, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	if l.Freezer == "" && l.Unified == "" {
		require.Missing(t, "needs a cgroup hierarchy")
	}
	for _, dir := range []string{l.Freezer, l.Unified} {
		if dir == "" {
			continue
		}
		f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Errorf("%s is no hierarchy: %v", dir, err)
			continue
		}
		io.Copy(io.Discard, f)
		f.Close()
	}
}

// TestManyGroups lists more groups than one read of the directory returns.
func TestManyGroups(t *testing.T) {
	hierarchies(t, func(t *testing.T, _, dir string) {
		const count = 300
		var want []string
		for i := range count {
			name := fmt.Sprintf("%d-%s.scope", i, strings.Repeat("x", 100))
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
		}
		d, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		got, err := d.Groups(count)
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d groups of %d are listed: %v; want no error and %v", len(got), count, err, want)
		}
		if _, err := d.Groups(count - 1); !errors.Is(err, ErrTooMany) {
			t.Errorf("with a limit of one less: got %v, want the error %v", err, ErrTooMany)
		}
	})
}
