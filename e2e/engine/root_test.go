package engine_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/agent/lib/storeid"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const kept = "org.lull.kept"

// versioned publishes a version of an application that prints it and what it finds in its
// data, and has a service with data.
func (s *scene) versioned(version string) {
	s.Helper()
	s.publish(app(kept, version, service+"data: {versioned: true}\n"), map[string]string{
		"app":    "echo version " + version,
		"daemon": "[ -e $LULL_DATA/first ] || echo $LULL_REVISION >$LULL_DATA/first\n" + forever,
	})
}

// TestFormat: a root that a newer lull has changed is refused before any
// change, and works with its former number.
func TestFormat(t *testing.T) {
	s := set(t, "")
	s.versioned("1")
	s.Begin()
	s.MustLull("install", kept)
	s.StopAgent()
	path := filepath.Join(s.Store, storeid.FormatFile)
	if b, err := os.ReadFile(path); err != nil || string(b) != "1\n" {
		t.Fatalf("the format is %q, %v; want no error and content %q", b, err, "1\n")
	}
	for text, want := range map[string]string{
		"2\n":      "a newer lull has changed it to format 2, and this one reads formats up to 1",
		"4000\n":   "a newer lull has changed it to format 4000",
		"0\n":      "its file format has no number of a format",
		"":         "its file format has no number of a format",
		"one\n":    "its file format has no number of a format",
		"1\x00\n1": "its file format has no number of a format",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, s.Store)
		p, err := s.TryAgent()
		if err == nil {
			t.Fatalf("%q: the agent serves, want it to refuse the root", text)
		}
		if code, err := p.Wait(t.Context(), limit); err != nil || code != 65 || !strings.Contains(p.Log(), want) {
			t.Errorf("%q: got status %d, %v; want 65 and %q in the log:\n%s", text, code, err, want, p.Log())
		}
		if r := s.Lull("system", "prepare-image", "--root", s.Store); r.Code != 65 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: prepare-image: %v; want exit status 65 and %q in the error output", text, r, want)
		}
		if after := snapshot(t, s.Store); after != before {
			t.Errorf("%q: the root has changed: want\n%s\ngot\n%s", text, before, after)
		}
		if r := s.User.Lull("run", kept); r.Code != 0 || r.Stdout != "version 1\n" {
			t.Errorf("%q: a launch meanwhile: %v; want exit status 0 and output %q", text, r, "version 1\n")
		}
	}
	if err := os.Remove(path); err != nil { // as a lull from before the file has left it
		t.Fatal(err)
	}
	s.StartAgent()
	s.MustLull("verify")
	if b, err := os.ReadFile(path); err != nil || string(b) != "1\n" {
		t.Errorf("the format is %q, %v; want no error and content %q", b, err, "1\n")
	}
}

// snapshot lists all of a directory: types, modes, sizes, times and targets.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		fmt.Fprintln(&text, strings.TrimPrefix(path, root), fi.Mode(), fi.Size(), fi.ModTime().UnixNano(), target)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestCloned: of a prepared image each clone makes an identity, and has the applications
// and the data of the image.
func TestCloned(t *testing.T) {
	s := set(t, "")
	s.versioned("1")
	s.Begin()
	s.MustLull("install", kept)
	image := s.Store
	s.refused(75, "cannot prepare "+image+": its agent runs", "system", "prepare-image", "--root", image)
	first, err := storeid.Read(image)
	if err != nil {
		t.Fatal(err)
	}
	s.StopAgent()
	if err := os.WriteFile(filepath.Join(image, storeid.RolloutFile), []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.says("removed store.json and rollout-id in "+image+": it is ready to be cloned", "system", "prepare-image", "--root", image)
	s.says(image+" has no identity: it is ready to be cloned", "system", "prepare-image", "--root", image)
	s.refused(1, "cannot prepare "+s.Path("none")+": it is not there", "system", "prepare-image", "--root", s.Path("none"))

	ids := map[string]bool{first.ID: true}
	for _, clone := range []string{"clone-1", "clone-2"} {
		s.Store = s.Path(clone)
		s.Admin.Must("cp", "-a", image, s.Store)
		s.StartAgent()
		id, err := storeid.Read(s.Store)
		if err != nil || ids[id.ID] || id.Adopt[kept] != 1 {
			t.Errorf("%s has the identity %+v (error %v), want a new one that adopts revision 1 of %s", clone, id, err, kept)
		}
		ids[id.ID] = true
		if _, err := os.Stat(filepath.Join(s.Store, storeid.RolloutFile)); err == nil {
			t.Errorf("%s has the number for rollouts of the image, want none", clone)
		}
		s.MustLull("verify")
		if r := s.User.Lull("run", kept); r.Stdout != "version 1\n" {
			t.Errorf("%s: %v; want output %q", clone, r, "version 1\n")
		}
		s.StopAgent()
	}
}

// TestCopiedWhileServed copies the root while the agent runs and changes it in the middle of the
// copy, in each order: a restored root has an application of one version with its data.
func TestCopiedWhileServed(t *testing.T) {
	links := []string{"current", "revisions", "exports", "data", "store.json", "format"}
	content, records := []string{"packages", "blobs"}, []string{"state.db"}
	for name, c := range map[string]struct {
		before, after []string
		torn          bool // the first half of state.db from before, the second from after
	}{
		"links, then packages":          {before: append(links, records...), after: content},
		"packages, then links":          {before: append(content, records...), after: links},
		"links, then packages, records": {before: links, after: append(content, records...)},
		"no records":                    {before: links, after: content},
		"half of the records":           {before: links, after: content, torn: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := set(t, "defaults: {keep-revisions: 1}\n")
			s.versioned("1")
			s.Begin()
			s.MustLull("install", kept)
			first := filepath.Join(s.Store, "data", kept)
			s.UntilFile("the service has data", limit, filepath.Join(first, "1", "first"), func(text string) (bool, string) { return text == "1\n", text })
			copied := s.Path("copied")
			if err := os.Mkdir(copied, 0o755); err != nil {
				t.Fatal(err)
			}
			add := func(parts []string) {
				s.Admin.Must("sh", append([]string{"-c", `cd "$0" && to=$1 && shift && tar -c "$@" | tar -x -C "$to" --same-owner -p`, s.Store, copied}, parts...)...)
			}
			add(c.before)
			half := func() []byte {
				b, err := os.ReadFile(filepath.Join(s.Store, "state.db"))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			old := half()
			for _, v := range []string{"2", "3"} {
				s.versioned(v)
				s.MustLull("refresh", kept)
			}
			s.MustLull("gc")
			add(c.after)
			if c.torn {
				now := half()
				if err := os.WriteFile(filepath.Join(copied, "state.db"), append(old[:len(old)/2], now[len(old)/2:]...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.StopAgent()
			s.Store = copied
			s.StartAgent()
			s.whole()
			s.versioned("4")
			s.MustLull("refresh", kept)
			s.whole()
		})
	}
}

// whole waits until what is installed is resident, checks the store, and runs the
// application: it has its version, and its service the data of the first one.
func (s *scene) whole() {
	s.Helper()
	var version string
	s.Until("the application runs", limit, func() (bool, string) {
		p, _ := s.API.Package(kept)
		version = p.Str("Version")
		r := s.User.Lull("run", kept)
		return r.Code == 0 && version != "" && r.Stdout == "version "+version+"\n", r.String() + s.Agent().Log()
	})
	s.MustLull("verify")
	found, err := filepath.Glob(filepath.Join(s.Store, "data", kept, "[0-9]*", "first"))
	if err != nil || len(found) == 0 {
		s.Errorf("version %s has no data: %v", version, err)
	}
	for _, path := range found {
		if b, err := os.ReadFile(path); err != nil || string(b) != "1\n" {
			s.Errorf("%s is of revision %q, %v; want no error and content %q", path, b, err, "1\n")
		}
	}
}

// TestMovedStore: copied to another file system, with and without hard links, and behind a
// symbolic link in the old place, the store is what it was. On FUSE the doctor names what
// is worse there, and refreshes work. LULL_STORE_ON is a directory of a further file system.
func TestMovedStore(t *testing.T) {
	type move struct {
		copy   []string
		fuse   bool
		disk   string
		doctor string
	}
	moves := map[string]move{
		"with hard links":    {copy: []string{"cp", "-a"}, doctor: "ok    vacancy"},
		"without hard links": {copy: []string{"cp", "-r", "--no-dereference", "--preserve=mode,ownership,timestamps"}, doctor: "ok    vacancy"},
		"to FUSE":            {copy: []string{"cp", "-a"}, fuse: true, doctor: "warn  vacancy"},
	}
	if dir := os.Getenv("LULL_STORE_ON"); dir != "" {
		moves["to "+dir] = move{copy: []string{"cp", "-a"}, disk: dir, doctor: "vacancy"}
	}
	for name, c := range moves {
		t.Run(name, func(t *testing.T) {
			s := set(t, "")
			s.versioned("1")
			s.Begin()
			s.MustLull("install", kept)
			s.UntilFile("the service has data", limit, filepath.Join(s.Store, "data", kept, "1", "first"), func(text string) (bool, string) { return text == "1\n", text })
			s.StopAgent()
			disk := c.disk
			if disk == "" {
				disk = rig.SmallDisk(t, 64<<20)
			}
			if c.fuse {
				disk = bindFUSE(t, disk)
			}
			s.Admin.Must(c.copy[0], append(c.copy[1:], s.Store+"/.", disk+"/lull")...)
			old := s.Store
			if err := os.RemoveAll(old); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(disk+"/lull", old); err != nil {
				t.Fatal(err)
			}
			s.StartAgent()
			text := s.Lull("doctor").Text()
			if !strings.Contains(text, c.doctor) {
				t.Errorf("no %q in\n%s", c.doctor, text)
			}
			t.Log(text)
			s.whole()
			s.versioned("2")
			s.MustLull("refresh", kept)
			s.whole()
			s.MustLull("gc")
			s.MustLull("verify")
			s.MustLull("remove", kept) // ends its service
			s.StopAgent()
		})
	}
}

// bindFUSE shows a directory through a file system in user space.
func bindFUSE(t *testing.T, dir string) (mounted string) {
	t.Helper()
	require.Program(t, "bindfs", "fusermount3")
	require.File(t, "/dev/fuse")                   // most containers have none
	mounted, err := os.MkdirTemp("", "lull-fuse-") // readable for users, unlike t.TempDir
	if err == nil {
		err = os.Chmod(mounted, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(mounted) })
	if out, err := exec.Command("bindfs", "-o", "allow_other", dir, mounted).CombinedOutput(); err != nil {
		t.Fatalf("bindfs: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mounted, syscall.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount: %v", err)
		}
	})
	return mounted
}
