package current

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

func TestSwapNamesRevisionAndPackageAtOnce(t *testing.T) {
	root := t.TempDir()
	l, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Read("notes"); !errkind.Is(err, errkind.NotFound) {
		t.Fatalf("before the first swap: got %v, want an error of kind %v", err, errkind.NotFound)
	}
	one, two := digest.Of([]byte("1")), digest.Of([]byte("2"))
	for rev, pkg := range map[uint32]digest.Digest{1: one, 2: two} {
		if err := l.Add("notes", rev, pkg, rev-1); err != nil {
			t.Fatal(err)
		}
		if err := l.Add("notes", rev, pkg, rev-1); err != nil {
			t.Fatalf("a second time: %v", err)
		}
	}
	for _, want := range []struct {
		rev uint32
		pkg digest.Digest
	}{{1, one}, {2, two}, {1, one}} {
		if err := l.Swap("notes", want.rev); err != nil {
			t.Fatal(err)
		}
		rev, pkg, err := l.Read("notes")
		if err != nil || rev != want.rev || pkg != want.pkg {
			t.Fatalf("read %d %s %v, want %d %s", rev, pkg.Short(), err, want.rev, want.pkg.Short())
		}
	}
	// Any program may follow the links by itself.
	if real, err := filepath.EvalSymlinks(filepath.Join(root, "current")); err != nil || real == "" {
		t.Fatalf("the link of current: got %q, %v; want a path and no error", real, err)
	}
	if from, err := os.ReadFile(filepath.Join(root, "revisions/notes/2.from")); err != nil || string(from) != "1\n" {
		t.Fatalf("lineage %q %v; want no error and from %q", from, err, "1\n")
	}
	if list, err := l.Instances(); err != nil || len(list) != 1 || list[0] != "notes" {
		t.Fatalf("Instances: got %v, %v; want notes alone", list, err)
	}
	if err := l.Forget("notes", 2); err != nil {
		t.Fatal(err)
	}
	if list, err := l.Revisions("notes"); err != nil || len(list) != 1 || list[0] != 1 {
		t.Fatalf("Revisions: got %v, %v; want 1 alone", list, err)
	}
	if err := l.Swap("notes", 2); err == nil {
		t.Fatal("a forgotten revision became current")
	}
	if err := l.ForgetAll("notes"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Read("notes"); !errkind.Is(err, errkind.NotFound) {
		t.Fatalf("after the end: got %v, want an error of kind %v", err, errkind.NotFound)
	}
}

func TestForeignLinkIsRefused(t *testing.T) {
	root := t.TempDir()
	l, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/etc", "../revisions/other/1", "../revisions/notes/x", "1"} {
		os.Remove(filepath.Join(root, "current/notes"))
		if err := os.Symlink(target, filepath.Join(root, "current/notes")); err != nil {
			t.Fatal(err)
		}
		if rev, pkg, err := l.Read("notes"); err == nil {
			t.Errorf("%s was read as revision %d, %s; want an error", target, rev, pkg)
		}
	}
}

// TestTidy: the remains of a crash are removed when the links are re-opened.
func TestTidy(t *testing.T) {
	root := t.TempDir()
	l, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add("a", 1, digest.Digest{1}, 0); err != nil {
		t.Fatal(err)
	}
	left := []string{filepath.Join(root, "current/.tmp-a-0"), filepath.Join(root, "revisions/a/.tmp-1-0")}
	for _, path := range left {
		if err := os.Symlink("../b", path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(root); err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("got %s, want it removed", path)
		}
	}
	if _, err := l.Package("a", 1); err != nil {
		t.Error(err)
	}
}
