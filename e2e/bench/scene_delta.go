package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// update is a Debian package in two versions that the mirror has.
type update struct {
	id       string
	old, new string // as apt-get download takes them
}

var updates = []update{
	{"delta-libreoffice", "libreoffice-core=4:7.4.7-1+deb12u13", "libreoffice-core=4:7.4.7-1+deb12u14"},
	{"delta-kernel", "linux-image-6.1.0-47-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"},
	{"delta-firefox", "firefox-esr=140.12.0esr-1~deb12u1", "firefox-esr=153.8.0esr-1~deb12u1"},
}

// playDelta compares the bytes that updates of Debian packages take.
func playDelta(tb rig.TB) results {
	for _, program := range []string{"apt-get", "dpkg-deb", "zstd", "ostree", "xdelta3", "bsdiff"} {
		if _, err := require.Find(program); err != nil {
			tb.Fatalf("it needs %s: %v", program, err)
		}
	}
	got := results{}
	for _, u := range updates {
		s := newDeltaScene(tb, u)
		ours := s.lull()
		ostree, patches, xdelta, bsdiff := s.ostree(), s.zstd(), s.xdelta(), s.bsdiff()
		got[u.id] = samples{Ours: []float64{float64(ours.Size)}, Theirs: []float64{float64(min(ostree, patches, xdelta, bsdiff))}, Notes: []string{
			fmt.Sprintf("%s → %s, %d files of %d bytes have changed; ostree %d, zstd -19 --patch-from %d, xdelta3 -9 %d, bsdiff %d, whole blobs %d, the .deb %d bytes",
				u.old, u.new, len(s.changed), ours.Content, ostree, patches, xdelta, bsdiff, ours.Replaces, s.deb)}}
	}
	return got
}

// deltaScene is an update whose versions are unpacked.
type deltaScene struct {
	rig.TB
	dir      string
	old, new string      // trees
	deb      int64       // bytes of the new package
	changed  [][2]string // old and new paths of the files that differ; old is /dev/null without one
}

func newDeltaScene(tb rig.TB, u update) *deltaScene {
	s := &deltaScene{TB: tb, dir: tempDir(tb)}
	s.old, _ = s.unpack("old", u.old)
	s.new, s.deb = s.unpack("new", u.new)
	known := map[string]bool{}
	for _, path := range s.files(s.old) {
		known[s.content(path)] = true
	}
	for _, path := range s.files(s.new) {
		content := s.content(path)
		if known[content] {
			continue
		}
		known[content] = true
		old := filepath.Join(s.old, s.renamed(strings.TrimPrefix(path, s.new)))
		if _, err := os.Stat(old); err != nil {
			old = os.DevNull
		}
		s.changed = append(s.changed, [2]string{old, path})
	}
	return s
}

// renamed returns the path of a file in the old version, whose kernel has another name.
func (s *deltaScene) renamed(path string) string {
	if _, err := os.Stat(filepath.Join(s.old, path)); err == nil {
		return path
	}
	return strings.ReplaceAll(path, "6.1.0-50", "6.1.0-47")
}

func (s *deltaScene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("cannot set the scene: %v", err)
	}
}

func (s *deltaScene) run(dir string, words ...string) {
	s.Helper()
	c := exec.Command(words[0], words[1:]...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		s.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// unpack downloads a package and unpacks it.
func (s *deltaScene) unpack(name, version string) (tree string, deb int64) {
	down, tree := filepath.Join(s.dir, name+".deb"), filepath.Join(s.dir, name)
	s.must(os.Mkdir(down, 0o755))
	s.run(down, "apt-get", "-o", "APT::Sandbox::User=root", "download", version)
	debs, err := filepath.Glob(filepath.Join(down, "*.deb"))
	s.must(err)
	if len(debs) != 1 {
		s.Fatalf("%s is not in the mirror", version)
	}
	s.run(s.dir, "dpkg-deb", "--extract", debs[0], tree)
	s.must(filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type() == fs.ModeSymlink { // lull refuses absolute ones
			err = os.Remove(path)
		}
		return err
	}))
	return tree, s.size(debs[0])
}

func (s *deltaScene) files(tree string) (list []string) {
	s.must(filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			list = append(list, path)
		}
		return err
	}))
	return list
}

func (s *deltaScene) content(path string) string {
	b, err := os.ReadFile(path)
	s.must(err)
	return string(b)
}

func (s *deltaScene) size(path string) int64 {
	i, err := os.Stat(path)
	s.must(err)
	return i.Size()
}

// lull publishes both versions and returns what leads from one to the other.
func (s *deltaScene) lull() delta.Offer {
	repository := filepath.Join(s.dir, "repository")
	s.must(publish.Init(s.Context(), repository, publish.InitOptions{}))
	var last *publish.Result
	for i, tree := range []string{s.old, s.new} {
		yaml := filepath.Join(tree, publish.SourceFile)
		s.must(os.WriteFile(yaml, fmt.Appendf(nil, "name: measured\nversion: \"%d\"\n", i), 0o644))
		r, err := publish.Publish(s.Context(), repository, tree, publish.Options{DeltasFrom: 1})
		s.must(errors.Join(err, os.Remove(yaml)))
		last = r
	}
	if len(last.Deltas) != 1 {
		s.Fatalf("there is no delta")
	}
	return last.Deltas[0]
}

// ostree returns the size of a static delta without limits.
func (s *deltaScene) ostree() int64 {
	dir := filepath.Join(s.dir, "ostree")
	s.run(s.dir, "ostree", "--repo="+dir, "init", "--mode=archive")
	for _, tree := range []string{s.old, s.new} {
		s.run(s.dir, "ostree", "--repo="+dir, "commit", "--branch=b", "--tree=dir="+tree)
	}
	file := filepath.Join(s.dir, "static.delta")
	s.run(s.dir, "ostree", "--repo="+dir, "static-delta", "generate", "--from=b^", "--to=b", "--inline", "--min-fallback-size=0",
		"--max-bsdiff-size=4096", "--max-chunk-size=4096", "--filename="+file)
	return s.size(file)
}

// each returns the sum of what a program makes of the changed files.
func (s *deltaScene) each(command func(old, new, out string) []string) (sum int64) {
	for i, c := range s.changed {
		out := filepath.Join(s.dir, "out"+strconv.Itoa(i))
		s.run(s.dir, command(c[0], c[1], out)...)
		sum += s.size(out)
		s.must(os.Remove(out))
	}
	return sum
}

func (s *deltaScene) zstd() int64 {
	return s.each(func(old, new, out string) []string {
		if old == os.DevNull {
			return []string{"zstd", "-q", "-19", new, "-o", out}
		}
		return []string{"zstd", "-q", "-19", "--long=31", "--patch-from=" + old, new, "-o", out}
	})
}

func (s *deltaScene) xdelta() int64 {
	return s.each(func(old, new, out string) []string {
		return []string{"xdelta3", "-9", "-S", "lzma", "-B", "536870912", "-e", "-s", old, new, out}
	})
}

func (s *deltaScene) bsdiff() int64 {
	return s.each(func(old, new, out string) []string { return []string{"bsdiff", old, new, out} })
}
