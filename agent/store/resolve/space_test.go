package resolve_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// small makes a world on a file system of that many bytes.
func small(t *testing.T, bytes int) *world { return limited(t, fmt.Sprintf("size=%d", bytes)) }

// limited makes a world on a file system with those limits, see tmpfs(5).
func limited(t *testing.T, limits string) *world {
	require.Root(t)
	root := t.TempDir()
	if err := unix.Mount("lull-test", root, "tmpfs", 0, limits); err != nil {
		require.Missing(t, "needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{r: storetest.New()}
	w.open(s)
	return w
}

// sized makes a package of that many bytes.
func (w *world) sized(t *testing.T, name string, n int) digest.Digest {
	files := map[string]string{}
	for i := range 4 {
		files[fmt.Sprint(i)] = strings.Repeat(fmt.Sprintf("%s %d ", name, i), n/4)[:n/4]
	}
	return w.r.Package(t, storetest.Spec{Name: name, Files: files})
}

// TestReserveIsCountedOnce: the file of the reserve takes its space already, so that all of the
// free space can be used. Without the file, its size stays free. The error names the reserve.
func TestReserveIsCountedOnce(t *testing.T) {
	w := small(t, 8<<20)
	if err := w.s.SetReserve(2 << 20); err != nil {
		t.Fatal(err)
	}
	if want, have, err := w.s.Reserve(); err != nil || want != have {
		t.Fatalf("%d of %d, %v; want no error and want %v", have, want, err, have)
	}
	fits, large := w.sized(t, "fits", 5<<20), w.sized(t, "large", 7<<20)
	refused := func(text string) {
		t.Helper()
		err := w.res.Resolve(context.Background(), large, w.r, "test", nil)
		if !errkind.Is(err, errkind.NoSpace) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v\nwant %s", err, text)
		}
	}
	refused(" free beside a reserve of 2.1 MB (gc.reserve in the policy), ")
	w.resolve(t, fits)
	if _, err := w.s.ReleaseReserve(); err != nil {
		t.Fatal(err)
	}
	refused(" free, of which 2.1 MB are a reserve (gc.reserve in the policy), ")
}

func TestAdmission(t *testing.T) {
	w := small(t, 2<<20)
	one, two := w.sized(t, "one", 1<<20), w.sized(t, "two", 1500<<10)
	w.ix.SetInstalled([]index.Root{{Package: one, Holder: "one"}})
	w.resolve(t, one)
	fetches := w.r.Total()
	err := w.res.Resolve(context.Background(), two, w.r, "test", nil)
	if !errkind.Is(err, errkind.NoSpace) || !strings.HasPrefix(err.Error(), "cannot fetch two 1: 1.5 MB needed, ") || !strings.HasSuffix(err.Error(), "0 B can be freed") || errkind.HintOf(err) == "" {
		t.Errorf("got %v with hint %q, want an error of kind %v that says 1.5 MB are needed and 0 B can be freed, with a hint", err, errkind.HintOf(err), errkind.NoSpace)
	}
	if n := w.r.Total() - fetches; n != 1 {
		t.Errorf("%d fetches, only the meta is needed to know, want 1", n)
	}
	// A collection that would not help is not made.
	w.ix.SetInstalled(nil)
	collected := 0
	w.res.Collect = func(ctx context.Context) error {
		collected++
		_, err := gc.Collect(ctx, w.s, w.ix, gc.Options{})
		return err
	}
	huge := w.sized(t, "huge", 3<<20)
	if err := w.res.Resolve(context.Background(), huge, w.r, "test", nil); !errkind.Is(err, errkind.NoSpace) || collected != 0 {
		t.Errorf("%v after %d collections", err, collected)
	}
	if !strings.Contains(err.Error(), "free") {
		t.Error(err)
	}
	if err := w.res.Resolve(context.Background(), two, w.r, "test", nil); err != nil || collected != 1 {
		t.Errorf("%v after %d collections, want 1", err, collected)
	}
	storetest.Clean(t, w.s)
	w.idle(t)
}

// TestNoRoomForFolders: a disk without room even for the directories of a tree
// that is mostly resident does not hide the size of the rest.
func TestNoRoomForFolders(t *testing.T) {
	w := limited(t, "nr_inodes=10000")
	files := map[string]string{}
	for i := range 60 {
		files[fmt.Sprintf("%d/file", i)] = fmt.Sprint(i)
	}
	one := w.r.Package(t, storetest.Spec{Name: "one", Files: files})
	w.ix.SetInstalled([]index.Root{{Package: one, Holder: "one"}})
	w.resolve(t, one)
	for i := range 40 {
		files[fmt.Sprintf("%d/more", i)] = fmt.Sprint("more ", i)
	}
	two := w.r.Package(t, storetest.Spec{Name: "two", Files: files})
	var st unix.Statfs_t
	if err := unix.Statfs(w.s.Root(), &st); err != nil {
		t.Fatal(err)
	}
	room := fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree+20)
	if err := unix.Mount("", w.s.Root(), "", unix.MS_REMOUNT, room); err != nil {
		t.Fatal(err)
	}
	fetches := w.r.Total()
	err := w.res.Resolve(context.Background(), two, w.r, "test", nil)
	if text := fmt.Sprint(err); !errkind.Is(err, errkind.NoSpace) || !strings.HasPrefix(text, "cannot fetch two 1: 40 files needed, ") {
		t.Error(err)
	}
	if n := w.r.Total() - fetches; n != 1 {
		t.Errorf("%d fetches, only the meta is needed to know, want 1", n)
	}
	if left, _ := filepath.Glob(filepath.Join(w.s.Root(), "packages/.*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	w.idle(t)
	if err := unix.Mount("", w.s.Root(), "", unix.MS_REMOUNT, "nr_inodes=10000"); err != nil {
		t.Fatal(err)
	}
	w.resolve(t, two)
	storetest.Clean(t, w.s)
}

// TestAdmissionCountsOthers: two resolves are not promised the same space.
func TestAdmissionCountsOthers(t *testing.T) {
	w := small(t, 2<<20)
	one, two := w.sized(t, "one", 1<<20), w.sized(t, "two", 1200<<10)
	fetching, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.r.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		if d != one && d != two {
			once.Do(func() { close(fetching) })
			<-goOn
		}
		return nil
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := w.res.Resolve(context.Background(), one, w.r, "one", nil); err != nil {
			t.Error(err)
		}
	})
	<-fetching
	if err := w.res.Resolve(context.Background(), two, w.r, "two", nil); !errkind.Is(err, errkind.NoSpace) {
		t.Error(err)
	}
	close(goOn)
	all.Wait()
	// Pledged space has been released.
	w.r.Before = nil
	if _, err := gc.Collect(context.Background(), w.s, w.ix, gc.Options{}); err != nil {
		t.Fatal(err)
	}
	w.resolve(t, two)
	storetest.Clean(t, w.s)
}

// TestFullDiskOnTheWay: the disk fills up behind the admission's back.
func TestFullDiskOnTheWay(t *testing.T) {
	w := small(t, 3<<20)
	one := w.sized(t, "one", 1<<20)
	ballast := filepath.Join(w.s.Root(), "ballast")
	fill := func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		f.Close()
	}
	var once sync.Once
	w.r.Before = func(_ context.Context, d digest.Digest, _ int64) error {
		if d != one {
			once.Do(fill)
		}
		return nil
	}
	if err := w.res.Resolve(context.Background(), one, w.r, "test", nil); !errkind.Is(err, errkind.NoSpace) {
		t.Fatal(err)
	}
	w.idle(t)
	os.Remove(ballast)
	once = sync.Once{}
	// A refused collection is reported after its purpose, with its hint.
	w.res.Collect = func(context.Context) error {
		return errkind.New(errkind.Busy, "cannot collect: the system is not committed").WithHint("commit it")
	}
	err := w.res.Resolve(context.Background(), one, w.r, "test", nil)
	if text := fmt.Sprint(err); !errkind.Is(err, errkind.NoSpace) || errkind.HintOf(err) != "commit it" || strings.Contains(text, "\n") ||
		!strings.HasSuffix(text, "; cannot collect: the system is not committed") {
		t.Errorf("got %q with hint %q, want one line of kind %v that ends with the refused collection, and the hint %q", text, errkind.HintOf(err), errkind.NoSpace, "commit it")
	}
	collected := 0
	w.res.Collect = func(context.Context) error {
		collected++
		if collected > 1 {
			t.Error("collected more than once")
		}
		return os.Remove(ballast)
	}
	os.Remove(ballast)
	once = sync.Once{}
	if err := w.res.Resolve(context.Background(), one, w.r, "test", nil); err != nil || collected != 1 {
		t.Errorf("%v after %d collections, want 1", err, collected)
	}
	storetest.Clean(t, w.s)
}
