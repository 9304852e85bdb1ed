package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/require"
)

// apps makes two versions of a package that share a subpackage.
func apps(t *testing.T, r *storetest.Repo) (one, two, runtime digest.Digest) {
	runtime = r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"lib/libc": "libc", "same": "same"}})
	subs := map[string]digest.Digest{"rt": runtime}
	one = r.Package(t, storetest.Spec{
		Name: "app", Version: "1", Subs: subs,
		Files: map[string]string{"bin/app*": "app 1", "share/doc/read me": "same", "share/script*": "same", "empty": ""},
		Links: map[string]string{"lib": ".lull/sub/rt/lib", "bin/other": "app"},
	})
	two = r.Package(t, storetest.Spec{Name: "app", Version: "2", Subs: subs, Files: map[string]string{"bin/app*": "app 2", "share/doc/read me": "same"}})
	return one, two, runtime
}

func TestMissing(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	if missing, err := s.Missing(one); err != nil || len(missing) != 1 || missing[0] != (store.Want{Key: store.MetaKey(one), Size: -1}) {
		t.Errorf("Missing of an unknown package: got %v, %v; want its manifest with unknown size, and no error", missing, err)
	}
	r.Put(t, s, one)
	if err := os.Remove(s.BlobPath(store.Key{Digest: digest.Of([]byte("app 1")), Exec: true})); err != nil {
		t.Fatal(err)
	}
	missing, err := s.Missing(one)
	if err != nil || len(missing) != 1 || missing[0].Size != 5 || !missing[0].Key.Exec {
		t.Errorf("Missing of a package with a lost blob: got %v, %v; want the executable of 5 bytes and no error", missing, err)
	}
	if err := s.Materialise(two); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("Materialise without a meta: %v", err)
	}
}

func TestWriterRefuses(t *testing.T) {
	s := storetest.Open(t)
	good := []byte("good content")
	key := store.Key{Digest: digest.Of(good)}
	i, err := s.Ingest(digest.Of([]byte("pkg")))
	if err != nil {
		t.Fatal(err)
	}
	write := func(size int64, parts ...string) error {
		w, err := i.Create(key, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if _, err := w.Write([]byte(p)); err != nil {
				break
			}
		}
		return w.Close()
	}
	for _, c := range []struct {
		what  string
		size  int64
		parts []string
		kind  errkind.Kind
		keeps int64
	}{
		{"altered", 12, []string{"good contenT"}, errkind.Untrusted, 0},
		{"altered, size unknown", -1, []string{"good contenT"}, errkind.Untrusted, 0},
		{"longer", 12, []string{"good ", "content", "!"}, errkind.Untrusted, 0},
		{"truncated", 12, []string{"good "}, errkind.Unavailable, 5},
		{"continued", 12, []string{"content"}, "", 0},
	} {
		if err := write(c.size, c.parts...); errkind.KindOf(err) != c.kind {
			t.Errorf("%s: got %v, want an error of kind %q, or none if that is empty", c.what, err, c.kind)
		}
		if got := i.Partial(key); got != c.keeps {
			t.Errorf("%s: keeps %d bytes, want %v", c.what, got, c.keeps)
		}
		if s.Has(key) {
			t.Errorf("%s: the blob is resident before Commit, want it not to be", c.what)
		}
	}
	if err := errors.Join(i.Commit(), i.Close()); err != nil {
		t.Fatal(err)
	}
	if !s.Has(key) {
		t.Error("not resident after commit")
	}
	storetest.Clean(t, s)
}

// TestIngestResumes checks what another process finds after this one died.
func TestIngestResumes(t *testing.T) {
	s := storetest.Open(t)
	pkg := digest.Of([]byte("pkg"))
	contents := []string{"whole", "broken by a power cut", "begun and not ended"}
	i, err := s.Ingest(pkg)
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range contents {
		w, err := i.Create(store.Key{Digest: digest.Of([]byte(c)), Exec: n == 0}, int64(len(c)))
		if err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			c = c[:5]
		}
		w.Write([]byte(c))
		w.Close()
	}
	storetest.Replace(t, i.Path(store.Key{Digest: digest.Of([]byte(contents[1]))}), make([]byte, len(contents[1])))
	os.WriteFile(filepath.Join(s.Root(), "tmp", pkg.String(), "junk"), nil, 0o600)
	if _, err := s.Ingest(pkg); !errkind.Is(err, errkind.Busy) {
		t.Errorf("a second ingest of the package: got %v, want an error of kind %v", err, errkind.Busy)
	}

	s2, err := store.Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := s2.Ingests(); err != nil || len(left) != 1 {
		t.Errorf("Ingests: %v, %v; want no error and 1 left", left, err)
	}
	i, err = s2.Ingest(pkg)
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range contents {
		k := store.Key{Digest: digest.Of([]byte(c)), Exec: n == 0}
		if got := i.Has(k); got != (n == 0) {
			t.Errorf("blob %d: Has is %v; want %v", n, got, (n == 0))
		}
		if n == 0 {
			continue
		}
		w, err := i.Create(k, int64(len(c)))
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(c[w.Offset():]))
		err = w.Close()
		if n == 1 && !errkind.Is(err, errkind.Untrusted) || n == 2 && err != nil {
			t.Errorf("blob %d: got %v, want an error of kind %v for blob 1 and none for blob 2", n, err, errkind.Untrusted)
		}
	}
	if err := errors.Join(i.Commit(), i.Abort()); err != nil {
		t.Fatal(err)
	}
	if n := len(storetest.Keys(t, s2)); n != 2 {
		t.Errorf("%d blobs are resident, want 2", n)
	}
	storetest.Clean(t, s2)
}

// TestCommitKeepsInode: trees are linked to the inode that is resident.
func TestCommitKeepsInode(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	k := store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}
	before, _ := os.Stat(s.BlobPath(k))
	i, err := s.Ingest(one)
	if err != nil {
		t.Fatal(err)
	}
	w, err := i.Create(k, 5)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("app 1"))
	if err := errors.Join(w.Close(), i.Commit(), i.Close()); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(s.BlobPath(k)); !os.SameFile(before, after) {
		t.Error("the blob was replaced")
	}
	storetest.Clean(t, s)
}

func TestOpenCleans(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	r.Put(t, s, one)
	for _, path := range []string{
		"packages/.new." + two.String() + ".7/a/b", "trash/" + two.String() + ".tree-1/x", "trash/0/" + two.String(),
		"packages/.tmp-x-1", ".tmp-state.db-1", "tmp/" + two.String() + "/" + digest.Of(nil).String(), "other/kept",
	} {
		full := filepath.Join(s.Root(), path)
		os.MkdirAll(filepath.Dir(full), 0o755)
		if err := os.WriteFile(full, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Open(s.Root()); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]int{"packages/.*": 0, "trash/*": 16, "trash/*/*": 0, ".tmp*": 0, "tmp/*/*": 1, "other/*": 1, "packages/*": 2} {
		if got, _ := filepath.Glob(filepath.Join(s.Root(), pattern)); len(got) != want {
			t.Errorf("%s: %v; want %v of them", pattern, got, want)
		}
	}
}

func TestReserve(t *testing.T) {
	s := storetest.Open(t)
	size := func() int64 {
		fi, err := os.Stat(filepath.Join(s.Root(), "reserve"))
		if err != nil {
			return 0
		}
		return fi.Size()
	}
	for _, c := range []struct{ set, want int64 }{{1 << 20, 1 << 20}, {1 << 20, 1 << 20}, {1 << 16, 1 << 16}, {1 << 60, 0}, {1 << 16, 1 << 16}} {
		if err := s.SetReserve(c.set); err != nil || size() != c.want {
			t.Errorf("SetReserve(%d): got %d bytes, %v; want %d and no error", c.set, size(), err, c.want)
		}
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 1<<16 || size() != 0 {
		t.Errorf("ReleaseReserve: got %d bytes, %v, and %d left; want %d, no error and 0 left", n, err, size(), 1<<16)
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 0 {
		t.Errorf("ReleaseReserve again: %d, want 0, %v", n, err)
	}
	if err := s.RestoreReserve(); err != nil || size() != 1<<16 {
		t.Errorf("RestoreReserve: got %d bytes, %v; want %d and no error", size(), err, 1<<16)
	}
	if err := s.SetReserve(0); err != nil || size() != 0 {
		t.Errorf("SetReserve(0): got %d bytes, %v; want 0 and no error", size(), err)
	}
}

// TestFullDisk: a commit on a full disk fails as NoSpace, harms nothing, and
// goes through once there is room.
func TestFullDisk(t *testing.T) {
	require.Root(t)
	root := t.TempDir()
	if err := unix.Mount("lull-test", root, "tmpfs", 0, "size=1m"); err != nil {
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
	if err := s.SetReserve(200 << 10); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("x"), 900<<10)
	k := store.Key{Digest: digest.Of(content)}
	i, err := s.Ingest(digest.Of([]byte("pkg")))
	if err != nil {
		t.Fatal(err)
	}
	put := func() error {
		w, err := i.Create(k, int64(len(content)))
		if err != nil {
			return err
		}
		_, err = w.Write(content[w.Offset():])
		return errors.Join(err, w.Close())
	}
	if err := put(); !errkind.Is(err, errkind.NoSpace) {
		t.Fatalf("on a full disk: got %v, want an error of kind %v", err, errkind.NoSpace)
	}
	if i.Partial(k) == 0 {
		t.Error("what was written is forgotten")
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 200<<10 {
		t.Fatalf("%d, want %v, %v", n, 200<<10, err)
	}
	if err := errors.Join(put(), i.Commit(), i.Close()); err != nil {
		t.Fatal(err)
	}
	storetest.Clean(t, s)
}

func TestKeys(t *testing.T) {
	d := digest.Of(nil)
	for _, k := range []store.Key{{Digest: d}, {Digest: d, Exec: true}} {
		if got, err := store.ParseKey(k.String()); err != nil || got != k {
			t.Errorf("%v: %v, %v; want no error and %v", k, got, err, k)
		}
	}
	for _, s := range []string{"", "x", d.String() + "y", strings.ToUpper(d.String()), d.String() + "xx", d.String()[1:]} {
		if _, err := store.ParseKey(s); err == nil {
			t.Errorf("accepted %q; want an error", s)
		}
	}
}

func BenchmarkMissing15000(b *testing.B) {
	s, r := storetest.Open(b), storetest.New()
	files := map[string]string{}
	for i := range 15000 {
		files[fmt.Sprintf("usr/lib/d%03d/file%05d", i/60, i)] = fmt.Sprintf("content %d", i)
	}
	pkg := r.Package(b, storetest.Spec{Name: "large", Files: files})
	r.Put(b, s, pkg)
	for b.Loop() {
		if missing, err := s.Missing(pkg); err != nil || len(missing) > 0 {
			b.Fatal(missing, err)
		}
	}
}
