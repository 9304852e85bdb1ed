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
	"syscall"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// update is a package of Debian in two versions.
type update struct {
	id       string // of the rows, without their prefixes
	old, new release
	encode   bool // also measure making and using the pack
}

// release is a version of a package.
type release struct {
	suite suite.Suite
	name  string // as apt-get download takes it
}

var (
	libreoffice = update{"libreoffice", release{"bookworm-security", "libreoffice-core=4:7.4.7-1+deb12u13"}, release{"bookworm", "libreoffice-core=4:7.4.7-1+deb12u14"}, true}
	kernel      = update{"kernel", release{"bookworm", "linux-image-6.1.0-47-cloud-amd64"}, release{"bookworm", "linux-image-6.1.0-50-cloud-amd64"}, false}
	firefox     = update{"firefox", release{"bookworm", "firefox-esr=140.12.0esr-1~deb12u1"}, release{"bookworm-security", "firefox-esr=153.8.0esr-1~deb12u1"}, false}
	neighbours  = update{"firefox-security", release{"trixie", "firefox-esr=153.5.1esr-1~deb13u1"}, release{"trixie-security", "firefox-esr=153.8.0esr-1~deb13u1"}, false}
)

// play compares the bytes that an update of a Debian package, and its first installation, take
// with those of others.
func (u update) play(tb rig.TB) results {
	s := newDeltaScene(tb)
	s.old, _ = s.unpack("old", u.old)
	var deb int64
	s.new, deb = s.unpack("new", u.new)
	ours := s.lull()
	got := results{"first-" + u.id: {Ours: []float64{float64(ours.whole.Size)}, Theirs: []float64{float64(deb)}, Notes: []string{
		fmt.Sprintf("%s: one pack of all files of %d bytes; single blobs have %d", u.new.name, ours.whole.Content, ours.whole.Replaces)}}}
	if u.encode {
		got["delta-decode"] = s.decoding(ours)
	}
	s.compare()
	got["delta-"+u.id] = s.peers(u.old.name+" → "+u.new.name, ours, fmt.Sprintf("the .deb %d", deb))
	if u.encode {
		got["delta-encode"] = s.encoding(ours)
	}
	return got
}

// lulldCommits is how many commits are between the versions of lulld that are compared.
const lulldCommits = 60

// playLulld compares the bytes that an update of the agent takes.
func playLulld(tb rig.TB) results {
	s := newDeltaScene(tb)
	s.old, s.new = s.lulld("HEAD~"+strconv.Itoa(lulldCommits)), s.lulld("HEAD")
	s.compare()
	return results{"delta-lulld": s.peers(fmt.Sprintf("lulld, %d commits later, stripped", lulldCommits), s.lull(), "")}
}

// lulld builds the agent of a commit.
func (s *deltaScene) lulld(commit string) (tree string) {
	source, tree := filepath.Join(s.dir, "source-"+commit), filepath.Join(s.dir, commit)
	s.must(errors.Join(os.Mkdir(source, 0o755), os.Mkdir(tree, 0o755)))
	archive := source + ".tar"
	s.run(rig.Module(), "git", "archive", "--output="+archive, commit)
	s.run(source, "tar", "-xf", archive)
	s.run(source, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(tree, "lulld"), "./cmd/lulld")
	return tree
}

// deltaScene is an update whose versions are unpacked.
type deltaScene struct {
	rig.TB
	dir      string
	old, new string      // trees
	changed  [][2]string // old and new paths of the files that differ; old is /dev/null without one
}

func newDeltaScene(tb rig.TB) *deltaScene {
	for _, program := range []string{"apt-get", "dpkg-deb", "zstd", "ostree", "casync", "xdelta3", "bsdiff", "git", "go"} {
		if _, err := require.Find(program); err != nil {
			tb.Fatalf("it needs %s: %v", program, err)
		}
	}
	return &deltaScene{TB: tb, dir: tempDir(tb)}
}

// compare finds the files that have changed.
func (s *deltaScene) compare() {
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
	c := exec.CommandContext(s.Context(), words[0], words[1:]...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		s.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// unpack downloads a package and unpacks it.
func (s *deltaScene) unpack(name string, r release) (tree string, deb int64) {
	tree = filepath.Join(s.dir, name)
	_, file, err := r.suite.Download(s.Context(), filepath.Join(s.dir, name+".apt"), "amd64", r.name, "")
	s.must(err)
	s.run(s.dir, "dpkg-deb", "--extract", file, tree)
	s.must(filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type() == fs.ModeSymlink { // lull refuses absolute ones
			err = os.Remove(path)
		}
		return err
	}))
	return tree, s.size(file)
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

// packs are what lull makes of an update.
type packs struct {
	repository   string
	delta, whole delta.Offer
	usage        usage // of making the first
}

// usage is what a process has used.
type usage struct {
	cpu    float64 // seconds
	memory float64 // MiB at most, of itself and of this program
	out    string
}

// used runs a program and returns what it has used.
func (s *deltaScene) used(dir string, words ...string) usage {
	s.Helper()
	c := exec.CommandContext(s.Context(), words[0], words[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		s.Fatalf("%v: %v\n%s", words, err, out)
	}
	u := usage{out: string(out), cpu: (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()}
	if r, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.memory = float64(r.Maxrss) / 1024
	}
	return u
}

// lull publishes both versions and returns what leads from one to the other.
func (s *deltaScene) lull() (p packs) {
	p.repository = filepath.Join(s.dir, "repository")
	lull := filepath.Join(rig.Binaries(s, ""), "lull")
	s.run(s.dir, lull, "repo", "init", p.repository)
	put := func(tree, version string, flags ...string) {
		yaml := filepath.Join(tree, publish.SourceFile)
		s.must(os.WriteFile(yaml, fmt.Appendf(nil, "name: measured\nversion: %q\n", version), 0o644))
		s.run(s.dir, append([]string{lull, "publish", tree, "--repo", p.repository, "--deltas-from", "1", "--deltas-later"}, flags...)...)
		s.must(os.Remove(yaml))
	}
	put(s.old, "1")
	put(s.new, "2")
	p.usage = s.used(s.dir, lull, "repo", "deltas", p.repository)
	put(s.new, "2", "--whole-pack")
	s.run(s.dir, lull, "repo", "deltas", p.repository)
	list, err := publish.ReadChannel(s.Context(), p.repository, publish.ChannelOptions{Name: "measured"})
	s.must(err)
	for _, o := range list[0].Deltas {
		if o.From.IsZero() {
			p.whole = o
		} else {
			p.delta = o
		}
	}
	if p.delta.Size == 0 || p.whole.Size == 0 {
		s.Fatalf("there is no delta")
	}
	return p
}

// peers compares the pack with what others make of the same files.
func (s *deltaScene) peers(what string, ours packs, more string) samples {
	ostree, patches, xdelta, bsdiff, casync := s.ostree(), s.zstd(), s.xdelta(), s.bsdiff(), s.casync()
	text := fmt.Sprintf("%s, %d files of %d bytes have changed; bytes of ostree %d, zstd -19 --patch-from %d, xdelta3 -9 %d, bsdiff %d, casync %d, whole blobs %d",
		what, len(s.changed), ours.delta.Content, ostree, patches, xdelta, bsdiff, casync, ours.delta.Replaces)
	if more != "" {
		text += ", " + more
	}
	return samples{Ours: []float64{float64(ours.delta.Size)}, Theirs: []float64{float64(min(ostree, patches, xdelta, bsdiff, casync))}, Notes: []string{text}}
}

// encoding compares the processor time of making the pack.
func (s *deltaScene) encoding(ours packs) samples {
	theirs := usage{}
	for _, c := range s.changed {
		u := s.used(s.dir, zstdCommand(c[0], c[1], filepath.Join(s.dir, "patch"), "-f")...)
		theirs = usage{cpu: theirs.cpu + u.cpu, memory: max(theirs.memory, u.memory)}
	}
	return samples{Ours: []float64{ours.usage.cpu}, Theirs: []float64{theirs.cpu}, Notes: []string{
		fmt.Sprintf("with reading, compressing and signing; memory: %.0f MiB, zstd %.0f MiB", ours.usage.memory, theirs.memory)}}
}

// decoding measures the processor time of making the files from the pack, per megabyte.
func (s *deltaScene) decoding(ours packs) samples {
	program := filepath.Join(s.dir, "decode")
	rig.GoBuild(s, "./e2e/bench/programs/decode", program, nil)
	var list []float64
	var memory float64
	for range 5 {
		u := s.used(s.dir, program, ours.repository, ours.delta.Pack.String(), s.old)
		list = append(list, u.cpu*1e3/(float64(ours.delta.Content)/1e6))
		kib, err := strconv.ParseFloat(strings.TrimSpace(u.out), 64)
		s.must(err)
		memory = max(memory, kib/1024)
	}
	return samples{Ours: list, Notes: []string{fmt.Sprintf("with hashing: %.0f MB/s; memory of the whole process: %.0f MiB", 1e3/median(list), memory)}}
}

// casync returns the size of the chunks of the new version that the old one has not, with
// the index.
func (s *deltaScene) casync() int64 {
	store := filepath.Join(s.dir, "casync")
	size := func() (n int64) {
		for _, path := range s.files(store) {
			n += s.size(path)
		}
		return n
	}
	make := func(tree string) int64 {
		index := filepath.Join(s.dir, "index.caidx")
		s.run(s.dir, "casync", "make", "--store="+store, index, tree)
		return s.size(index)
	}
	make(s.old)
	before := size()
	return make(s.new) + size() - before
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
	return s.each(func(old, new, out string) []string { return zstdCommand(old, new, out) })
}

func zstdCommand(old, new, out string, flags ...string) []string {
	words := append([]string{"zstd", "-q", "-19"}, flags...)
	if old != os.DevNull {
		words = append(words, "--long=31", "--patch-from="+old)
	}
	return append(words, new, "-o", out)
}

func (s *deltaScene) xdelta() int64 {
	return s.each(func(old, new, out string) []string {
		window := int64(1 << 20) // all of the old file; xdelta3 clears as much memory
		if old != os.DevNull {
			window = max(window, s.size(old))
		}
		return []string{"xdelta3", "-9", "-S", "lzma", "-B", strconv.FormatInt(window, 10), "-e", "-s", old, new, out}
	})
}

func (s *deltaScene) bsdiff() int64 {
	none := filepath.Join(s.dir, "one-byte") // bsdiff cannot map an empty file
	s.must(os.WriteFile(none, []byte{0}, 0o600))
	return s.each(func(old, new, out string) []string {
		if old == os.DevNull {
			old = none
		}
		return []string{"bsdiff", old, new, out}
	})
}
