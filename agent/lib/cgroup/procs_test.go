package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// fake is a hierarchy that changes at the n-th step of a scan.
type fake struct {
	files map[string]string // path of cgroup.procs → content; its directory is the group
	step  int
	at    map[int]func(*fake)
	fail  func(path string) error
}

func newFake(groups map[string]string) *fake {
	f := &fake{files: map[string]string{}, at: map[int]func(*fake){}}
	for g, procs := range groups {
		f.files[g] = procs
	}
	return f
}

func (f *fake) tick() {
	f.step++
	if do := f.at[f.step]; do != nil {
		do(f)
	}
}

func (f *fake) remove(group string) {
	for g := range maps.Keys(f.files) {
		if g == group || strings.HasPrefix(g, group+"/") {
			delete(f.files, g)
		}
	}
}

func (f *fake) read(path string) ([]byte, error) {
	f.tick()
	if f.fail != nil {
		if err := f.fail(path); err != nil {
			return nil, err
		}
	}
	procs, ok := f.files[filepath.Dir(path)]
	if !ok {
		return nil, unix.ENODEV
	}
	switch filepath.Base(path) {
	case "cgroup.procs", "tasks":
		return []byte(procs), nil
	}
	return nil, fs.ErrNotExist
}

func (f *fake) list(dir string) ([]string, error) {
	f.tick()
	if _, ok := f.files[dir]; !ok && dir != "/" {
		return nil, fs.ErrNotExist
	}
	var names []string
	for g := range f.files {
		if filepath.Dir(g) == dir && g != dir {
			names = append(names, filepath.Base(g))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f *fake) scan(dir string) ([]int, bool, error) {
	return scanner{read: f.read, list: f.list}.top(dir)
}

func TestScan(t *testing.T) {
	for _, c := range []struct {
		groups map[string]string
		want   []int
		gone   bool
	}{
		{map[string]string{"/g": ""}, nil, false},
		{map[string]string{"/g": "5\n3\n"}, []int{3, 5}, false},
		{map[string]string{"/g": "", "/g/a": "", "/g/a/b": "7\n", "/g/c": "2\n"}, []int{2, 7}, false},
		{map[string]string{"/g": "0\n"}, []int{0}, false},
		{map[string]string{"/h": "1\n"}, nil, true},
	} {
		got, gone, err := newFake(c.groups).scan("/g")
		if err != nil || gone != c.gone || !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, %v, %v", c.groups, got, gone, err)
		}
	}
}

// TestVanishing lets, at every single step of the scan, an empty group vanish,
// or a process go elsewhere in the tree and its group with it. A process that
// was there all the time must be found, in whatever order.
func TestVanishing(t *testing.T) {
	groups := map[string]string{"/g": "", "/g/a": "", "/g/b": "4\n", "/g/b/x": "", "/g/c": ""}
	for step := 1; step < 30; step++ {
		for _, victim := range []string{"/g/a", "/g/c", "/g/b/x"} {
			f := newFake(groups)
			f.at[step] = func(f *fake) { f.remove(victim) }
			if got, gone, err := f.scan("/g"); err != nil || gone || !slices.Equal(got, []int{4}) {
				t.Errorf("%s vanished at step %d: got processes %v, gone %v, error %v; want [4], false and no error", victim, step, got, gone, err)
			}
		}
		for _, to := range []string{"/g", "/g/a", "/g/c"} {
			f := newFake(groups)
			f.at[step] = func(f *fake) {
				f.files[to] = "4\n"
				f.remove("/g/b")
			}
			if got, gone, err := f.scan("/g"); err != nil || gone || !slices.Equal(got, []int{4}) {
				t.Errorf("moved to %s at step %d: got processes %v, gone %v, error %v; want [4], false and no error", to, step, got, gone, err)
			}
		}
		f := newFake(groups)
		f.at[step] = func(f *fake) { f.remove("/g") }
		if got, gone, err := f.scan("/g"); err != nil || !gone && !slices.Equal(got, []int{4}) {
			t.Errorf("all vanished at step %d: got processes %v, gone %v, error %v; want [4] or gone, and no error", step, got, gone, err)
		}
	}
}

// TestDoubt expects an error unless a group is certainly empty.
func TestDoubt(t *testing.T) {
	groups := map[string]string{"/g": "", "/g/a": "", "/g/a/b": ""}
	for _, cause := range []error{unix.EACCES, unix.EIO, unix.ENOMEM, unix.EMFILE, unix.ENODEV, fs.ErrNotExist} {
		for g := range groups {
			f := newFake(groups)
			f.fail = func(path string) error {
				if filepath.Dir(path) == g && filepath.Base(path) == "cgroup.procs" {
					return cause // although the parent lists the group
				}
				return nil
			}
			if got, gone, err := f.scan("/g"); !errors.Is(err, cause) || gone || got != nil {
				t.Errorf("%s fails with %v: got processes %v, gone %v, error %v; want none, false and that error", g, cause, got, gone, err)
			}
		}
	}
	f := newFake(map[string]string{"/g": "nonsense\n"})
	if _, _, err := f.scan("/g"); err == nil {
		t.Error("nonsense is no process")
	}
	// A group that has always something new below it is not vacant.
	f = newFake(groups)
	f.fail = func(path string) error {
		if path == "/g/a/cgroup.procs" {
			f.remove("/g/a")
			f.files["/g/a"] = ""
			return unix.ENODEV
		}
		return nil
	}
	if _, _, err := f.scan("/g"); err == nil {
		t.Error("a group that never holds still counts as vacant")
	}
}

// TestPopulated has v2's sum of all disagree with the lists.
func TestPopulated(t *testing.T) {
	f := newFake(map[string]string{"/g": "", "/g/a": ""})
	n := 0
	s := scanner{list: f.list, read: func(path string) ([]byte, error) {
		if path != "/g/cgroup.events" {
			return f.read(path)
		}
		if n++; n == 3 {
			f.files["/g/a"] = "9\n" // at last it shows
		}
		return []byte("populated 1\nfrozen 0\n"), nil
	}}
	if got, gone, err := s.top("/g"); err != nil || gone || !slices.Equal(got, []int{9}) {
		t.Errorf("a process that shows late: got processes %v, gone %v, error %v; want [9], false and no error", got, gone, err)
	}
	f.files["/g/a"] = ""
	if _, _, err := s.top("/g"); !errors.Is(err, ErrUnstable) {
		t.Errorf("populated, but by nobody: got %v, want the error %v", err, ErrUnstable)
	}
}

// TestThreads has processes that only the lists of threads show.
func TestThreads(t *testing.T) {
	for _, list := range []string{"tasks", "cgroup.threads"} {
		for _, procs := range []error{nil, unix.EOPNOTSUPP} {
			s := scanner{
				list: func(string) ([]string, error) { return nil, nil },
				read: func(path string) ([]byte, error) {
					switch {
					case path == "/g/cgroup.procs":
						return nil, procs
					case path == "/g/"+list && (list == "cgroup.threads" || procs == nil):
						return []byte("41\n42\n43\n"), nil
					case path == "/proc/41/status", path == "/proc/42/status":
						return []byte("Name:\tx\nTgid:\t40\nPid:\t41\n"), nil
					case path == "/proc/43/status":
						return nil, fs.ErrNotExist // counts as itself
					}
					return nil, fs.ErrNotExist
				},
			}
			if list == "tasks" && procs != nil {
				continue // v1 has no threaded groups
			}
			if got, gone, err := s.top("/g"); err != nil || gone || !slices.Equal(got, []int{40, 43}) {
				t.Errorf("%s, %v: got processes %v, gone %v, error %v; want [40 43], false and no error", list, procs, got, gone, err)
			}
		}
	}
}

// TestSteadyProcess is the invariant: a process that stays in its group is
// never missed, regardless of other changes.
func TestSteadyProcess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := map[string]string{"/g": "", "/g/home": "1\n"}
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"/g/a", "/g/b", "/g/b/c", "/g/home/d", "/g/z"}), 0, 5).Draw(t, "groups")
		for _, n := range names {
			groups[filepath.Dir(n)] += ""
			groups[n] = ""
		}
		f := newFake(groups)
		for i := range rapid.IntRange(0, 6).Draw(t, "changes") {
			name := rapid.SampledFrom([]string{"/g/a", "/g/b", "/g/b/c", "/g/home/d", "/g/z", "/g/new"}).Draw(t, fmt.Sprint("name", i))
			gone := rapid.Bool().Draw(t, fmt.Sprint("gone", i))
			f.at[rapid.IntRange(1, 40).Draw(t, fmt.Sprint("step", i))] = func(f *fake) {
				if gone {
					f.remove(name)
				} else if _, ok := f.files[filepath.Dir(name)]; ok {
					f.files[name] = ""
				}
			}
		}
		if got, gone, err := f.scan("/g"); err != nil || gone || !slices.Equal(got, []int{1}) {
			t.Fatalf("got processes %v, gone %v, error %v; want [1], false and no error", got, gone, err)
		}
	})
}
