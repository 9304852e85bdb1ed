package userdata

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

// life runs revisions 1 to n, each with a line, as an agent that keeps two does.
func life(t *testing.T, m *machine, n uint32) {
	t.Helper()
	for rev := uint32(1); rev <= n; rev++ {
		m.install(rev, rev-1, fmt.Sprint("v", rev))
		if rev > 2 {
			m.forget(rev - 2)
		}
		m.run(fmt.Sprint(rev))
	}
}

// TestSupersededGoes: what the store does not keep goes when its successor has run, and
// not before.
func TestSupersededGoes(t *testing.T) {
	m := newMachine(t, t.TempDir(), 0)
	life(t, m, 5)
	if got := directories(t, m.Base); !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) {
		t.Fatalf("before revision 5 has run well there are %q; want %v", got, []string{"1", "2", "3", "4", "5"})
	}
	m.shows("1 2 3 4 5")
	if got := directories(t, m.Base); !slices.Equal(got, []string{"4", "5"}) {
		t.Errorf("there are %q; want %v", got, []string{"4", "5"})
	}
	if left, _ := filepath.Glob(m.Base + "/.lull/*"); len(left) != 2 {
		t.Errorf("records: got %q, want 2 left", left)
	}
	m.last = 4
	m.shows("1 2 3 4")
}

// TestSupersededStays: what must not go, although the store does not keep its revision.
func TestSupersededStays(t *testing.T) {
	newest := func(m *machine) string { return filepath.Join(m.Base, "3") }
	for name, c := range map[string]struct {
		prepare func(t *testing.T, m *machine)
		stays   []string
	}{
		"nothing special": {func(*testing.T, *machine) {}, nil},
		"another store uses it": {func(t *testing.T, m *machine) {
			other := newMachine(t, m.home, 0)
			other.install(9, 0, "v3")
			d := &dir{name: "1", base: m.Base}
			var err error
			d.record, err = readRecord(m.Base, "1")
			no(t, err)
			d.Uses = append(d.Uses, Use{other.store.ID, 9})
			no(t, d.write())
		}, []string{"1"}},
		"a process uses it": {func(t *testing.T, m *machine) {
			c := exec.Command("sleep", "1000")
			c.Env = append(os.Environ(), "LULL_USER_DATA="+filepath.Join(m.Base, "1"))
			no(t, c.Start())
			t.Cleanup(func() {
				c.Process.Kill()
				c.Wait()
			})
		}, []string{"1"}},
		"nothing is known of it": {func(t *testing.T, m *machine) { no(t, os.Remove(recordPath(m.Base, "1"))) }, []string{"1"}},
		"a copy lacks something of it": {func(t *testing.T, m *machine) {
			d := &dir{name: "3", base: m.Base}
			var err error
			d.record, err = readRecord(m.Base, "3")
			no(t, err)
			d.Missing, d.MissingCount = []Missing{{"secret", "it cannot be read", "1"}}, 1
			no(t, d.write())
		}, []string{"1", "2"}}, // 2 is the newest whole one
		"a revision that is kept has no other": {func(t *testing.T, m *machine) {
			dir := filepath.Join(m.Root, "revisions", app)
			no(t, os.RemoveAll(filepath.Join(dir, "2")))
			no(t, os.Symlink("../../packages/other", filepath.Join(dir, "2"))) // what is in 2 is not its
			no(t, os.WriteFile(filepath.Join(dir, "2.from"), []byte("1\n"), 0o644))
		}, []string{"1"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, t.TempDir(), 0)
			for rev := uint32(1); rev <= 3; rev++ {
				m.install(rev, rev-1, fmt.Sprint("v", rev))
				m.run(fmt.Sprint(rev))
			}
			m.forget(1)
			m.forget(2)
			c.prepare(t, m)
			m.shows("1 2 3")
			m.shows("1 2 3")
			got := directories(t, m.Base)
			if _, err := os.Stat(newest(m)); err != nil || !slices.Contains(got, "3") {
				t.Errorf("the newest data: got error %v and the directories %q, want no error and 3 among them", err, got)
			}
			for _, stays := range c.stays {
				if !slices.Contains(got, stays) {
					t.Errorf("there are %q, without %s", got, stays)
				}
			}
			if c.stays == nil && !slices.Equal(got, []string{"3"}) {
				t.Errorf("there are %q, want 3 alone", got)
			}
		})
	}
}

// TestWhatCannotGo: something in superseded data that cannot be removed keeps no launch,
// and nothing else.
func TestWhatCannotGo(t *testing.T) {
	require.Root(t)
	m := newMachine(t, t.TempDir(), 0)
	for rev := uint32(1); rev <= 3; rev++ {
		m.install(rev, rev-1, fmt.Sprint("v", rev))
		m.run(fmt.Sprint(rev))
	}
	m.forget(1)
	m.forget(2)
	mounted := filepath.Join(m.Base, "1", "mounted")
	no(t, os.Mkdir(mounted, 0o700))
	no(t, syscall.Mount("lull-test", mounted, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { syscall.Unmount(filepath.Join(m.Base, ".1.gone", "mounted"), syscall.MNT_DETACH) })
	d, err := m.Enter(t.Context(), 3, Hooks{})
	no(t, err)
	if d.Note == nil || !strings.Contains(d.Note.Error(), "superseded data cannot be removed") {
		t.Errorf("the launch notes %v, want %q", d.Note, "superseded data cannot be removed")
	}
	m.install(4, 3, "v4")
	m.shows("1 2 3")
	no(t, syscall.Unmount(filepath.Join(m.Base, ".1.gone", "mounted"), 0))
	no(t, m.Sweep(0))
	if left, _ := filepath.Glob(m.Base + "/.*gone"); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// TestDiesAtEachStep: a launch that brings data over, and one that removes what it
// supersedes, is killed, or has a full disk, at each step. The next one shows the whole
// newest document, and at the end there is what there is without the deaths.
func TestDiesAtEachStep(t *testing.T) {
	crasher := filepath.Join(t.TempDir(), "crasher")
	build := exec.Command(require.Program(t, "go"), "build", "-tags", "faultpoint", "-o", crasher, "./testdata/crasher")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(m *machine, rev uint32, line string, env ...string) error {
		c := exec.Command(crasher, m.Root, m.home, app, number(rev), line)
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	scene := func() *machine {
		m := newMachine(t, t.TempDir(), 0)
		// A foreign directory has the next number.
		no(t, os.MkdirAll(filepath.Join(m.Base, "4"), 0o700))
		life(t, m, 3)
		m.install(4, 3, "v4")
		m.forget(2)
		return m
	}
	points := 0
	for launch, line := range []string{"first", "second"} {
		m := scene()
		list := filepath.Join(t.TempDir(), "list")
		if launch == 1 {
			no(t, run(m, 4, "first"))
		}
		no(t, run(m, 4, line, "LULL_FAULT_LIST="+list))
		passed, err := os.ReadFile(list)
		no(t, err)
		count := map[string]int{}
		for point := range strings.Lines(string(passed)) {
			point = strings.TrimSpace(point)
			count[point]++
			points++
			for _, action := range []string{"kill", "enospc"} {
				fault := fmt.Sprintf("%s#%d:%s", point, count[point], action)
				m := scene()
				want := "1 2 3 "
				if launch == 1 {
					no(t, run(m, 4, "first"))
					want += "first "
				}
				err := run(m, 4, line, "LULL_FAULT="+fault)
				var exit *exec.ExitError
				if action == "kill" && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
					t.Errorf("%s: the launch ended with %v, want %v", fault, err, syscall.SIGKILL)
				}
				if err == nil {
					want += line + " "
				}
				want += "next "
				no(t, run(m, 4, "next"))
				no(t, run(m, 4, ""))
				no(t, m.Sweep(0))
				if b, err := os.ReadFile(filepath.Join(m.Base, "4."+m.short(), "document")); err != nil || string(b) != want+" " {
					t.Errorf("after %s: %q, %v, want %q", fault, b, err, want)
				}
				if b, err := os.ReadFile(m.Base + "/3/document"); err != nil || string(b) != "1 2 3 " {
					t.Errorf("after %s: revision 3 has %q, %v; want no error and content %q", fault, b, err, "1 2 3 ")
				}
				if got := directories(t, m.Base); !slices.Equal(got, []string{"3", "4", "4." + m.short()}) {
					t.Errorf("after %s: there are %q; want %v", fault, got, []string{"3", "4", "4." + m.short()})
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		}
	}
	if points < 15 {
		t.Errorf("only %d fault points were reached, want at least 15", points)
	}
	t.Logf("%d points", points)
}

// TestMissingIsNoted: files that a copy lacks are reported at its first use,
// are in the record, are reported for later copies too, and keep the directory
// that has them.
func TestMissingIsNoted(t *testing.T) {
	require.Root(t)
	m := newMachine(t, t.TempDir(), 0)
	m.install(1, 0, "v1")
	m.run("1")
	mounted := filepath.Join(m.Base, "1", "elsewhere")
	no(t, os.Mkdir(mounted, 0o700))
	no(t, syscall.Mount("lull-test", mounted, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { syscall.Unmount(mounted, syscall.MNT_DETACH) })
	for rev := uint32(2); rev <= 5; rev++ {
		m.install(rev, rev-1, fmt.Sprint("v", rev))
		m.forget(rev - 1)
		for launch := range 3 {
			d, err := m.Enter(t.Context(), rev, Hooks{})
			no(t, err)
			no(t, d.Note)
			if want := launch == 0; (d.MissingCount == 1) != want {
				t.Errorf("launch %d of revision %d: %d missing", launch, rev, d.MissingCount)
			}
			if launch == 0 && (d.Missing[0].In != "1" || d.Missing[0].Path != "elsewhere" || d.Missing[0].Why != "something else is mounted there") {
				t.Errorf("revision %d: got the missing data %+v, want elsewhere in 1, where something else is mounted", rev, d.Missing)
			}
		}
		if !slices.Contains(directories(t, m.Base), "1") {
			t.Fatal("what has the missing data is gone")
		}
	}
	// It is copied by hand, or given up: then it goes.
	no(t, syscall.Unmount(mounted, 0))
	no(t, os.Remove(mounted))
	m.install(6, 5, "v6")
	m.forget(5)
	for range 3 {
		m.run("")
	}
	if got := directories(t, m.Base); !slices.Equal(got, []string{"6"}) {
		t.Errorf("there are %q; want %v", got, []string{"6"})
	}
}

// TestReadOnlyHome: data that is there is used, and where there is none the error names
// the cause.
func TestReadOnlyHome(t *testing.T) {
	require.Root(t)
	home := t.TempDir()
	no(t, syscall.Mount("lull-test", home, "tmpfs", syscall.MS_NOSUID, "size=1m"))
	t.Cleanup(func() { syscall.Unmount(home, syscall.MNT_DETACH) })
	m := newMachine(t, home, 0)
	m.install(1, 0, "v1")
	m.run("1")
	no(t, syscall.Mount("", home, "", syscall.MS_REMOUNT|syscall.MS_RDONLY|syscall.MS_NOSUID, ""))
	d, err := m.Enter(t.Context(), 1, Hooks{})
	no(t, err)
	if d.Dir != filepath.Join(m.Base, "1") || !errors.Is(d.Note, unix.EROFS) {
		t.Errorf("got %+v, want dir %v and the error %v", d, filepath.Join(m.Base, "1"), unix.EROFS)
	}
	m.install(2, 1, "v2")
	if _, err := m.Enter(t.Context(), 2, Hooks{}); err == nil || !strings.Contains(err.Error(), "mounted read-only") {
		t.Errorf("got %v, want an error and %q in the error", err, "mounted read-only")
	}
	no(t, syscall.Mount("", home, "", syscall.MS_REMOUNT|syscall.MS_NOSUID, ""))
	m.shows("1")
}

// TestFullHome: a copy that the home has no room for, or that a quota forbids, is an error
// that names the cause and leaves nothing behind. The old data is whole, and the copy is
// made when there is room.
func TestFullHome(t *testing.T) {
	require.Root(t)
	for _, c := range []struct {
		name, want string
		errno      error
		mount      func(t *testing.T, home string) (more func())
	}{
		{"full", "the file system of the home directory is full", unix.ENOSPC, func(t *testing.T, home string) func() {
			no(t, syscall.Mount("lull-test", home, "tmpfs", syscall.MS_NOSUID, "size=3m"))
			return func() {
				no(t, syscall.Mount("", home, "", syscall.MS_REMOUNT|syscall.MS_NOSUID, "size=32m"))
			}
		}},
		{"quota", "the user's disk quota is used up", unix.EDQUOT, func(t *testing.T, home string) func() {
			require.Loop(t)
			disk := filepath.Join(t.TempDir(), "disk")
			no(t, os.WriteFile(disk, nil, 0o600))
			no(t, os.Truncate(disk, 256<<20))
			command(t, "mkfs.btrfs", "-q", disk)
			command(t, "mount", "-o", "loop", disk, home)
			command(t, "btrfs", "quota", "enable", home)
			command(t, "btrfs", "qgroup", "limit", "3M", home)
			return func() { command(t, "btrfs", "qgroup", "limit", "none", home) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			more := c.mount(t, home)
			t.Cleanup(func() { syscall.Unmount(home, syscall.MNT_DETACH) })
			m := newMachine(t, home, 0)
			m.install(1, 0, "v1")
			m.run("1")
			large := filepath.Join(m.Base, "1", "large")
			f, err := os.Create(large)
			no(t, err)
			if c.name == "quota" { // a reflink takes no room; of a file without copy-on-write there is none
				command(t, "chattr", "+C", large)
			}
			_, err = io.CopyN(f, rand.Reader, 2<<20)
			no(t, errors.Join(err, f.Sync(), f.Close()))
			before, err := os.ReadFile(large)
			no(t, err)
			m.install(2, 1, "v2")
			for range 2 {
				_, err := m.Enter(t.Context(), 2, Hooks{})
				if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.want) || errkind.KindOf(err) != errkind.NoSpace {
					t.Errorf("without space: got error %v of kind %v, want %q by %v, of kind %v", err, errkind.KindOf(err), c.want, c.errno, errkind.NoSpace)
				}
			}
			if got := directories(t, m.Base); !slices.Equal(got, []string{"1"}) {
				t.Errorf("there are %q; want %v", got, []string{"1"})
			}
			more()
			m.shows("1")
			for _, rev := range []string{"1", "2"} {
				if now, err := os.ReadFile(filepath.Join(m.Base, rev, "large")); err != nil || !bytes.Equal(now, before) {
					t.Errorf("the data of revision %s is not what it was: %v", rev, err)
				}
			}
		})
	}
}

func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(require.Program(t, argv[0]), argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// TestImmutable: what must not be changed can be copied, and root's launch removes it when it
// is no longer needed.
func TestImmutable(t *testing.T) {
	require.Root(t)
	m := newMachine(t, t.TempDir(), 0)
	m.install(1, 0, "v1")
	m.run("1")
	file := filepath.Join(m.Base, "1", "fixed")
	no(t, os.WriteFile(file, []byte("x"), 0o600))
	if out, err := exec.Command(require.Program(t, "chattr"), "+i", file).CombinedOutput(); err != nil {
		require.Missing(t, "needs a file system with immutable files: %s", out)
	}
	t.Cleanup(func() {
		for _, path := range []string{file, filepath.Join(m.Base, ".1.gone", "fixed")} {
			exec.Command("chattr", "-i", path).Run()
		}
	})
	m.install(2, 1, "v2")
	m.forget(1)
	m.run("2")
	if b, err := os.ReadFile(filepath.Join(m.Base, "2", "fixed")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v; want no error and content %q", b, err, "x")
	}
	d, err := m.Enter(t.Context(), 2, Hooks{})
	no(t, err)
	if d.Note != nil {
		t.Errorf("the launch notes %v, want nothing", d.Note)
	}
	for _, dir := range []string{"1", ".1.gone"} {
		if _, err := os.Lstat(filepath.Join(m.Base, dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v, want no such file", dir, err)
		}
	}
	no(t, copytree.Remove(filepath.Join(m.Base, "2")))
}
