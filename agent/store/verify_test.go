package store_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/e2e/require"
)

func TestVerify(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, runtime := apps(t, r)
	r.Put(t, s, one)
	r.Put(t, s, two)
	last, calls := int64(0), 0
	findings, n, err := s.Verify(context.Background(), func(done, total int64) {
		calls++
		if done < last || done > total {
			t.Errorf("progress goes from %d to %d of %d, want it to grow up to the total", last, done, total)
		}
		last = done
	}, nil)
	if err != nil || len(findings) != 0 || n != len(storetest.Keys(t, s)) || calls == 0 {
		t.Fatalf("got findings %v, %d blobs, error %v, %d calls of progress; want none, %d, no error, and at least 1", findings, n, err, calls, len(storetest.Keys(t, s)))
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

	findings, _, err = s.Verify(context.Background(), nil, nil)
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

	// Repair, as the agent does it: condemn, re-fetch, rebuild.
	packages := map[digest.Digest]bool{one: true, two: true, runtime: true}
	for _, f := range findings {
		if err := s.DropCorrupt(f); err != nil {
			t.Error(err)
		}
	}
	for pkg := range packages {
		r.Put(t, s, pkg)
		rebuild(t, s, pkg)
	}
	storetest.Clean(t, s)
}

func TestVerifyStops(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := s.Verify(ctx, nil, nil); !errkind.Is(err, errkind.Interrupted) {
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

// TestVerifyLeavesSealsAlone: a file that a refresh has leased is read without breaking
// the lease, which an open would do.
func TestVerifyLeavesSealsAlone(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	app := store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}
	leases := vacancy.NewLeases()
	seal, err := leases.Open("", []string{s.BlobPath(app)})
	if err != nil {
		t.Fatal(err)
	}
	defer seal.Close()
	if r := seal.Take(); !r.Granted() {
		require.Missing(t, "needs a file system with leases: %+v", r)
	}
	keys := len(storetest.Keys(t, s))
	through := 0
	var mu sync.Mutex
	verify := func() ([]store.Finding, int, error) {
		return s.Verify(t.Context(), nil, func(dev, ino uint64, read func(io.ReaderAt)) bool {
			was := leases.Read(vacancy.Inode{Dev: dev, Ino: ino}, read)
			mu.Lock()
			defer mu.Unlock()
			if was {
				through++
			}
			return was
		})
	}
	found, n, err := verify()
	if err != nil || n != keys || len(found) > 0 || through != 1 {
		t.Errorf("%d files were read, %d of them through a lease, want %d and 1: %v, %v", n, through, keys, found, err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	mine := 0
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "LEASE") && strings.Contains(line, fmt.Sprintf(" %d ", os.Getpid())) {
			mine++
			if !strings.Contains(line, "ACTIVE") { // a lease that something waits for is BREAKING or BROKEN
				t.Errorf("the lease is broken: got %s, want %q in the line", line, "ACTIVE")
			}
		}
	}
	if mine != 1 {
		t.Errorf("%d leases of this process, want 1:\n%s", mine, locks)
	}
	seal.Close()
	if found, n, err := verify(); err != nil || n != keys || len(found) > 0 || through != 1 {
		t.Errorf("without the seal: got %d files read, %d through a lease, findings %v, error %v; want %d, 1, none and no error", n, through, found, err, keys)
	}
}
