package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// The Go toolchain, and a package with the same files under another name.
const (
	toolchain = "org.golang.go"
	twin      = "org.golang.twin"
)

// testKeys are private keys in the toolchain that are no secret.
var testKeys = []string{"src/crypto/tls/testdata/example-key.pem", "src/crypto/x509/platform_root_key.pem"}

// playStore installs, refreshes and collects the Go toolchain, beside what others
// do with the same files.
func playStore(tb rig.TB) results {
	myTurn(tb)
	for _, program := range []string{"ostree", "nix-store", "casync"} {
		if _, err := require.Find(program); err != nil {
			tb.Fatalf("it needs %s: %v", program, err)
		}
	}
	s := setStage(tb, rig.Options{})
	tree := s.Path("go")
	s.command("cp", "-a", strings.TrimSpace(s.command("go", "env", "GOROOT")), tree)
	s.publishTree(toolchain, "1", tree)
	s.publishTree(twin, "1", tree)
	s.MustLull("repo", "add", "local", s.Repo)
	p := newPeers(s, tree)

	var prune, plainCheckout, wrote, wroteAll []float64
	note := func(list *[]float64, v float64) float64 { *list = append(*list, v); return v }
	version := 1
	got := inTurns(1, 5,
		// The first process that creates and deletes thousands of files and
		// directories after a minute without any has to re-read what the file
		// system has dropped by then. It is none of those that are compared.
		p.copy,
		func() float64 { // 1: install
			s.warm(s.Repo)
			written := s.written()
			took := s.timed(func() { s.MustLull("install", toolchain) })
			note(&wroteAll, s.written()-written)
			return took
		},
		p.ostreeInstall, p.nixAdd, p.casyncExtract, // 2 to 4
		func() float64 { // 5: the first, repeated
			return s.timed(func() { s.command("cp", "-al", p.path("copy"), p.path("links")) })
		},
		func() float64 { // 6: install from resident blobs
			return s.timed(func() { s.MustLull("install", twin) })
		},
		func() float64 { // 7
			return s.timed(func() {
				note(&plainCheckout, s.timed(func() { s.command("ostree", "checkout", "--repo="+p.ostree, "-H", "go", p.path("again")) }))
				s.flush()
			})
		},
		func() float64 { // 8: refresh
			version++
			s.alter(tree, version)
			s.publishTree(toolchain, fmt.Sprint(version), tree)
			s.publishTree(twin, fmt.Sprint(version), tree) // for the next round
			written := s.written()
			took := s.timed(func() { s.MustLull("refresh", toolchain) })
			note(&wrote, s.written()-written)
			return took
		},
		// From here on things are deleted, and before there was nothing deleted for a
		// minute: see rest.
		p.remove, // 9
		func() float64 { // 10: collect one tree and all of its blobs, as ostree has them
			s.MustLull("remove", "--purge", toolchain)
			s.MustLull("gc")
			s.MustLull("remove", "--purge", twin)
			return s.timed(func() { s.MustLull("gc") })
		},
		func() float64 { // 11
			s.command("rm", "-rf", p.path("again"))
			s.command("ostree", "refs", "--repo="+p.ostree, "--delete", "go")
			return s.timed(func() {
				s.command("rm", "-rf", p.path("checkout"))
				note(&prune, s.timed(func() { s.command("ostree", "prune", "--repo="+p.ostree, "--refs-only") }))
			})
		},
		p.nixCollect, p.rest, // 12, 13
	)
	best := slices.MinFunc(got[2:5], func(a, b []float64) int { return int(median(a) - median(b)) })
	return results{
		"install": {Ours: got[1], Theirs: best, Notes: []string{
			fmt.Sprintf("%d files, %.0f MB, from a local repository of compressed files, on %s", p.files, p.bytes/1e6, fileSystem(s.Store)),
			fmt.Sprintf("ostree pull-local of an archive, checkout -H, syncfs: %.0f ms; nix-store --add: %.0f ms; casync extract: %.0f ms; cp -a, which verifies nothing: %.0f ms",
				median(got[2]), median(got[3]), median(got[4]), median(got[0]))}},
		"install-resident": {Ours: got[6], Theirs: got[7], Notes: []string{
			fmt.Sprintf("another package with the same files; ostree's checkout before it is flushed: %.0f ms", median(plainCheckout[1:]))}},
		"gc": {Ours: got[10], Theirs: got[11], Notes: []string{
			fmt.Sprintf("ostree prune alone, without the checkout: %.0f ms; nix-store --gc: %.0f ms; rm -rf of a copy: %.0f ms",
				median(prune[1:]), median(got[12]), median(got[9]))}},
		"refresh-small": {Ours: got[8], Theirs: got[1], Notes: []string{
			fmt.Sprintf("written by the agent: %.1f MB, for the full install %.1f MB", median(wrote[1:])/1e6, median(wroteAll[1:])/1e6)}},
	}
}

// timed returns how many milliseconds f takes, with nothing else on the way to
// the disk.
func (s *stage) timed(f func()) float64 {
	unix.Sync()
	began := time.Now()
	f()
	return ms(time.Since(began))
}

// warm reads all files of a tree, so that the next reader does not wait for
// them. An earlier read would not be enough for all of them: a machine may
// drop the page cache within the minute between two rounds.
func (s *stage) warm(tree string) {
	err := filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
	if err != nil {
		s.Fatalf("cannot read the files to install: %v", err)
	}
}

// flush flushes the file system of the world.
func (s *stage) flush() {
	d, err := os.Open(s.Dir)
	if err == nil {
		err = unix.Syncfs(int(d.Fd()))
		d.Close()
	}
	if err != nil {
		s.Fatalf("cannot flush: %v", err)
	}
}

// written is how many bytes the agent has written to the disk, as the kernel counts.
func (s *stage) written() float64 {
	var n float64
	fmt.Sscan(valueIn(fmt.Sprintf("/proc/%d/io", s.agent.PID), "write_bytes"), &n)
	return n
}

// command runs a program that must succeed, and returns what it prints.
func (s *stage) command(argv ...string) string { return s.commandWith(nil, argv...) }

func (s *stage) commandWith(env []string, argv ...string) string {
	c := exec.CommandContext(s.Context(), argv[0], argv[1:]...)
	c.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		s.Fatalf("%q: %v\n%s%s", argv, err, out, stderr.String())
	}
	return string(out)
}

// publishTree makes a package of a directory.
func (s *stage) publishTree(name, version, dir string, flags ...string) {
	yaml := fmt.Sprintf("name: %s\nversion: %q\nsummary: Measured\napps:\n  - {name: go, command: [bin/go]}\n", name, version)
	if err := os.WriteFile(filepath.Join(dir, "lull.yaml"), []byte(yaml), 0o644); err != nil {
		s.Fatalf("cannot make a package: %v", err)
	}
	for _, key := range testKeys {
		flags = append(flags, "--allow-key", key)
	}
	s.command(append([]string{filepath.Join(rig.Binaries(s, ""), "lull"), "publish", "--repo", s.Repo, dir}, flags...)...)
	if err := os.Remove(filepath.Join(dir, "lull.yaml")); err != nil {
		s.Fatalf("cannot make a package: %v", err)
	}
}

// alter rewrites every hundredth file of a tree, another one each time.
func (s *stage) alter(tree string, round int) {
	random := rand.New(rand.NewPCG(3, uint64(round)))
	i := round
	err := filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == filepath.Join(tree, "bin", "go") {
			return err
		}
		if i++; i%100 != 0 {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(path, noise(random, int(fi.Size())), fi.Mode().Perm())
	})
	if err != nil {
		s.Fatalf("cannot change the tree: %v", err)
	}
}

// peers keep the same tree, each in its own way.
type peers struct {
	*stage
	dir, tree, ostree string
	nix               []string // environment
	files             int
	bytes             float64
}

// newPeers gives each of them the tree in its own form.
func newPeers(s *stage, tree string) *peers {
	p := &peers{stage: s, dir: s.Path("peers"), tree: s.Path("peers", "tree")}
	p.ostree = p.path("ostree")
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		s.Fatalf("%v", err)
	}
	s.command("cp", "-a", tree, p.tree)
	filepath.WalkDir(tree, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			fi, _ := d.Info()
			p.files, p.bytes = p.files+1, p.bytes+float64(fi.Size())
		}
		return nil
	})
	s.command("ostree", "init", "--repo="+p.path("archive"), "--mode=archive")
	s.command("ostree", "commit", "--repo="+p.path("archive"), "--branch=go", "--tree=dir="+p.tree)
	s.command("ostree", "init", "--repo="+p.ostree, "--mode=bare")
	s.command("casync", "make", "--store="+p.path("chunks"), p.path("go.caidx"), p.tree)
	for _, v := range [][2]string{{"NIX_STORE_DIR", "nix/store"}, {"NIX_STATE_DIR", "nix/var"}, {"NIX_LOG_DIR", "nix/log"}, {"NIX_CONF_DIR", "nix/conf"}, {"NIX_LOCALSTATE_DIR", "nix/local"}} {
		p.nix = append(p.nix, v[0]+"="+p.path(v[1]))
	}
	s.commandWith(p.nix, "nix-store", "--init")
	return p
}

func (p *peers) path(name string) string { return filepath.Join(p.dir, name) }

func (p *peers) ostreeInstall() float64 {
	p.warm(p.path("archive"))
	return p.timed(func() {
		p.command("ostree", "pull-local", "--untrusted", "--repo="+p.ostree, p.path("archive"), "go")
		p.command("ostree", "checkout", "--repo="+p.ostree, "-H", "go", p.path("checkout"))
		p.flush()
	})
}

func (p *peers) nixAdd() float64 {
	p.warm(p.tree)
	return p.timed(func() {
		p.commandWith(p.nix, "nix-store", "--add", p.tree)
		p.flush()
	})
}

func (p *peers) nixCollect() float64 {
	return p.timed(func() { p.commandWith(p.nix, "nix-store", "--gc", "--quiet") })
}

func (p *peers) casyncExtract() float64 {
	p.warm(p.path("chunks"))
	return p.timed(func() {
		p.command("casync", "extract", "--store="+p.path("chunks"), p.path("go.caidx"), p.path("extracted"))
		p.flush()
	})
}

func (p *peers) copy() float64 {
	p.warm(p.tree)
	return p.timed(func() {
		p.command("cp", "-a", p.tree, p.path("copy"))
		p.flush()
	})
}

func (p *peers) remove() float64 {
	p.command("rm", "-rf", p.path("links"))
	return p.timed(func() { p.command("rm", "-rf", p.path("copy")) })
}

// rest lets a round end.
func (p *peers) rest() float64 {
	p.command("rm", "-rf", p.path("extracted"))
	p.outwaitDeletions()
	return 0
}

// outwaitDeletions is called after a large deletion. When ext4 makes a file it passes over those
// that were deleted within the last minute, one by one (recently_deleted in
// fs/ext4/ialloc.c): who comes next would pay for it.
func (s *stage) outwaitDeletions() {
	unix.Sync()
	select {
	case <-time.After(61 * time.Second):
	case <-s.Context().Done():
	}
}
