package copytree

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/lull/lull/e2e/require"
)

// precopy is a Precopy that treats no time as too fresh.
func precopy(t *testing.T, src, dst string) Stats {
	t.Helper()
	stats, err := run(t.Context(), src, dst, Options{}, func(j *job) error {
		return j.leaveBehind(time.Now().Add(time.Hour))
	})
	must(t, err)
	return stats
}

func TestPrecopy(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, src string){
		"nothing":             func(*testing.T, string) {},
		"content":             func(t *testing.T, src string) { put(t, src+"/plain", "PLAIN") },
		"mode":                func(t *testing.T, src string) { must(t, os.Chmod(src+"/plain", 0o640)) },
		"attribute":           func(t *testing.T, src string) { must(t, unix.Setxattr(src+"/plain", "user.x", []byte("y"), 0)) },
		"attribute of folder": func(t *testing.T, src string) { must(t, unix.Removexattr(src+"/a", "user.folder")) },
		"times":               func(t *testing.T, src string) { must(t, os.Chtimes(src+"/big", time.Unix(1, 0), time.Unix(2, 0))) },
		"content, times put back": func(t *testing.T, src string) {
			fi, err := os.Stat(src + "/big")
			must(t, err)
			f, err := os.OpenFile(src+"/big", os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("x"), 1000)
			must(t, err)
			must(t, f.Close())
			must(t, os.Chtimes(src+"/big", fi.ModTime(), fi.ModTime()))
		},
		"more":    func(t *testing.T, src string) { put(t, src+"/new/deep/er", "x") },
		"less":    func(t *testing.T, src string) { must(t, os.RemoveAll(src+"/a")) },
		"renamed": func(t *testing.T, src string) { must(t, os.Rename(src+"/a/b", src+"/moved")) },
		"replaced": func(t *testing.T, src string) {
			put(t, src+"/other", "OTHER")
			must(t, os.Rename(src+"/other", src+"/plain"))
		},
		"file to folder":    func(t *testing.T, src string) { must(t, os.Remove(src+"/plain")); put(t, src+"/plain/x", "y") },
		"folder to file":    func(t *testing.T, src string) { must(t, os.RemoveAll(src+"/a")); put(t, src+"/a", "y") },
		"folder to symlink": func(t *testing.T, src string) { must(t, os.RemoveAll(src+"/a")); must(t, os.Symlink("/etc", src+"/a")) },
		"symlink to folder": func(t *testing.T, src string) { must(t, os.Remove(src+"/link")); put(t, src+"/link/x", "y") },
		"symlink": func(t *testing.T, src string) {
			must(t, os.Remove(src+"/link"))
			must(t, os.Symlink("big", src+"/link"))
		},
		"file to fifo": func(t *testing.T, src string) {
			must(t, os.Remove(src+"/plain"))
			must(t, unix.Mkfifo(src+"/plain", 0o644))
		},
		"hard link more":    func(t *testing.T, src string) { must(t, os.Link(src+"/hard1", src+"/hard4")) },
		"hard link less":    func(t *testing.T, src string) { must(t, os.Remove(src+"/hard1")) },
		"hard link content": func(t *testing.T, src string) { put(t, src+"/a/hard2", "HARD") },
		"hard link broken": func(t *testing.T, src string) {
			must(t, os.Remove(src+"/a/hard2"))
			put(t, src+"/a/hard2", "alone")
		},
		"folder in a closed folder": func(t *testing.T, src string) {
			must(t, os.Chmod(src+"/closed", 0o755))
			put(t, src+"/closed/x/y", "z")
			must(t, os.Chmod(src+"/closed", 0o500))
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := place(t)
			furnish(t, src)
			first := precopy(t, src, dst)
			if again := precopy(t, src, dst); again.Files != 0 || again.Unchanged != first.Files {
				t.Errorf("a second precopy: %+v after %+v; want files 0 and unchanged %v", again, first, first.Files)
			}
			change(t, src)
			var total int64
			stats, err := Copy(t.Context(), src, dst, Options{Progress: func(_, n int64) { total = n }})
			must(t, err)
			if name == "file to fifo" {
				must(t, os.Remove(src+"/plain"))
				fi, err := os.Stat(dst)
				must(t, err)
				must(t, os.Chtimes(src, fi.ModTime(), fi.ModTime()))
			}
			same(t, src, dst)
			clean(t, dst)
			if stats.Unchanged < 4 || name == "nothing" && stats.Files != 0 {
				t.Errorf("%s: got %+v, want at least 4 files unchanged, and none copied if nothing has changed", name, stats)
			}
			if big := int64(1 << 20); total >= big && name != "content, times put back" && name != "times" {
				t.Errorf("%s: got %d bytes to copy, want fewer than %d", name, total, big)
			}
		})
	}
}

// A comparison finds what a copy would bring over, and changes nothing.
func TestCompare(t *testing.T) {
	src, dst := place(t)
	compare := func() Difference {
		t.Helper()
		d, err := Compare(t.Context(), src, dst, Options{})
		must(t, err)
		return d
	}
	if _, err := Compare(t.Context(), src+"/none", dst, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no source: %v", err)
	}
	furnish(t, src)
	all := compare()
	if all.Files == 0 || all.Files != all.Looked || all.Bytes < 1<<20 {
		t.Errorf("without a precopy: got %+v, want at least 1 MiB in files, all of them different", all)
	}
	precopy(t, src, dst)
	if d := compare(); d != (Difference{Looked: all.Files}) {
		t.Errorf("nothing has changed: got %+v, want %v", d, (Difference{Looked: all.Files}))
	}
	put(t, src+"/plain", "PLAIN")
	put(t, src+"/new/deep/er", strings.Repeat("x", 3<<20))
	must(t, os.Symlink("x", src+"/new/link"))
	d := compare()
	if d.Files != 3 || d.Bytes < 3<<20 || d.Bytes > 3<<20+8192 || d.Looked != all.Files+2 {
		t.Errorf("two new files and a link: got %+v, want 3 files, 3 MiB and at most 8 KiB more, %d looked at", d, all.Files+2)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := Compare(ended, src, dst, Options{}); !errors.Is(err, context.Canceled) || d.Looked > all.Files {
		t.Errorf("with an ended context: got %+v, %v; want at most %d looked at and the error %v", d, err, all.Files, context.Canceled)
	}
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if stats.Files != d.Files || stats.Unchanged != d.Looked-d.Files {
		t.Errorf("the copy: %+v, compared: %+v; want files %v and unchanged %v", stats, d, d.Files, d.Looked-d.Files)
	}
	same(t, src, dst)
}

func TestTooFreshToTell(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	first, err := Precopy(t.Context(), src, dst, Options{})
	must(t, err)
	// All of it was written a moment ago.
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if stats.Unchanged != 0 || stats.Files != first.Files {
		t.Errorf("%+v after %+v; want unchanged 0 and files %v", stats, first, first.Files)
	}
	same(t, src, dst)
}

func TestFileSystemsThatTellNothing(t *testing.T) {
	src, err := os.MkdirTemp("/dev/shm", "lull-datacopy")
	if err != nil {
		require.Missing(t, "needs /dev/shm")
	}
	t.Cleanup(func() { os.RemoveAll(src) })
	put(t, src+"/x", "y")
	root, err := openRoot(src)
	must(t, err)
	defer root.Close()
	fresh, err := (&job{src: root}).flushSource()
	must(t, err)
	if !fresh.IsZero() {
		require.Missing(t, "needs /dev/shm to be a tmpfs")
	}
}

// A store into a page that was dirty before the precopy changes no time, unless
// the page was flushed in between.
func TestMappedFile(t *testing.T) {
	src, dst := place(t)
	must(t, os.WriteFile(src+"/map", make([]byte, 8192), 0o644))
	f, err := os.OpenFile(src+"/map", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	m[0] = 1
	// The clock of the file system must tick between the store and the precopy.
	time.Sleep(30 * time.Millisecond)
	_, err = run(t.Context(), src, dst, Options{}, func(j *job) error {
		fresh, err := j.flushSource()
		if fresh.IsZero() {
			t.Skip("the file system of the tests does not note stores")
		}
		must(t, err)
		return j.leaveBehind(time.Now())
	})
	must(t, err)
	m[0] = 2
	_, err = Copy(t.Context(), src, dst, Options{})
	must(t, err)
	data, err := os.ReadFile(dst + "/map")
	must(t, err)
	if data[0] != 2 {
		t.Error("a store into a mapped page was missed")
	}
}

// An index of something else, or of what is not there any more, is not believed.
func TestIndexThatDoesNotFit(t *testing.T) {
	src, dst := place(t)
	furnish(t, src)
	precopy(t, src, dst)
	must(t, os.Remove(dst+PartialSuffix+"/plain"))
	must(t, os.Truncate(dst+PartialSuffix+"/big", 5))
	must(t, os.Remove(dst+PartialSuffix+"/link"))
	put(t, dst+PartialSuffix+"/stray", "x")
	_, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	same(t, src, dst)

	other, _ := place(t)
	put(t, other+"/plain", "other")
	dst = filepath.Dir(src) + "/3"
	precopy(t, src, dst)
	_, err = Copy(t.Context(), other, dst, Options{})
	must(t, err)
	same(t, other, dst)
}

// secret is what a copy must never bring along from outside.
const secret = "root:$6$secret"

func TestNobodyLeadsTheCopyAway(t *testing.T) {
	src, dst := place(t)
	outside := t.TempDir()
	put(t, outside+"/f", secret)
	put(t, outside+"/d/f", secret)
	put(t, src+"/f", "mine")
	put(t, src+"/d/f", "mine")
	put(t, src+"/d/d/f", "mine")
	for name, target := range map[string]string{"f": outside + "/f", "d": outside, "d2": outside + "/d"} {
		must(t, os.Symlink(target, src+"/evil-"+name))
	}
	exchange := func(a, b string) {
		err := unix.Renameat2(unix.AT_FDCWD, src+"/"+a, unix.AT_FDCWD, src+"/"+b, unix.RENAME_EXCHANGE)
		if err != nil && err != unix.ENOENT {
			t.Error(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, pair := range [][2]string{{"f", "evil-f"}, {"d", "evil-d"}, {"d", "evil-d2"}, {"f", "evil-d"}} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					exchange(pair[0], pair[1])
				}
			}
		})
	}
	defer func() { close(stop); wg.Wait() }()
	for i := range 150 {
		do := Copy
		if i%3 == 1 {
			do = Precopy
		}
		if _, err := do(t.Context(), src, dst, Options{}); err != nil {
			t.Fatal(err)
		}
		must(t, filepath.WalkDir(filepath.Dir(dst), func(path string, d fs.DirEntry, err error) error {
			if path == src {
				return fs.SkipDir // in motion
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds the secret that a link leads to, want it in no copy", path)
			}
			return err
		}))
		must(t, os.RemoveAll(dst)) // a Precopy's is taken over by the next Copy
	}
	data, err := os.ReadFile(outside + "/f")
	if err != nil || string(data) != secret {
		t.Errorf("what lies outside is %q, %v; want no error and data %v", data, err, secret)
	}
}

// The same at the destination: an owner who changes a partial directory.
func TestNobodyLeadsTheRemovalAway(t *testing.T) {
	_, dst := place(t)
	outside := t.TempDir()
	put(t, outside+"/keep/f", secret)
	must(t, os.MkdirAll(dst+PartialSuffix+"/d/d", 0o755))
	must(t, os.Symlink(outside, dst+PartialSuffix+"/evil"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Mkdir(dst+PartialSuffix+"/d", 0o755)
				unix.Symlink(outside, dst+PartialSuffix+"/evil")
				unix.Renameat2(unix.AT_FDCWD, dst+PartialSuffix+"/d", unix.AT_FDCWD, dst+PartialSuffix+"/evil", unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 200 {
		_ = Discard(dst, Options{}) // may fail with "not empty": it is being filled
		_ = os.Mkdir(dst+PartialSuffix, 0o755)
	}
	close(stop)
	wg.Wait()
	must(t, Discard(dst, Options{}))
	if _, err := os.Stat(outside + "/keep/f"); err != nil {
		t.Error("something outside was removed: ", err)
	}
}

func TestMountsAreLeftOut(t *testing.T) {
	require.Root(t)
	src, dst := place(t)
	put(t, src+"/f", "mine")
	put(t, src+"/d/under", "mine")
	put(t, src+"/bound", "mine")
	outside := t.TempDir()
	put(t, outside+"/f", secret)
	for from, to := range map[string]string{outside: src + "/d", outside + "/f": src + "/bound"} {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			require.Missing(t, "needs to mount: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
	}
	stats, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	if got := strings.Join(skipped(stats), ", "); got != "bound: something else is mounted there, d: something else is mounted there" {
		t.Errorf("skipped %s, want %q", got, "bound: something else is mounted there, d: something else is mounted there")
	}
	if entries, _ := os.ReadDir(dst); len(entries) != 1 {
		t.Errorf("copied %v; want 1 entries", entries)
	}
}

func TestTooDeep(t *testing.T) {
	src, dst := place(t)
	dir, err := os.OpenRoot(src)
	must(t, err)
	for range maxDepth + 5 {
		must(t, dir.Mkdir("d", 0o755))
		next, err := dir.OpenRoot("d")
		must(t, err)
		dir.Close()
		dir = next
	}
	dir.Close()
	put(t, src+"/beside", "x")
	// With and without a precopy, and with a progress line, which measures.
	for _, o := range []Options{{}, {Progress: func(int64, int64) {}}} {
		_, err = Precopy(t.Context(), src, dst, o)
		must(t, err)
		stats, err := Copy(t.Context(), src, dst, o)
		must(t, err)
		lost := stats.Lost()
		if len(lost) != 1 || lost[0].Path != strings.TrimSuffix(strings.Repeat("d/", maxDepth+1), "/") || !strings.Contains(lost[0].Why, "more than 256 directories deep") {
			t.Errorf("lost %q", lost)
		}
		if b, err := os.ReadFile(dst + "/beside"); err != nil || string(b) != "x" {
			t.Errorf("what is beside is not copied: %q, %v", b, err)
		}
		must(t, Remove(dst))
		if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

func TestIndexReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		root := inode{rapid.Uint64().Draw(t, "dev"), rapid.Uint64().Draw(t, "ino")}
		w := newIndexWriter(root)
		want := map[string]record{}
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			rel := rapid.String().Draw(t, "path")
			want[rel] = record{
				inode{rapid.Uint64().Draw(t, "d"), rapid.Uint64().Draw(t, "i")}, rapid.Uint64().Draw(t, "size"),
				rapid.Int64().Draw(t, "sec"), rapid.Uint32().Draw(t, "nsec"), rapid.Uint16().Draw(t, "mode"), rapid.Bool().Draw(t, "racy"),
			}
			w.add(rel, want[rel])
		}
		b := sealed(w)
		got, err := parseIndex(b, root)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v, %v; want no error and %v of them", got, err, len(want))
		}
		for rel, r := range want {
			if got[rel] != r {
				t.Fatalf("%q: got %+v, want %+v", rel, got[rel], r)
			}
		}
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1
		if _, err := parseIndex(b, root); err == nil {
			t.Fatal("damage was not noticed")
		}
	})
}

func FuzzIndex(f *testing.F) {
	w := newIndexWriter(inode{1, 2})
	w.add("a/b", record{size: 3})
	f.Add(sealed(w)[:len(sealed(w))-4])
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseIndex(sealed(&indexWriter{b: b}), inode{1, 2})
	})
}
