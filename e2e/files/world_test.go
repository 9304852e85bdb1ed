package files_test

import (
	"archive/zip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 60 * time.Second
	notes = "notes" // the name of the package of tarball
)

// scene is a world with an agent.
type scene struct {
	*rig.Scene
}

func set(t *testing.T, o rig.Options, env ...string) *scene {
	t.Helper()
	require.Root(t)
	require.NotShort(t) // it builds the programs
	require.Program(t, "dbus-daemon", "setpriv", "tar")
	o.Tags = "faultpoint"
	if !o.Rootless {
		require.Unified(t)
		o.Tracker = "subtree"
	}
	s := &scene{rig.NewScene(t, rig.SceneOptions{Options: o})}
	s.Watch(s.Store)
	s.StartAgent(env...)
	return s
}

// tarball makes a tar archive with a program, which prints its version, and files by path.
func (s *scene) tarball(version string, more map[string]string) string {
	s.Helper()
	return s.archive("notes-"+version+".tar.gz", program(version), more)
}

func program(version string) string {
	return fmt.Sprintf("#!/bin/sh\necho notes %s\n[ $# = 0 ] || exec \"$@\"\n", version)
}

func (s *scene) archive(name, program string, more map[string]string) string {
	s.Helper()
	dir, err := os.MkdirTemp(s.Path(), "tree-")
	if err != nil {
		s.Fatalf("%v", err)
	}
	files := map[string]string{"bin/notes": program}
	for path, text := range more {
		files[path] = text
	}
	for path, text := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			s.Fatalf("%v", err)
		}
		if err := os.WriteFile(full, []byte(text), 0o755); err != nil {
			s.Fatalf("%v", err)
		}
	}
	file := filepath.Join(s.Path(), name)
	if strings.HasSuffix(name, ".zip") {
		f, err := os.Create(file)
		if err != nil {
			s.Fatalf("%v", err)
		}
		w := zip.NewWriter(f)
		if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()); err != nil {
			s.Fatalf("%v", err)
		}
		return file
	}
	if out, err := exec.Command("tar", "-C", dir, "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-caf", file, ".").CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	return file
}

// runs has the application print its version.
func (s *scene) runs(version string) {
	s.Helper()
	if r := s.User.Lull("run", notes); r.Code != 0 || r.Stdout != "notes "+version+"\n" {
		s.Errorf("version %s does not run: %v", version, r)
	}
}

// refused has a command end with a status and an error.
func (s *scene) refused(code int, text string, args ...string) {
	s.Helper()
	if r := s.Lull(args...); r.Code != code || !strings.Contains(r.Stderr, text) {
		s.Errorf("lull %s: want %d and %q, got %v", strings.Join(args, " "), code, text, r)
	}
}

// clean reports an error unless the root has no scratch directory, once what is under way
// has ended.
func (s *scene) clean() {
	s.Helper()
	var left []string
	s.Until("the scratch directories are gone", limit, func() (bool, string) {
		left, _ = filepath.Glob(filepath.Join(s.Store, ".file-*"))
		return len(left) == 0, strings.Join(left, ", ")
	})
}

// pruned waits until the repository of the machine is empty.
func (s *scene) pruned() {
	s.Helper()
	if s.blobs() > 0 {
		s.Watch(filepath.Join(s.Store, "local", "blobs"))
	}
	s.Until("the repository is pruned", limit, func() (bool, string) {
		n := s.blobs()
		return n == 0, fmt.Sprintf("%d blobs", n)
	})
}

// blobs counts the blobs of the repository of the machine.
func (s *scene) blobs() int {
	s.Helper()
	list, err := filepath.Glob(filepath.Join(s.Store, "local", "blobs", "*", "*"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	return len(list)
}
