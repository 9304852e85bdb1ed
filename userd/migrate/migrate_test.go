package migrate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/userd/sessionjobs"
	"github.com/lull/lull/userd/userdata"
)

const app = "org.lull.app"

// world is a root with revisions 1 and 2, which took 1's data over, and a home with
// data of 1.
func world(t *testing.T, current string) (userdata.Place, sessionjobs.Order) {
	t.Helper()
	root, home := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	p := userdata.Of(root, home, app)
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(root, "revisions", app)
	must(os.MkdirAll(dir, 0o755), os.Mkdir(filepath.Join(root, "current"), 0o755),
		os.Symlink("x", dir+"/1"), os.Symlink("x", dir+"/2"), os.WriteFile(dir+"/2.from", []byte("1\n"), 0o644))
	must(os.Symlink("../revisions/"+app+"/"+current, filepath.Join(root, "current", app)))
	must(os.MkdirAll(p.Base+"/1", 0o700), os.WriteFile(p.Base+"/1/file", []byte("one"), 0o600))
	return p, sessionjobs.Order{Instance: app, Root: root, From: 1, To: 2}
}

func has(p userdata.Place) bool {
	_, err := os.Lstat(p.Base + "/2")
	return err == nil
}

func TestBring(t *testing.T) {
	for _, c := range []struct {
		current string
		want    bool
	}{{"2", true}, {"1", false}, {"3", false}} {
		p, o := world(t, c.current)
		if err := (Runner{}).Do(t.Context(), sessionjobs.Job{Order: o, Do: sessionjobs.CopyAhead}); err != nil || has(p) {
			t.Fatalf("a copy ahead: got error %v and migrated data %v, want no error and none", err, has(p))
		}
		err := Runner{}.Do(t.Context(), sessionjobs.Job{Order: o, Do: sessionjobs.Migrate})
		if has(p) != c.want || (err == nil) != c.want {
			t.Errorf("with revision %s current: got migrated data %v and error %v, want migrated data and success %v", c.current, has(p), err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "not current any more") {
			t.Error(err)
		}
		if err := (Runner{}).Do(t.Context(), sessionjobs.Job{Order: o, Do: sessionjobs.Discard}); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(p.Base + "/.*partial*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// TestNothingToDo: a user who has never used an application gets no directories.
func TestNothingToDo(t *testing.T) {
	p, o := world(t, "2")
	if err := os.RemoveAll(p.Base); err != nil {
		t.Fatal(err)
	}
	for _, do := range []sessionjobs.Action{sessionjobs.CopyAhead, sessionjobs.Migrate, sessionjobs.Discard} {
		if err := (Runner{}).Do(t.Context(), sessionjobs.Job{Order: o, Do: do}); err != nil {
			t.Errorf("%v: %v", do, err)
		}
	}
	if _, err := os.Lstat(p.Base); err == nil {
		t.Error("a folder was made")
	}
}

// TestCalledOff: a copy that has to wait for a launch can be broken off.
func TestCalledOff(t *testing.T) {
	p, o := world(t, "2")
	unlock, err := p.Lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Runner{}).Do(ctx, sessionjobs.Job{Order: o, Do: sessionjobs.Migrate}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error %v", err, context.Canceled)
	}
}
