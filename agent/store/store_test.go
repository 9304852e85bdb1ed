package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/e2e/need"
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
			t.Errorf("%s: %q, %v", path, b, err)
		}
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != want.mode {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	for _, path := range []string{"", "bin", "share/doc", ".lull", ".lull/sub"} {
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	link, _ := os.Stat(filepath.Join(dir, "bin/app"))
	blob, _ := os.Stat(s.BlobPath(store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}))
	if !os.SameFile(link, blob) {
		t.Error("bin/app is no hard link")
	}
	if got := s.Packages(); len(got) != 2 {
		t.Errorf("Packages: %v", got)
	}
	if got, ok := s.Find(one.Short()); !ok || got != one {
		t.Errorf("Find: %v, %v", got, ok)
	}
	if _, ok := s.Find(strings.Repeat("0", 16)); ok {
		t.Error("Find finds what is not there")
	}
	if m, err := s.Meta(one); err != nil || m.Version != "1" {
		t.Errorf("Meta: %v, %v", m, err)
	}
	if missing, err := s.Missing(one); err != nil || len(missing) != 0 {
		t.Errorf("Missing: %v, %v", missing, err)
	}
	if n, bytes, err := s.Usage(); err != nil || n != len(storetest.Keys(t, s)) || bytes == 0 {
		t.Errorf("Usage: %d, %d, %v", n, bytes, err)
	}
	storetest.Clean(t, s)
}

func TestMissing(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	if missing, err := s.Missing(one); err != nil || len(missing) != 1 || missing[0] != (store.Want{Key: store.MetaKey(one), Size: -1}) {
		t.Errorf("of an unknown package: %v, %v", missing, err)
	}
	r.Put(t, s, one)
	if err := os.Remove(s.BlobPath(store.Key{Digest: digest.Of([]byte("app 1")), Exec: true})); err != nil {
		t.Fatal(err)
	}
	missing, err := s.Missing(one)
	if err != nil || len(missing) != 1 || missing[0].Size != 5 || !missing[0].Key.Exec {
		t.Errorf("of a package with a lost blob: %v, %v", missing, err)
	}
	if err := s.Materialise(two); !problem.Is(err, problem.NotFound) {
		t.Errorf("Materialise without a meta: %v", err)
	}
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
			t.Errorf("%s: trees %v", what, got)
		}
		if names, _ := filepath.Glob(filepath.Join(s.Root(), "packages/.*")); len(names) > 0 {
			t.Errorf("%s: left behind: %v", what, names)
		}
	}
	// One blob is missing, another is in the trash.
	m, err := meta.Parse(r.Content(two))
	if err != nil {
		t.Fatal(err)
	}
	same := store.Key{Digest: digest.Of([]byte("same"))}
	taken, _, err := s.TakeAway([]store.Key{same}, nil, func(store.Key) (bool, error) { return true, nil })
	if err != nil || len(taken) != 1 {
		t.Fatal(taken, err)
	}
	known := map[digest.Digest]*meta.Meta{two: m}
	app := store.Want{Key: store.Key{Digest: digest.Of([]byte("app 2")), Exec: true}, Size: 5}
	g, missing, err := s.Stage(two, known)
	if err != nil || len(missing) != 1 || missing[0] != app || !s.Has(same) {
		t.Fatalf("Stage: %v, %v", missing, err)
	}
	if err := g.Finish(); !problem.Is(err, problem.NotFound) || !strings.Contains(fmt.Sprint(err), "bin/app: blob "+app.Key.String()+" is not resident") {
		t.Errorf("Finish without a blob: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	left("Close")

	// Another file under the name of one that the package wants.
	path := s.BlobPath(same)
	storetest.Replace(t, path, []byte("longer than that"))
	if _, _, err := s.Stage(two, known); !problem.Is(err, problem.Untrusted) || !strings.Contains(fmt.Sprint(err), "share/doc/read me: blob "+same.Digest.Short()+" has 16 bytes, the package says 4") || problem.HintOf(err) == "" {
		t.Errorf("Stage with a blob of another size: %v", err)
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
				t.Errorf("%s: %q, %v", name, b, err)
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
		kind  problem.Kind
		keeps int64
	}{
		{"altered", 12, []string{"good contenT"}, problem.Untrusted, 0},
		{"altered, size unknown", -1, []string{"good contenT"}, problem.Untrusted, 0},
		{"longer", 12, []string{"good ", "content", "!"}, problem.Untrusted, 0},
		{"truncated", 12, []string{"good "}, problem.Unavailable, 5},
		{"continued", 12, []string{"content"}, "", 0},
	} {
		if err := write(c.size, c.parts...); problem.KindOf(err) != c.kind {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := i.Partial(key); got != c.keeps {
			t.Errorf("%s: keeps %d bytes", c.what, got)
		}
		if s.Has(key) {
			t.Errorf("%s: resident before commit", c.what)
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

// TestIngestResumes looks at what another process finds after this one died.
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
	if _, err := s.Ingest(pkg); !problem.Is(err, problem.Busy) {
		t.Errorf("a second ingest of the package: %v", err)
	}

	s2, err := store.Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := s2.Ingests(); err != nil || len(left) != 1 {
		t.Errorf("Ingests: %v, %v", left, err)
	}
	i, err = s2.Ingest(pkg)
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range contents {
		k := store.Key{Digest: digest.Of([]byte(c)), Exec: n == 0}
		if got := i.Has(k); got != (n == 0) {
			t.Errorf("blob %d: Has is %v", n, got)
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
		if n == 1 && !problem.Is(err, problem.Untrusted) || n == 2 && err != nil {
			t.Errorf("blob %d: %v", n, err)
		}
	}
	if err := errors.Join(i.Commit(), i.Abort()); err != nil {
		t.Fatal(err)
	}
	if n := len(storetest.Keys(t, s2)); n != 2 {
		t.Errorf("%d blobs are resident", n)
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
			t.Errorf("%s: %v", pattern, got)
		}
	}
}

func TestTrash(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	a := store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}
	b := store.Key{Digest: digest.Of([]byte("libc"))}
	c := store.Key{Digest: digest.Of([]byte("same"))}
	nobody := store.Key{Digest: digest.Of([]byte("not there"))}
	tree, err := s.TakeTree(one, func() (bool, error) { return false, nil })
	if tree != nil || err != nil || !s.HasPackage(one) {
		t.Errorf("TakeTree took what it must not: %v, %v", tree, err)
	}
	if tree, err = s.TakeTree(one, func() (bool, error) { return true, nil }); err != nil || s.HasPackage(one) {
		t.Errorf("TakeTree: %v, %v", tree, err)
	}
	taken, _, err := s.TakeAway([]store.Key{a, b, c, nobody}, nil, func(k store.Key) (bool, error) { return k != c, nil })
	if err != nil || len(taken) != 2 || s.Has(a) || !s.Has(c) {
		t.Errorf("TakeAway: %v, %v", taken, err)
	}
	// A resolve wants one back.
	if absent, err := s.Absent([]store.Want{{a, -1}, {c, -1}, {nobody, -1}}); err != nil || len(absent) != 1 || absent[0].Key != nobody || !s.Has(a) {
		t.Errorf("Absent: %v, %v", absent, err)
	}
	if deleted, err := s.Discard(taken); err != nil || len(deleted) != 1 || deleted[0] != b {
		t.Errorf("Discard: %v, %v", deleted, err)
	}
	if s.Has(b) || !s.Has(a) {
		t.Error("the wrong one is gone")
	}
	// What lies in the tree stays there, and is taken back from there.
	help := store.Key{Digest: digest.Of([]byte(""))}
	taken, inTree, err := s.TakeAway([]store.Key{a, b, help, c}, tree, func(store.Key) (bool, error) { return true, nil })
	if err != nil || len(taken) != 0 || len(inTree) != 3 || s.Has(a) {
		t.Errorf("TakeAway: %v, %v, %v", taken, inTree, err)
	}
	if absent, err := s.Absent([]store.Want{{Key: a}}); err != nil || len(absent) != 0 || !s.Has(a) {
		t.Errorf("Absent: %v, %v", absent, err)
	}
	if deleted, err := s.DiscardTree(tree); err != nil || len(deleted) != 2 || s.Has(help) || !s.Has(a) {
		t.Errorf("DiscardTree: %v, %v", deleted, err)
	}
	if absent, err := s.Absent([]store.Want{{Key: help}}); err != nil || len(absent) != 1 {
		t.Errorf("Absent of what is deleted: %v, %v", absent, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "trash/*/*")); len(left) > 0 {
		t.Errorf("left in the trash: %v", left)
	}
	stop := errors.New("stop")
	if taken, _, err := s.TakeAway([]store.Key{a}, nil, func(k store.Key) (bool, error) { return true, stop }); !errors.Is(err, stop) || len(taken) != 0 {
		t.Errorf("TakeAway after an error: %v, %v", taken, err)
	}
}

// TestAskedWhileTaken: who asks for a blob that the collector is about to take, for
// he had registered it too late to be seen, hears the truth.
func TestAskedWhileTaken(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	r.Put(t, s, one)
	r.Put(t, s, two)
	same := store.Key{Digest: digest.Of([]byte("same"))}
	for name, ask := range map[string]func() ([]store.Want, error){
		"Absent": func() ([]store.Want, error) { return s.Absent([]store.Want{{same, 4}}) },
		"Restage": func() ([]store.Want, error) {
			g, missing, err := s.Restage(two, nil)
			if err == nil {
				err = g.Close()
			}
			return missing, err
		},
	} {
		answer := make(chan error, 1)
		_, _, err := s.TakeAway([]store.Key{same}, nil, func(store.Key) (bool, error) {
			go func() {
				missing, err := ask()
				if err == nil && len(missing) > 0 {
					err = fmt.Errorf("missing: %v", missing)
				}
				answer <- err
			}()
			select {
			case err := <-answer:
				t.Errorf("%s: answered before it was decided, %v", name, err)
				answer <- err
			case <-time.After(50 * time.Millisecond): // long enough for a wrong answer
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil || !s.Has(same) {
			t.Errorf("%s: %v", name, err)
		}
	}
	storetest.Clean(t, s)
}

func TestVerify(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, runtime := apps(t, r)
	r.Put(t, s, one)
	r.Put(t, s, two)
	last, calls := int64(0), 0
	findings, n, err := s.Verify(context.Background(), func(done, total int64) {
		calls++
		if done < last || done > total {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last = done
	})
	if err != nil || len(findings) != 0 || n != len(storetest.Keys(t, s)) || calls == 0 {
		t.Fatalf("%v, %d, %v", findings, n, err)
	}

	same := store.Key{Digest: digest.Of([]byte("same"))}
	storetest.Replace(t, s.BlobPath(same), []byte("sane"))
	app2 := store.Key{Digest: digest.Of([]byte("app 2")), Exec: true}
	os.Chmod(s.BlobPath(app2), 0o777)
	in := func(pkg digest.Digest, path string) string { return filepath.Join(s.PackageDir(pkg), path) }
	os.Remove(in(one, "empty"))
	os.WriteFile(in(one, "bin/foreign"), nil, 0o644)
	os.Remove(in(one, "bin/app"))
	os.WriteFile(in(one, "bin/app"), []byte("evil!"), 0o555)
	os.Remove(in(one, "bin/other"))
	os.Symlink("/bin/sh", in(one, "bin/other"))
	os.Chmod(in(one, "share/doc"), 0o777)
	os.Remove(in(two, ".lull/launch.json"))
	os.WriteFile(in(two, ".lull/launch.json"), []byte("{}"), 0o444)
	os.MkdirAll(in(two, "extra/deep"), 0o755)
	os.WriteFile(filepath.Join(s.Root(), "blobs/00/junk"), nil, 0o644)
	os.WriteFile(filepath.Join(s.Root(), "packages/junk"), nil, 0o644)
	libc := store.Key{Digest: digest.Of([]byte("libc"))}
	os.Remove(s.BlobPath(libc))
	storetest.Replace(t, s.BlobPath(store.MetaKey(two)), []byte("{}"))

	findings, _, err = s.Verify(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := func(pkg digest.Digest) string { return "packages/" + pkg.String() + "/" }
	b := func(k store.Key) string { return "blobs/" + k.String()[:2] + "/" + k.String() }
	want := map[string]digest.Digest{
		b(same) + " has other content than its name promises":               digest.Digest{},
		b(app2) + " has mode 0777 instead of 0555":                          digest.Digest{},
		b(store.MetaKey(two)) + " has other content than its name promises": two,
		b(libc) + " is missing":                                             runtime,
		"blobs/00/junk does not belong into the store":                      {},
		"packages/junk does not belong into the store":                      {},
		p(one) + "empty is missing":                                         one,
		p(one) + "bin/foreign does not belong to the package":               one,
		p(one) + "bin/app has other content than its name promises":         one,
		p(one) + "bin/other is no symlink to app":                           one,
		p(one) + "share/doc has mode 0777 instead of 0755":                  one,
	}
	got := map[string]store.Finding{}
	for _, f := range findings {
		got[f.What+" "+f.Problem] = f
	}
	for text, pkg := range want {
		f, ok := got[text]
		if !ok {
			t.Errorf("not found: %s", text)
		} else if !pkg.IsZero() && f.Package != pkg {
			t.Errorf("%s: package %s, want %s", text, f.Package, pkg)
		}
		delete(got, text)
	}
	for text := range got {
		t.Errorf("unexpected: %s", text)
	}

	// Repair, as the agent does it: condemn, put again, build again.
	packages := map[digest.Digest]bool{one: true, two: true, runtime: true}
	for _, f := range findings {
		if err := s.Condemn(f); err != nil {
			t.Error(err)
		}
	}
	for pkg := range packages {
		r.Put(t, s, pkg)
		rebuild(t, s, pkg)
	}
	storetest.Clean(t, s)
}

// rebuild builds a tree again from blobs that are all there.
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

func TestVerifyStops(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := s.Verify(ctx, nil); !problem.Is(err, problem.Interrupted) {
		t.Error(err)
	}
}

// TestVerifyAcceptsCopies: a tree may hold a copy where links ran out.
func TestVerifyAcceptsCopies(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	path := filepath.Join(s.PackageDir(one), "bin/app")
	b, _ := os.ReadFile(path)
	os.Remove(path)
	os.WriteFile(path, b, 0o555)
	os.Chmod(path, 0o555)
	storetest.Clean(t, s)
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
			t.Errorf("SetReserve(%d): %d bytes, %v", c.set, size(), err)
		}
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 1<<16 || size() != 0 {
		t.Errorf("ReleaseReserve: %d, %v", n, err)
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 0 {
		t.Errorf("ReleaseReserve again: %d, %v", n, err)
	}
	if err := s.RestoreReserve(); err != nil || size() != 1<<16 {
		t.Errorf("RestoreReserve: %d bytes, %v", size(), err)
	}
	if err := s.SetReserve(0); err != nil || size() != 0 {
		t.Errorf("SetReserve(0): %v", err)
	}
}

// TestFullDisk: a commit on a full disk fails as NoSpace, harms nothing, and
// goes through once there is room.
func TestFullDisk(t *testing.T) {
	need.Root(t)
	root := t.TempDir()
	if err := unix.Mount("lull-test", root, "tmpfs", 0, "size=1m"); err != nil {
		need.Missing(t, "needs to mount a tmpfs: %v", err)
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
	if err := put(); !problem.Is(err, problem.NoSpace) {
		t.Fatalf("on a full disk: %v", err)
	}
	if i.Partial(k) == 0 {
		t.Error("what was written is forgotten")
	}
	if n, err := s.ReleaseReserve(); err != nil || n != 200<<10 {
		t.Fatalf("%d, %v", n, err)
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
			t.Errorf("%v: %v, %v", k, got, err)
		}
	}
	for _, s := range []string{"", "x", d.String() + "y", strings.ToUpper(d.String()), d.String() + "xx", d.String()[1:]} {
		if _, err := store.ParseKey(s); err == nil {
			t.Errorf("accepted %q", s)
		}
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
			t.Fatalf("%s: %q, %v", path, b, err)
		}
	}
	if findings, _, err := s.Verify(t.Context(), nil); err != nil || len(findings) > 0 {
		t.Fatal(findings, err)
	}
}
