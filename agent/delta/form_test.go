package delta_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand"
	"os/exec"
	"strings"
	"testing"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/e2e/require"
)

// image returns a file with a program that lz4 has packed, as in an image of Linux.
func image(t *testing.T, head string, program []byte, flags ...string) []byte {
	t.Helper()
	c := exec.Command(require.Program(t, "lz4"), append([]string{"-l", "-c", "-q"}, flags...)...)
	c.Stdin = bytes.NewReader(program)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return append(append([]byte(head), out...), "\xff\xff\xff\x7fthe end"...)
}

// gzipped returns a gzip file as GNU gzip makes it.
func gzipped(t fataler, content []byte, level deflate.Variant) []byte {
	t.Helper()
	b := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}
	if level == 9 {
		b[8] = 2
	}
	out := bytes.NewBuffer(b)
	w := deflate.NewWriter(out, deflate.Gzip+level)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	trailer := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(content))
	return append(out.Bytes(), binary.LittleEndian.AppendUint32(trailer, uint32(len(content)))...)
}

// TestGzip: of a text that GNU gzip has packed, the differences of its content are coded. What
// another program has packed, or what is cut off or longer, comes back as any other file.
func TestGzip(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	var text strings.Builder
	rnd := rand.New(rand.NewSource(1))
	for i := range 20000 {
		fmt.Fprintf(&text, "%d: %x\n", i, rnd.Intn(1<<30))
	}
	old, new := text.String(), "a line that is new\n"+text.String()
	sizes := map[string]int{}
	for _, c := range []struct {
		name string
		pack func(string) []byte
	}{
		{"gzip -9", func(s string) []byte { return gzipped(t, []byte(s), 9) }},
		{"gzip -6", func(s string) []byte { return gzipped(t, []byte(s), 6) }},
		{"another program", func(s string) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Write([]byte(s))
			w.Close()
			return b.Bytes()
		}},
		{"two members", func(s string) []byte { return append(gzipped(t, []byte(s), 9), gzipped(t, []byte("the end"), 9)...) }},
		{"cut off", func(s string) []byte { return gzipped(t, []byte(s), 9)[:1000] }},
	} {
		files := content{}
		before := files.add(c.pack(old))
		sizes[c.name] = len(files.roundTrip(t, delta.Pair{New: files.add(c.pack(new)), Old: &before}))
		files.roundTrip(t, delta.Pair{New: files.add(c.pack(new))})
	}
	t.Log(sizes)
	for _, name := range []string{"gzip -9", "gzip -6", "two members"} {
		if sizes[name] > 500 {
			t.Errorf("%s: the delta has %d bytes, want 500 at most", name, sizes[name])
		}
	}
	if sizes["another program"] < 100000 {
		t.Errorf("another program: the delta has %d bytes: this test shows nothing", sizes["another program"])
	}
}

// TestImages: of a packed program, the differences of its unpacked form are coded, if lz4 -9 has
// packed it. Otherwise it comes back as any other file.
func TestImages(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	old, new := program(t, 40), program(t, 43)
	sizes := map[string]int{}
	for _, level := range []string{"-9", "-1"} {
		c := content{}
		o := c.add(image(t, "the head", old, level))
		packed := c.add(image(t, "another head", new, level))
		broken := bytes.Clone(c[packed.Digest])
		broken[len(broken)/2] ^= 1
		sizes[level] = len(c.roundTrip(t, delta.Pair{New: packed, Old: &o}))
		c.roundTrip(t, delta.Pair{New: packed}, delta.Pair{New: c.add(broken), Old: &o})
	}
	t.Logf("programs of %d bytes: %v", len(new), sizes)
	if sizes["-9"]*6 > sizes["-1"] {
		t.Errorf("the delta has %d bytes, want a sixth of %d at most", sizes["-9"], sizes["-1"])
	}
}
