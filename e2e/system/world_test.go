package system_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit  = 60 * time.Second
	osName = "org.test.os"
)

// scene is a machine with a repository.
type scene struct {
	*rig.Scene
}

// set makes one; disk is the size of its store in MiB, or 0 for a plain directory.
func set(t *testing.T, disk int, o rig.Options) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "setpriv")
	if disk > 0 {
		o.Root = tmpfs(t, disk)
	}
	if o.Tracker == "" {
		o.Tracker = "subtree"
	}
	if o.Tracker == "subtree" {
		require.Unified(t)
	}
	s := &scene{rig.NewScene(t, rig.SceneOptions{Options: o})}
	s.Flags = []string{"--boot-id=" + s.Path("boot-id")}
	s.boot("first")
	return s
}

// tmpfs is a file system of that many MiB.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lull-disk-") // whose way users may go
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("lull-test", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%dm,mode=0755", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// boot sets the boot of the next agent.
func (s *scene) boot(id string) {
	s.Helper()
	s.NoError(os.WriteFile(s.Path("boot-id"), []byte(id+"\n"), 0o644))
}

// reboot stops the agent and starts it in another boot.
func (s *scene) reboot(id string, env ...string) {
	s.Helper()
	s.StopAgent()
	s.boot(id)
	s.StartAgent(env...)
}

// write makes the source of a package: content is MiB of noise that belongs to
// its name and version alone.
func (s *scene) write(name, version string, content float64, more string, files map[string]string) string {
	s.Helper()
	dir := s.Path("sources", name+"-"+version)
	noise := make([]byte, int(content*(1<<20)))
	var seed [32]byte
	copy(seed[:], name+" "+version)
	if _, err := rand.NewChaCha8(seed).Read(noise); err != nil {
		s.Fatalf("%v", err)
	}
	all := map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: for tests\n%s", name, version, more),
		"content":   string(noise), "version": version + "\n",
	}
	for path, text := range files {
		all[path] = text
	}
	for path, text := range all {
		path = filepath.Join(dir, path)
		s.NoError(errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)))
	}
	return dir
}

// update is a version of the system that is published.
type update struct {
	version                   string
	hash                      string
	images, base, cache       []string
	imagesMB, baseMB, cacheMB float64
	ownMB                     float64  // of the update package itself
	more                      []string // further packages of the cache, by hash
	silent                    bool     // it has no image and no hook
}

// installed is where the hook of an update writes which images it has installed.
func (s *scene) installed() string { return s.Path("installed") }

// update publishes one. Its hook writes down the versions of its images.
func (s *scene) update(u update) *update {
	s.Helper()
	hooks := map[string]string{"bin/health": "#!/bin/sh\ntest ! -e " + s.Path("sick") + "\n"}
	u.base = append(u.base, s.Publish(s.write("org.test.base", u.version, u.baseMB, "hooks: {health: [bin/health]}\n", hooks)))
	if u.cacheMB > 0 {
		u.cache = append(u.cache, s.Publish(s.write("org.test.cache", u.version, u.cacheMB, "", nil)))
	}
	u.cache = append(u.cache, u.more...)
	more, files := "", map[string]string{}
	if !u.silent {
		u.images = append(u.images, s.Publish(s.write("org.test.image", u.version, u.imagesMB, "", nil)))
		more = "hooks: {pre-refresh: [bin/install]}\n"
		files["bin/install"] = "#!/bin/sh\nset -e\nfor i in $(echo \"$LULL_IMAGES\" | tr : ' '); do cat \"$i/version\"; done >> " + s.installed() + "\n"
	}
	text, err := json.Marshal(map[string]any{"version": u.version, "images": notNil(u.images), "base": notNil(u.base), "cache": notNil(u.cache)})
	s.NoError(err)
	files["system.json"] = string(text)
	u.hash = s.Publish(s.write(osName, u.version, u.ownMB, more, files))
	return &u
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// has checks which packages are resident.
func (s *scene) has(want bool, hashes ...string) {
	s.Helper()
	for _, h := range hashes {
		if got := s.resident(h); got != want {
			s.Errorf("package %.16s is resident: %v, want %v", h, got, want)
		}
	}
}

func (s *scene) resident(hash string) bool {
	_, err := os.Stat(filepath.Join(s.Store, "packages", hash, "version"))
	return err == nil
}

// status is lull system status for programs.
type status struct {
	Version   int
	State     string
	Step      string
	Asked     string
	Committed *struct{ Version, Hash string }
	Booted    *struct{ Version, Hash string }
	Staged    *struct{ Version, Hash string }
	Refused   string `json:"collection-refused"`
	Error     *struct{ Name, Text, Hint string }
}

func (s *scene) status() (v status) {
	s.Helper()
	s.NoError(json.Unmarshal([]byte(s.MustLull("--json", "system", "status").Stdout), &v))
	return v
}

// is checks state and versions, and that the system in effect is there by name.
func (s *scene) is(state, committed, booted string) {
	s.Helper()
	v := s.status()
	version := func(set *struct{ Version, Hash string }) string {
		if set == nil {
			return ""
		}
		return set.Version
	}
	if v.State != state || version(v.Committed) != committed || version(v.Booted) != booted {
		s.Errorf("it is %s, committed %q, booted %q; want %s, %q, %q (%+v)", v.State, version(v.Committed), version(v.Booted), state, committed, booted, v.Error)
	}
	var all struct {
		System struct {
			State             string
			Committed, Booted *struct{ Version, Hash string }
		}
	}
	if err := json.Unmarshal([]byte(s.MustLull("inspect", "--json").Stdout), &all); err != nil {
		s.Errorf("%v", err)
	} else if i := all.System; i.State != state || version(i.Committed) != committed || version(i.Booted) != booted {
		s.Errorf("inspect says %+v; want %s, %q, %q", i, state, committed, booted)
	}
	if want := committed + booted; want != "" {
		if booted != "" {
			want = booted
		}
		if got := s.inEffect(); got != want {
			s.Errorf("the link leads to system %q, want %s", got, want)
		}
	} else if _, err := os.Lstat(filepath.Join(s.Store, "system")); !errors.Is(err, os.ErrNotExist) {
		s.Errorf("there is a link to a system: got %v, want the error %v", err, os.ErrNotExist)
	}
}

// inEffect is the version of the base package that the link leads to.
func (s *scene) inEffect() string {
	b, err := os.ReadFile(filepath.Join(s.Store, "system/base/org.test.base/version"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// says checks the exact output of a command that succeeds.
func (s *scene) says(want string, args ...string) {
	s.Helper()
	if r := s.MustLull(args...); r.Stdout != want {
		s.Errorf("%q says\n%swant\n%s", args, r.Stdout, want)
	}
}

// free is how many MiB the disk has left.
func (s *scene) free() float64 {
	s.Helper()
	var st syscall.Statfs_t
	s.NoError(syscall.Statfs(s.Store, &st))
	return float64(st.Bavail*uint64(st.Bsize)) / (1 << 20)
}
