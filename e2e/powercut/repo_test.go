package powercut_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The packages: one with a service and data, one of many files, and a small one
// that comes and goes.
const (
	keeper = "org.lull.keeper"
	bulk   = "org.lull.bulk"
	extra  = "org.lull.extra"
)

// repository is on the host, where publishing is quick. A machine has its first
// state on the root disk and is brought what comes later.
type repository struct {
	mu      sync.Mutex // one publishes at a time
	t       *testing.T
	dir     string // sources, and repo below it
	bin     string
	version map[string]int
	order   []string        // files that the machine has not had from the beginning, oldest first
	known   map[string]bool // all former ones
	brought map[string]bool // since the machine's last boot
}

func emptyRepository(t *testing.T, bin string) *repository {
	r := &repository{t: t, dir: t.TempDir(), bin: bin, version: map[string]int{}, known: map[string]bool{}}
	r.lull("repo", "init", r.path("repo"))
	return r
}

func newRepository(t *testing.T, bin, guest string) *repository {
	r := emptyRepository(t, bin)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range files {
		r.put(bulkFile(bulk, i), noise(rng, 100+rng.IntN(3000)))
	}
	r.put(filepath.Join(bulk, "share/big"), noise(rng, 1<<20))
	for i := range 30 {
		r.put(bulkFile(extra, i), noise(rng, 2000))
	}
	for _, name := range []string{bulk, extra} {
		r.put(filepath.Join(name, "bin/app"), []byte("#!/bin/sh\nexec true\n"))
	}
	b, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	r.put(filepath.Join(keeper, "bin/keeper"), b)
	for _, name := range []string{keeper, bulk, extra} {
		r.publish(name)
	}
	r.order = nil
	return r
}

// files is how many the package of many files has.
const files = 120

func bulkFile(name string, i int) string {
	return filepath.Join(name, fmt.Sprintf("share/%d/%d/file", i%9, i))
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func (r *repository) path(name string) string { return filepath.Join(r.dir, name) }

func (r *repository) put(name string, b []byte) {
	path := r.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Error(err)
	}
	mode := fs.FileMode(0o644)
	if strings.Contains(name, "/bin/") {
		mode = 0o755
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		r.t.Error(err)
	}
}

// edit changes a few bytes of a file, or makes it.
func (r *repository) edit(name string, rng *rand.Rand) {
	b, err := os.ReadFile(r.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b = noise(rng, 100<<10)
	case err != nil:
		r.t.Error(err)
		return
	}
	for range 20 {
		b[rng.IntN(len(b))]++
	}
	r.put(name, b)
}

func (r *repository) lull(args ...string) (stdout string) {
	var errs bytes.Buffer
	cmd := exec.Command(filepath.Join(r.bin, "lull"), args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		r.t.Errorf("lull %s: %v\n%s%s", args, err, out, &errs)
	}
	return string(out)
}

// publish makes a new version of a package, with some files different from the
// former one, and returns it.
func (r *repository) publish(name string) string {
	r.version[name]++
	v := r.version[name]
	rng := rand.New(rand.NewPCG(uint64(v), uint64(len(name))))
	text := fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: Has its power cut\n", name, v)
	if name == keeper {
		text += "apps: [{name: app, command: [bin/keeper]}]\n" +
			"services: [{name: keep, command: [bin/keeper, keep], stop-timeout: 20s}]\ndata: {versioned: true}\n"
	} else {
		text += "apps: [{name: app, command: [bin/app]}]\n"
		for range 10 {
			r.put(bulkFile(name, rng.IntN(files)), noise(rng, 100+rng.IntN(3000)))
		}
		r.edit(filepath.Join(name, "share/changing"), rng) // the next one comes as a delta
	}
	r.put(filepath.Join(name, "version"), []byte(strconv.Itoa(v)))
	r.put(filepath.Join(name, "lull.yaml"), []byte(text))
	r.lull("publish", r.path(name), "--repo", r.path("repo"))
	r.noteFiles()
	return strconv.Itoa(v)
}

// noteFiles takes note of the files that publishing has made.
func (r *repository) noteFiles() {
	for _, f := range r.files() {
		if !r.known[f] {
			r.known[f] = true
			r.order = append(r.order, f)
		}
	}
}

// latest is the version that was published last.
func (r *repository) latest(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strconv.Itoa(r.version[name])
}

// enough is how many files are kept for a machine; only old versions have more.
const enough = 800

// files lists the repository.
func (r *repository) files() (list []string) {
	top := r.path("repo")
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(top, path)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	return list
}

// news is an archive of the files that the machine lacks, in an order that
// makes a whole repository at each point.
func (r *repository) news() []byte {
	var want []string
	for _, f := range r.order[max(0, len(r.order)-enough):] {
		if !r.brought[f] {
			want = append(want, f)
			r.brought[f] = true
		}
	}
	want = append(want, "metadata/timestamp.json")
	rank := func(f string) int {
		if strings.HasSuffix(f, "timestamp.json") {
			return 9
		}
		top, _, _ := strings.Cut(f, "/")
		return slices.Index([]string{"blobs", "channels", "metadata"}, top)
	}
	slices.SortStableFunc(want, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range want {
		b, err := os.ReadFile(filepath.Join(r.path("repo"), f))
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: f, Mode: 0o644, Size: int64(len(b))})
		}
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			r.t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		r.t.Error(err)
	}
	return out.Bytes()
}
