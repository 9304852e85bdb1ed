package fulldisk_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 60 * time.Second
	mib   = 1 << 20
)

// scene is an agent whose root is a disk of a few megabytes.
type scene struct {
	*rig.Scene
}

func set(t *testing.T, bytes, reserve int64) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "setpriv")
	require.Cgroups(t)
	s := &scene{rig.NewScene(t, rig.SceneOptions{
		Options: rig.Options{Tracker: "poll", Root: rig.SmallDisk(t, bytes)},
		Policy:  fmt.Sprintf("gc: {reserve: %d}\n", reserve),
	})}
	s.StartAgent()
	return s
}

// trust is repo add, when the repository has something in it.
func (s *scene) trust() {
	s.Helper()
	s.MustLull("repo", "add", "local", s.Repo)
}

// app is an application that shows where it is; with an argument, it runs until
// its input ends, and with a second one it sends itself that signal.
const app = `#!/bin/sh
echo "version $(cat "$LULL_PACKAGE_DIR/version")"
env | grep ^LULL_
echo note >"$LULL_USER_DATA/note"
wc -c <"$LULL_PACKAGE_DIR/weight"
if [ $# -gt 1 ]; then kill "-$2" $$; fi
if [ $# -gt 0 ]; then cat; fi
`

// publish offers a package of so many bytes that nothing else shares.
func (s *scene) publish(name, version string, bytes int) {
	s.Helper()
	dir := s.Path("published")
	defer os.RemoveAll(dir)
	weight := make([]byte, bytes)
	seed := [32]byte{}
	copy(seed[:], name+version)
	rand.NewChaCha8(seed).Read(weight)
	err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755)
	for path, content := range map[string][]byte{
		"lull.yaml": fmt.Appendf(nil, "name: %s\nversion: %q\nsummary: Weighs\napps:\n  - {name: app, command: [bin/app]}\n", name, version),
		"version":   []byte(version), "weight": weight, "bin/app": []byte(app),
	} {
		mode := os.FileMode(0o644)
		if path == "bin/app" {
			mode = 0o755
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, path), content, mode))
	}
	if err != nil {
		s.Fatalf("cannot write a package: %v", err)
	}
	s.MustLull("publish", "--repo", s.Repo, dir)
}

// fill leaves nothing free on the disk.
func (s *scene) fill() {
	s.Helper()
	f, err := os.Create(filepath.Join(s.Store, "filling"))
	if err != nil {
		s.Fatalf("cannot fill the disk: %v", err)
	}
	defer f.Close()
	for block := make([]byte, mib); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			if len(block) == 1 {
				return
			}
			block = block[:len(block)/2]
		} else if err != nil {
			s.Fatalf("cannot fill the disk: %v", err)
		}
	}
}

func (s *scene) free() int64 {
	s.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.Store, &st); err != nil {
		s.Fatalf("cannot measure the disk: %v", err)
	}
	return int64(st.Bavail) * st.Bsize
}

// open is the open index.
func (s *scene) open() []string {
	s.Helper()
	var v struct {
		Indices map[string][]struct{ Package, Holder string }
	}
	r := s.MustLull("inspect", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		s.Fatalf("cannot read what inspect says: %v", err)
	}
	var list []string
	for _, o := range v.Indices["open"] {
		list = append(list, o.Holder)
	}
	return list
}
