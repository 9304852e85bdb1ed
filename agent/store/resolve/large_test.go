package resolve_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/storetest"
)

// TestManyEntries resolves a package of 100,000 files; 65,002 of them have one
// content: ext4 gives a file 65,000 names (the blob is one of them), and what it
// does not give is a copy.
func TestManyEntries(t *testing.T) {
	const entries, alike = 100_000, 65_002
	s, r := storetest.Open(t), storetest.New()
	w := &world{r: r}
	w.open(s)
	files := make(map[string]string, entries)
	name := func(n int) string { return fmt.Sprintf("d%03d/f%d", n%331, n) }
	want := func(n int) string {
		switch {
		case n < alike:
			return "alike"
		case n < alike+100:
			return "" // a file without content is a blob as others are
		}
		return fmt.Sprint("content ", n%500)
	}
	for n := range entries {
		files[name(n)] = want(n)
	}
	pkg := r.Package(t, storetest.Spec{Name: "many", Files: files})
	w.resolve(t, pkg)
	w.idle(t)
	for n := range entries {
		b, err := os.ReadFile(filepath.Join(s.PackageDir(pkg), name(n)))
		if err != nil || string(b) != want(n) {
			t.Fatalf("%s: %q, %v; want no error and content %v", name(n), b, err, want(n))
		}
	}
	if n := r.Total(); n != 503 {
		t.Errorf("%d fetches, want one for each content and the meta", n)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.BlobPath(store.Key{Digest: digest.Of([]byte("alike"))}), &st); err != nil {
		t.Fatal(err)
	}
	if most := ext4(t, s.BlobPath(store.Key{Digest: digest.Of([]byte("alike"))})); most > 0 && st.Nlink != most {
		t.Errorf("the blob has %d names, want all that the file system gives", st.Nlink)
	}
	storetest.Clean(t, s)

	if _, err := gc.Collect(t.Context(), s, w.ix, gc.Options{}); err != nil {
		t.Fatal(err)
	}
	if keys := storetest.Keys(t, s); len(keys) > 0 || s.HasPackage(pkg) {
		t.Errorf("%d blobs are left without a root", len(keys))
	}
}

// TestDeepSubpackages resolves 20 levels of two packages each; both have both
// packages of the next level: a million ways lead to the last.
func TestDeepSubpackages(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	w := &world{r: r}
	w.open(s)
	var subs map[string]digest.Digest
	all := 0
	for level := range 20 {
		next := map[string]digest.Digest{}
		for _, side := range []string{"left", "right"} {
			name := fmt.Sprint(side, 19-level)
			next[side] = r.Package(t, storetest.Spec{Name: name, Subs: subs, Files: map[string]string{"name": name}})
			all += 2
		}
		subs = next
	}
	top := r.Package(t, storetest.Spec{Name: "top", Subs: subs})
	w.resolve(t, top)
	w.idle(t)
	if n := r.Total(); n != all+1 {
		t.Errorf("%d fetches, want %d: each once", n, all+1)
	}
	storetest.Clean(t, s)

	// The lowest level lives as long as something reaches it.
	w.ix.SetInstalled([]index.Root{{Package: top, Holder: "top"}})
	if res, err := gc.Collect(t.Context(), s, w.ix, gc.Options{}); err != nil || res.Blobs != 0 {
		t.Errorf("%+v, %v; want no error and blobs 0", res, err)
	}
	if _, err := os.Stat(filepath.Join(s.PackageDir(top), strings.Repeat(".lull/sub/right/", 20), "name")); err != nil {
		t.Error(err)
	}
}

// TestMetaIsContent resolves packages that have metas among their files: that of
// their own subpackage, and that of a package that is none.
func TestMetaIsContent(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	w := &world{r: r}
	w.open(s)
	sub := r.Package(t, storetest.Spec{Name: "sub", Files: map[string]string{"a": "of sub"}})
	stranger := r.Package(t, storetest.Spec{Name: "stranger", Files: map[string]string{"b": "of the stranger"}})
	top := r.Package(t, storetest.Spec{Name: "top", Subs: map[string]digest.Digest{"sub": sub},
		Files: map[string]string{"sub.meta": string(r.Content(sub)), "stranger.meta": string(r.Content(stranger)), "exec*": string(r.Content(sub))}})
	w.resolve(t, top)
	w.idle(t)
	if n := r.Fetches(sub); n != 1 {
		t.Errorf("the meta was fetched %d times, want 1", n)
	}
	if n := r.Fetches(digest.Of([]byte("of the stranger"))); n != 0 || s.HasPackage(stranger) {
		t.Error("a file's content was taken for a subpackage")
	}
	storetest.Clean(t, s)
	// The stranger becomes a package, and ceases to be one: the file stays.
	w.resolve(t, stranger)
	w.ix.SetInstalled([]index.Root{{Package: top, Holder: "top"}})
	if _, err := gc.Collect(t.Context(), s, w.ix, gc.Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(s.PackageDir(top), "stranger.meta"))
	if err != nil || digest.Of(b) != stranger || s.HasPackage(stranger) {
		t.Errorf("got the file %q, %v and its package resident: %v; want the content of %s, no error and false", b, err, s.HasPackage(stranger), stranger)
	}
	storetest.Clean(t, s)
}

// ext4 returns how many names a file may have there; 0 for another file system.
func ext4(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.EXT4_SUPER_MAGIC {
		return 65_000
	}
	return 0
}
