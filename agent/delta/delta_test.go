package delta_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/e2e/require"
)

// content is files by their hash.
type content map[digest.Digest][]byte

func (c content) add(b []byte) delta.File {
	d := digest.Of(b)
	c[d] = b
	return delta.File{Digest: d, Size: int64(len(b))}
}

func (c content) open(f delta.File) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c[f.Digest])), nil
}

func (c content) at(f delta.File) (io.ReaderAt, error) { return bytes.NewReader(c[f.Digest]), nil }

type fataler interface {
	Helper()
	Fatal(...any)
}

// roundTrip encodes pairs, decodes the pack, and compares. It returns the pack.
func (c content) roundTrip(t fataler, pairs ...delta.Pair) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := delta.Encode(context.Background(), &b, pairs, c.open); err != nil {
		t.Fatal(err)
	}
	p, err := delta.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	var made []delta.File
	err = p.Decode(context.Background(), c.at, func(f delta.File) (io.WriteCloser, error) {
		made = append(made, f)
		return &checked{want: c[f.Digest]}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range p.Files() {
		if i >= len(made) || made[i] != f || f != pairs[i].New {
			t.Fatal("other files were made")
		}
	}
	return b.Bytes()
}

// checked is a file that is compared with what it should be.
type checked struct {
	want []byte
	n    int
}

func (c *checked) Write(b []byte) (int, error) {
	if len(b) > len(c.want)-c.n || !bytes.Equal(b, c.want[c.n:c.n+len(b)]) {
		return 0, fmt.Errorf("wrong content after %d bytes", c.n)
	}
	c.n += len(b)
	return len(b), nil
}

func (c *checked) Close() error {
	if c.n != len(c.want) {
		return fmt.Errorf("%d bytes, want %d", c.n, len(c.want))
	}
	return nil
}

// TestRandomEdits: whatever the files are, they come back.
func TestRandomEdits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := content{}
		var pairs []delta.Pair
		for range rapid.IntRange(1, 4).Draw(t, "files") {
			size := rapid.SampledFrom([]int{0, 1, 15, 100, 5000, 70000}).Draw(t, "size")
			rnd := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
			old := make([]byte, size)
			letters := rapid.SampledFrom([]int{2, 20, 256}).Draw(t, "letters")
			for i := range old {
				old[i] = byte(rnd.Intn(letters))
			}
			new := bytes.Clone(old)
			for range rapid.IntRange(0, 20).Draw(t, "edits") {
				at, n := rnd.Intn(len(new)+1), rnd.Intn(300)
				switch end := min(at+n, len(new)); rnd.Intn(4) {
				case 0:
					new = append(new[:at:at], new[end:]...)
				case 1:
					new = append(append(new[:at:at], old[:min(n, len(old))]...), new[at:]...)
				case 2:
					rnd.Read(new[at:end])
				default:
					new = append(new[end:len(new):len(new)], new[:end]...)
				}
			}
			pair := delta.Pair{New: c.add(new)}
			if slices.ContainsFunc(pairs, func(p delta.Pair) bool { return p.New == pair.New }) {
				continue // a pack makes a file once
			}
			if rapid.Bool().Draw(t, "old") {
				f := c.add(old)
				pair.Old = &f
			}
			pairs = append(pairs, pair)
		}
		c.roundTrip(t, pairs...)
	})
}

// program builds a program for x86-64 whose code depends on a number of functions.
func program(t *testing.T, functions int) []byte {
	t.Helper()
	return programFor(t, "amd64", functions)
}

func programFor(t *testing.T, arch string, functions int) []byte {
	t.Helper()
	dir := t.TempDir()
	var s strings.Builder
	s.WriteString("package main\n\nimport (\"fmt\"; \"os\")\n\n")
	for i := range functions {
		fmt.Fprintf(&s, "func f%d(n int) int { if n > %d { return f%d(n-1) + len(os.Args) }; fmt.Println(\"function\", %d); return n*%d }\n", i, i, max(i-1, 0), i, i)
	}
	fmt.Fprintf(&s, "func main() { fmt.Println(f%d(len(os.Args))) }\n", functions-1)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "main.go"), []byte(s.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module program\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	build := exec.Command(require.Program(t, "go"), "build", "-trimpath", "-ldflags=-s -w", "-o", "program", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOARCH="+arch, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "program"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPrograms: a program whose code moved costs a part of its size, and less than with bsdiff
// and zstd, which make the same program from the same two.
func TestPrograms(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) { testPrograms(t, programFor(t, arch, 40), programFor(t, arch, 43)) })
	}
}

func testPrograms(t *testing.T, old, new []byte) {
	c := content{}
	o := c.add(old)
	pack := c.roundTrip(t, delta.Pair{New: c.add(new), Old: &o})
	t.Logf("%d bytes → %d", len(new), len(pack))
	if len(pack)*50 > len(new) {
		t.Errorf("got a delta of %d bytes for a program of %d, want at most a fiftieth", len(pack), len(new))
	}
	for name, patch := range peers(t, old, new) {
		t.Logf("%s: %d bytes", name, patch)
		if int64(len(pack)) >= patch {
			t.Errorf("the delta has %d bytes, want less than %d of %s", len(pack), patch, name)
		}
	}
}

// peers makes new from old with other programs. It returns the sizes of their patches.
func peers(t *testing.T, old, new []byte) map[string]int64 {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("old"), old, 0o600), os.WriteFile(path("new"), new, 0o600)); err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for name, commands := range map[string][2][]string{
		"bsdiff": {{"bsdiff", path("old"), path("new"), path("bsdiff")}, {"bspatch", path("old"), path("made"), path("bsdiff")}},
		"zstd": {{"zstd", "-q", "-19", "--patch-from=" + path("old"), path("new"), "-o", path("zstd")},
			{"zstd", "-q", "-f", "-d", "--patch-from=" + path("old"), path("zstd"), "-o", path("made")}},
	} {
		for _, c := range commands {
			if out, err := exec.Command(require.Program(t, c[0]), c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c, err, out)
			}
		}
		if made, err := os.ReadFile(path("made")); err != nil || !bytes.Equal(made, new) {
			t.Errorf("%s made %d bytes, want the %d of the new program: %v", name, len(made), len(new), err)
		}
		i, err := os.Stat(path(name))
		if err != nil {
			t.Fatal(err)
		}
		sizes[name] = i.Size()
	}
	return sizes
}

// TestSystemPrograms: programs and libraries of this machine come back, from each other and
// from themselves after a part was moved.
func TestSystemPrograms(t *testing.T) {
	require.NotShort(t)
	paths, _ := filepath.Glob("/usr/bin/*")
	more, _ := filepath.Glob("/usr/lib/x86_64-linux-gnu/*.so.*")
	var last []byte
	n := 0
	for i, path := range append(more, paths...) {
		if i%40 != 0 {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) > 4<<20 {
			continue
		}
		if f, err := elf.NewFile(bytes.NewReader(b)); err != nil || f.Machine != elf.EM_X86_64 {
			continue
		}
		n++
		c := content{}
		moved := append(append(bytes.Clone(b[:len(b)/2]), make([]byte, 4096)...), b[len(b)/2:]...)
		self, other := c.add(b), c.add(last)
		c.roundTrip(t, delta.Pair{New: c.add(moved), Old: &self}, delta.Pair{New: self, Old: &other})
		last = b
	}
	if n == 0 {
		require.Missing(t, "this machine has no programs for x86-64")
	}
	t.Logf("%d files", n)
}

// TestNoSymbol: a relocation whose symbol has become any number comes back.
func TestNoSymbol(t *testing.T) {
	old, err := os.ReadFile(require.Program(t, "git"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(old))
	if err != nil || f.Machine != elf.EM_X86_64 || f.Section(".rela.dyn") == nil {
		require.Missing(t, "git is no program for x86-64 with relocations")
	}
	new := bytes.Clone(old)
	rela := f.Section(".rela.dyn")
	for off := rela.Offset; off+24 <= rela.Offset+rela.Size; off += 24 {
		if binary.LittleEndian.Uint32(new[off+8:]) != uint32(elf.R_X86_64_RELATIVE) {
			binary.LittleEndian.PutUint32(new[off+12:], 0xfffffff0-uint32(off))
		}
	}
	c := content{}
	o := c.add(old)
	c.roundTrip(t, delta.Pair{New: c.add(new), Old: &o})
}

// TestDeterministic: equal files make equal packs.
func TestDeterministic(t *testing.T) {
	c := content{}
	text := strings.Repeat("a line of text that is repeated\n", 1000)
	old := c.add([]byte(text))
	pairs := []delta.Pair{{New: c.add([]byte("first\n" + text)), Old: &old}, {New: c.add([]byte(text[:5000]))}}
	if a, b := c.roundTrip(t, pairs...), c.roundTrip(t, pairs...); !bytes.Equal(a, b) {
		t.Error("two packs of the same files differ")
	}
}

// TestOpenRefuses: no error of a pack goes unnoticed before its content is used, and none is
// worse than an error.
func TestOpenRefuses(t *testing.T) {
	c := content{}
	old := c.add(bytes.Repeat([]byte("0123456789abcdef-"), 500))
	pack := c.roundTrip(t, delta.Pair{New: c.add(append([]byte("more"), c[old.Digest]...)), Old: &old})
	for name, b := range map[string][]byte{
		"empty": nil, "magic": []byte("LULLDLT9aaaa"), "cut": pack[:len(pack)-1], "longer": append(bytes.Clone(pack), 0),
		"header": append(bytes.Clone(pack[:8]), 0xff, 0xff, 0xff, 0xff),
	} {
		if _, err := delta.Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, delta.ErrMalformed) {
			t.Errorf("%s: %v; want the error %v", name, err, delta.ErrMalformed)
		}
	}
}

// TestOldIsShorter: an old file that is not what it was is an error.
func TestOldIsShorter(t *testing.T) {
	c := content{}
	old := c.add(bytes.Repeat([]byte("0123456789abcdef-"), 5000))
	pack := c.roundTrip(t, delta.Pair{New: c.add(append([]byte("more"), c[old.Digest]...)), Old: &old})
	p, err := delta.Open(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		t.Fatal(err)
	}
	c[old.Digest] = c[old.Digest][:1000]
	err = p.Decode(t.Context(), c.at, func(delta.File) (io.WriteCloser, error) { return nil, nil })
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v or %v", err, io.EOF, io.ErrUnexpectedEOF)
	}
}

// TestMadeTwice: a pack that makes a file twice is malformed.
func TestMadeTwice(t *testing.T) {
	c := content{}
	f := c.add([]byte("a line of text\n"))
	var b bytes.Buffer
	if err := delta.Encode(t.Context(), &b, []delta.Pair{{New: f}, {New: f}}, c.open); err != nil {
		t.Fatal(err)
	}
	if _, err := delta.Open(bytes.NewReader(b.Bytes()), int64(b.Len())); !errors.Is(err, delta.ErrMalformed) {
		t.Errorf("got %v, want %v", err, delta.ErrMalformed)
	}
}

// TestGroupsAtOnce: two groups without old files are decoded at the same time, and the end of
// one ends the other.
func TestGroupsAtOnce(t *testing.T) {
	require.NotShort(t)
	c := content{}
	var pairs []delta.Pair
	for i := range 3 {
		b := make([]byte, 30<<20)
		rand.New(rand.NewSource(int64(i))).Read(b)
		pairs = append(pairs, delta.Pair{New: c.add(b)})
	}
	var b bytes.Buffer
	if err := delta.Encode(t.Context(), &b, pairs, c.open); err != nil {
		t.Fatal(err)
	}
	p, err := delta.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan struct{})
	var made sync.Map
	if err := p.Decode(t.Context(), c.at, func(f delta.File) (io.WriteCloser, error) {
		switch f {
		case pairs[0].New:
			<-second
		case pairs[1].New:
			close(second)
		}
		if _, known := made.LoadOrStore(f, true); known {
			t.Errorf("%v is made twice", f)
		}
		return &checked{want: c[f.Digest]}, nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range pairs {
		if _, ok := made.Load(pairs[i].New); !ok {
			t.Errorf("file %d is not made", i)
		}
	}
	full := errors.New("the disk is full")
	if err := p.Decode(t.Context(), c.at, func(f delta.File) (io.WriteCloser, error) {
		if f == pairs[1].New {
			return nil, full
		}
		return &checked{want: c[f.Digest]}, nil
	}); err != full {
		t.Errorf("got %v, want %v", err, full)
	}
}

// FuzzDecode: a hostile pack makes an error, or no more content than its header says. Old
// files are hostile, too.
func FuzzDecode(f *testing.F) {
	c := content{}
	old := c.add(bytes.Repeat([]byte("0123456789abcdef-"), 500))
	f.Add(c.roundTrip(f, delta.Pair{New: c.add(append([]byte("more"), c[old.Digest]...)), Old: &old}), c[old.Digest])
	if self, err := os.ReadFile("/bin/true"); err == nil {
		o := c.add(self)
		f.Add(c.roundTrip(f, delta.Pair{New: c.add(append(bytes.Clone(self), self[:5000]...)), Old: &o}), self)
	}
	f.Add(c.roundTrip(f, delta.Pair{New: c.add(append([]byte("more"), smallImage...)), Old: &old}, delta.Pair{New: c.add(smallImage)}), smallImage)
	zipped := c.add(gzipped(f, []byte("a line of text, a line of text"), 9))
	f.Add(c.roundTrip(f, delta.Pair{New: c.add(gzipped(f, []byte("a line of text, another line of text"), 6)), Old: &zipped}), c[zipped.Digest])
	archived := c.add(archive(f, map[string]string{"a": "a line of text, a line of text", "b": "the second file, the second file"}))
	f.Add(c.roundTrip(f, delta.Pair{New: c.add(archive(f, map[string]string{"a": "a line of text, another line of text", "b": "a second file, a second file"})), Old: &archived}), c[archived.Digest])
	before, after := objects()
	o := c.add(before)
	f.Add(c.roundTrip(f, delta.Pair{New: c.add(after), Old: &o}), before)
	f.Fuzz(func(t *testing.T, pack, old []byte) {
		p, err := delta.Open(bytes.NewReader(pack), int64(len(pack)))
		if err != nil {
			return
		}
		sizes := int64(0)
		for _, f := range p.Files() {
			sizes += f.Size
		}
		if sizes > 64<<20 {
			return
		}
		var total atomic.Int64
		_ = p.Decode(t.Context(), func(delta.File) (io.ReaderAt, error) { return bytes.NewReader(old), nil },
			func(f delta.File) (io.WriteCloser, error) { return &bounded{&total, f.Size}, nil })
		if n := total.Load(); n > sizes {
			t.Errorf("%d bytes were made, want %d at most", n, sizes)
		}
	})
}

// bounded counts the bytes of a file.
type bounded struct {
	total *atomic.Int64
	left  int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("too many bytes")
	}
	b.total.Add(int64(len(p)))
	return len(p), nil
}

func (b *bounded) Close() error { return nil }
