package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
)

func TestMaterialise(t *testing.T) {
	// Modes must not depend on the umask.
	defer unix.Umask(unix.Umask(0o077))
	s, r := storetest.Open(t), storetest.New()
	one, _, runtime := apps(t, r)
	r.Put(t, s, one)
	if !s.HasPackage(one) || !s.HasPackage(runtime) {
		t.Fatal("no tree")
	}
	dir := s.PackageDir(one)
	for path, want := range map[string]struct {
		mode    os.FileMode
		content string
	}{
		"bin/app": {0o555, "app 1"}, "share/doc/read me": {0o444, "same"}, "share/script": {0o555, "same"},
		"empty": {0o444, ""}, "lib/libc": {0o444, "libc"}, "bin/other": {0o555, "app 1"},
		".lull/meta.json": {0o444, string(r.Content(one))}, ".lull/sub/rt/same": {0o444, "same"},
		".lull/launch.json": {0o444, `{"name":"app","subpackages":{"rt":"` + runtime.String() + `"},"version":"1"}`},
	} {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || string(b) != want.content {
			t.Errorf("%s: %q, %v; want no error and content %v", path, b, err, want.content)
		}
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != want.mode {
			t.Errorf("%s: %v, want %v, %v", path, fi.Mode(), want.mode, err)
		}
	}
	for _, path := range []string{"", "bin", "share/doc", ".lull", ".lull/sub"} {
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, want %v, %v", path, fi.Mode(), os.ModeDir|0o755, err)
		}
	}
	link, _ := os.Stat(filepath.Join(dir, "bin/app"))
	blob, _ := os.Stat(s.BlobPath(store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}))
	if !os.SameFile(link, blob) {
		t.Error("bin/app is no hard link")
	}
	if got := s.Packages(); len(got) != 2 {
		t.Errorf("Packages: got %v, want 2 of them", got)
	}
	if got, ok := s.Find(one.Short()); !ok || got != one {
		t.Errorf("Find(%s): got %v, %v; want %v and true", one.Short(), got, ok, one)
	}
	if _, ok := s.Find(strings.Repeat("0", 16)); ok {
		t.Error("Find finds what is not there")
	}
	if m, err := s.Meta(one); err != nil || m.Version != "1" {
		t.Errorf("Meta: %v, %v; want no error and version %q", m, err, "1")
	}
	if missing, err := s.Missing(one); err != nil || len(missing) != 0 {
		t.Errorf("Missing: %v, %v; want no error and 0 missing", missing, err)
	}
	if n, bytes, err := s.Usage(); err != nil || n != len(storetest.Keys(t, s)) || bytes == 0 {
		t.Errorf("Usage: got %d, %d, %v; want %d blobs, more than 0 bytes and no error", n, bytes, err, len(storetest.Keys(t, s)))
	}
	storetest.Clean(t, s)
}

// TestStage: a tree is begun with what is resident, finished with the rest, and
// leaves nothing behind if it comes to nothing.
func TestStage(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, runtime := apps(t, r)
	r.Put(t, s, one)
	left := func(what string) {
		t.Helper()
		if got := s.Packages(); len(got) != 2 || s.HasPackage(two) {
			t.Errorf("%s: got trees %v, want 2 without %s", what, got, two)
		}
		if names, _ := filepath.Glob(filepath.Join(s.Root(), "packages/.*")); len(names) > 0 {
			t.Errorf("%s: left behind: %v", what, names)
		}
	}
	// One blob is missing, another is in the trash.
	m, err := manifest.Parse(r.Content(two))
	if err != nil {
		t.Fatal(err)
	}
	same := store.Key{Digest: digest.Of([]byte("same"))}
	taken, _, err := s.Trash([]store.Key{same}, nil, func(store.Key) (bool, error) { return true, nil })
	if err != nil || len(taken) != 1 {
		t.Fatal(taken, err)
	}
	known := map[digest.Digest]*manifest.Meta{two: m}
	app := store.Want{Key: store.Key{Digest: digest.Of([]byte("app 2")), Exec: true}, Size: 5}
	g, missing, err := s.Stage(two, known)
	if err != nil || len(missing) != 1 || missing[0] != app || !s.Has(same) {
		t.Fatalf("Stage: got %v missing, %v, and %v resident: %v; want %v missing, no error and true", missing, err, same, s.Has(same), app)
	}
	if err := g.Finish(); !errkind.Is(err, errkind.NotFound) || !strings.Contains(fmt.Sprint(err), "bin/app: blob "+app.Key.String()+" is not resident") {
		t.Errorf("Finish without a blob: got %v, want an error of kind %v that names the blob", err, errkind.NotFound)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	left("Close")

	// Another file under the name of one that the package wants.
	path := s.BlobPath(same)
	storetest.Replace(t, path, []byte("longer than that"))
	if _, _, err := s.Stage(two, known); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(fmt.Sprint(err), "share/doc/read me: blob "+same.Digest.Short()+" has 16 bytes, the package names 4") || errkind.HintOf(err) == "" {
		t.Errorf("Stage with a blob of another size: got %v with hint %q, want an error of kind %v about 16 bytes instead of 4, with a hint", err, errkind.HintOf(err), errkind.Untrusted)
	}
	left("a blob of another size")
	storetest.Replace(t, path, []byte("same"))

	// A broken one that is found out, and mended, while the tree is under construction.
	storetest.Replace(t, path, []byte("SAME"))
	broken, _, err := s.Stage(two, known)
	if err == nil {
		err = s.DropBlob(same)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Put(t, s, one)
	rebuild(t, s, one)

	// Twice at once, with the rest resident before the one and the other finishes.
	var both [2]*store.Staging
	for i := range both {
		if both[i], missing, err = s.Stage(two, known); err != nil || len(missing) != 1 {
			t.Fatal(missing, err)
		}
	}
	i, err := s.Ingest(two)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []store.Key{app.Key, store.MetaKey(two)} {
		w, err := i.Create(k, -1)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(r.Content(k.Digest))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(i.Commit(), i.Close()); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*store.Staging{broken, both[0], both[1]} {
		if err := errors.Join(g.Finish(), g.Close()); err != nil {
			t.Error(err)
		}
		for name, want := range map[string]string{"bin/app": "app 2", "share/doc/read me": "same"} {
			if b, err := os.ReadFile(filepath.Join(s.PackageDir(two), name)); err != nil || string(b) != want {
				t.Errorf("%s: %q, %v; want no error and content %v", name, b, err, want)
			}
		}
	}

	// In place of a broken one, and where there is none any more.
	os.Remove(filepath.Join(s.PackageDir(two), "bin/app"))
	g, missing, err = s.Restage(two, nil)
	if err != nil || len(missing) > 0 {
		t.Fatal(missing, err)
	}
	if tree, err := s.TakeTree(runtime, func() (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	} else if _, err := s.DiscardTree(tree); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Finish(), g.Close(), s.Materialise(runtime)); err != nil {
		t.Error(err)
	}
	storetest.Clean(t, s)
}

// rebuild rebuilds a tree from blobs that are all resident.
func rebuild(t *testing.T, s *store.Store, pkg digest.Digest) {
	t.Helper()
	g, missing, err := s.Restage(pkg, nil)
	if err != nil || len(missing) > 0 {
		t.Fatal(missing, err)
	}
	if err := errors.Join(g.Finish(), g.Close()); err != nil {
		t.Error(err)
	}
}

func BenchmarkMaterialise15000(b *testing.B) {
	s, r := storetest.Open(b), storetest.New()
	files := map[string]string{}
	for i := range 15000 {
		files[fmt.Sprintf("usr/lib/d%03d/file%05d", i/60, i)] = fmt.Sprintf("content %d", i)
	}
	pkg := r.Package(b, storetest.Spec{Name: "large", Files: files})
	r.Put(b, s, pkg)
	for b.Loop() {
		b.StopTimer()
		tree, err := s.TakeTree(pkg, func() (bool, error) { return true, nil })
		if err == nil {
			_, err = s.DiscardTree(tree)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := s.Materialise(pkg); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMaterialiseManyFiles: a large tree is built by several goroutines; each file must be there.
func TestMaterialiseManyFiles(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	files := map[string]string{}
	for n := range 1000 {
		files[fmt.Sprintf("d%02d/f%03d", n%37, n)] = fmt.Sprint("file ", n)
	}
	pkg := r.Package(t, storetest.Spec{Name: "many", Version: "1", Files: files})
	r.Put(t, s, pkg)
	for path, want := range files {
		if b, err := os.ReadFile(filepath.Join(s.PackageDir(pkg), path)); err != nil || string(b) != want {
			t.Fatalf("%s: %q, %v; want no error and content %v", path, b, err, want)
		}
	}
	if findings, _, err := s.Verify(t.Context(), nil, nil); err != nil || len(findings) > 0 {
		t.Fatal(findings, err)
	}
}
