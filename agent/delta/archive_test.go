package delta_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/e2e/require"
)

// member adds a compressed member to an archive.
func member(t fataler, z *zip.Writer, name, content string, pack func(io.Writer) io.WriteCloser) {
	t.Helper()
	var b bytes.Buffer
	w := pack(&b)
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := z.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, CRC32: crc32.ChecksumIEEE([]byte(content)),
		CompressedSize64: uint64(b.Len()), UncompressedSize64: uint64(len(content))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

func zlib6(w io.Writer) io.WriteCloser { return deflate.NewWriter(w, deflate.Zlib+6) }

func another(w io.Writer) io.WriteCloser {
	z, err := flate.NewWriter(w, 6)
	if err != nil {
		panic(err) // the level is valid
	}
	return z
}

// archive returns an archive as zlib makes it.
func archive(t fataler, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		member(t, z, name, files[name], zlib6)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// texts are files that do not resemble each other. Every step-th one has a line that others have not.
func texts(n, step int) map[string]string {
	files := map[string]string{}
	for i := range n {
		var s strings.Builder
		rnd := rand.New(rand.NewSource(int64(i)))
		for range 200 {
			fmt.Fprintf(&s, "%x\n", rnd.Intn(1<<30))
		}
		if step > 0 && i%step == 0 {
			fmt.Fprintf(&s, "new: %d\n", i*i)
		}
		files[fmt.Sprintf("file%d", i)] = s.String()
	}
	return files
}

// byProgram returns an archive that a program makes of files. Args are those before the name of the
// archive, which the names of all files follow.
func byProgram(t *testing.T, files map[string]string, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "archive.zip")
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(require.Program(t, args[0]), slices.Concat(args[1:], []string{archive}, names)...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c, err, out)
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestArchives: of the members of an archive, the differences of their content are coded, if zlib
// or zip have packed them.
func TestArchives(t *testing.T) {
	before, after := texts(60, 0), texts(60, 4)
	delete(after, "file7")
	after["another"] = "a file that is new"
	python := []string{"python3", "-c", `import sys, zipfile
z = zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED, compresslevel=int(sys.argv[1]))
for name in sys.argv[3:]:
    z.write(name)
z.close()`}
	for name, args := range map[string][]string{"python": append(python, "6"), "zip -9": {"zip", "-q", "-9"}} {
		c := content{}
		old := c.add(byProgram(t, before, args...))
		new := c.add(byProgram(t, after, args...))
		pack := c.roundTrip(t, delta.Pair{New: new, Old: &old})
		t.Logf("%s: %d bytes → %d", name, new.Size, len(pack))
		if len(pack) > 4000 {
			t.Errorf("%s: got a delta of %d bytes of an archive of %d, want at most 4000", name, len(pack), new.Size)
		}
		c.roundTrip(t, delta.Pair{New: new})
		whole := c.roundTrip(t, delta.Pair{New: new, Old: &old}, delta.Pair{New: old}, delta.Pair{New: c.add(c[new.Digest][:new.Size-30]), Old: &old})
		if _, err := delta.Open(bytes.NewReader(whole), int64(len(whole))); err != nil {
			t.Error(err)
		}
	}
}

// TestMixedArchive: members that another program has packed stay packed, and the differences of
// the other ones are coded.
func TestMixedArchive(t *testing.T) {
	c := content{}
	mixed := func(files map[string]string) delta.File {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for i, name := range slices.Sorted(maps.Keys(files)) {
			pack := zlib6
			if i%3 == 0 {
				pack = another
			}
			member(t, z, name, files[name], pack)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return c.add(b.Bytes())
	}
	old, new := mixed(texts(60, 0)), mixed(texts(60, 1))
	all := c.roundTrip(t, delta.Pair{New: new, Old: &old})
	some := mixed(texts(60, 4))
	few := c.roundTrip(t, delta.Pair{New: some, Old: &old})
	t.Logf("%d and %d bytes → %d and %d", new.Size, some.Size, len(all), len(few))
	if int64(len(all)) > new.Size*4/10 || int64(len(few)) > some.Size/6 {
		t.Errorf("got deltas of %d and %d bytes, want less than 4 tenths and a sixth of %d and %d", len(all), len(few), new.Size, some.Size)
	}
}

// TestManyMembers: an archive of 10,000 members comes back.
func TestManyMembers(t *testing.T) {
	require.NotShort(t)
	c := content{}
	before, after := map[string]string{}, map[string]string{}
	for i := range 10000 {
		before[fmt.Sprint(i)] = strings.Repeat(fmt.Sprintln("line", i), 9)
		after[fmt.Sprint(i)] = before[fmt.Sprint(i)] + "the end\n"
	}
	old, new := c.add(archive(t, before)), c.add(archive(t, after))
	pack := c.roundTrip(t, delta.Pair{New: new, Old: &old})
	t.Logf("%d bytes → %d", new.Size, len(pack))
	if int64(len(pack)) > new.Size/7 {
		t.Errorf("got a delta of %d bytes of an archive of %d, want a seventh at most", len(pack), new.Size)
	}
}

// TestOtherOldArchive: an old archive that has changed is an error, unless what has changed is not used.
func TestOtherOldArchive(t *testing.T) {
	c := content{}
	old, new := c.add(archive(t, texts(10, 0))), c.add(archive(t, texts(10, 2)))
	pack := c.roundTrip(t, delta.Pair{New: new, Old: &old})
	p, err := delta.Open(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		b := bytes.Clone(c[old.Digest])
		for range rapid.IntRange(1, 20).Draw(r, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(r, "at")] = rapid.Byte().Draw(r, "byte")
		}
		b = b[:rapid.IntRange(0, len(b)).Draw(r, "length")]
		made := checked{want: c[new.Digest]}
		err := p.Decode(context.Background(), func(delta.File) (io.ReaderAt, error) { return bytes.NewReader(b), nil },
			func(delta.File) (io.WriteCloser, error) { return &made, nil })
		if err == nil && made.n < len(made.want) {
			r.Errorf("%d bytes of %d were made without an error", made.n, len(made.want))
		}
	})
}

// TestRandomArchives: whatever members archives have, they come back.
func TestRandomArchives(t *testing.T) {
	packers := []func(io.Writer) io.WriteCloser{zlib6, another,
		func(w io.Writer) io.WriteCloser { return deflate.NewWriter(w, deflate.Zip+9) },
		func(w io.Writer) io.WriteCloser { return deflate.NewWriter(w, deflate.ZlibLarge+1) }}
	rapid.Check(t, func(r *rapid.T) {
		c := content{}
		draw := func(label string) delta.File {
			var b bytes.Buffer
			b.WriteString(rapid.SampledFrom([]string{"", "#!/bin/sh\n"}).Draw(r, label))
			z := zip.NewWriter(&b)
			z.SetOffset(int64(b.Len()))
			for range rapid.IntRange(0, 6).Draw(r, "members") {
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(r, "name")
				text := strings.Repeat(rapid.String().Draw(r, "text"), rapid.IntRange(0, 200).Draw(r, "times"))
				member(r, z, name, text, rapid.SampledFrom(packers).Draw(r, "packer"))
			}
			if err := z.Close(); err != nil {
				r.Fatal(err)
			}
			archive := b.Bytes()
			if rapid.Bool().Draw(r, "broken") {
				archive[rapid.IntRange(0, len(archive)-1).Draw(r, "at")] ^= 1
			}
			return c.add(archive)
		}
		old, new := draw("old"), draw("new")
		pairs := []delta.Pair{{New: new, Old: &old}}
		if third := draw("third"); third != new {
			pairs = append(pairs, delta.Pair{New: third, Old: &old})
		}
		c.roundTrip(r, pairs...)
	})
}
