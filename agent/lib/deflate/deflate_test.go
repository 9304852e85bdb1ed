package deflate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/e2e/require"
)

// gzip returns what GNU gzip makes of a file.
func gzip(t *testing.T, dir string, content []byte, level deflate.Variant, flags ...string) []byte {
	t.Helper()
	path := filepath.Join(dir, "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(require.Program(t, "gzip"), append(flags, fmt.Sprint("-", level), "-c", path)...)
	cmd.Env = append(os.Environ(), "GZIP=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpacked(b []byte) ([]byte, int, error) {
	var out bytes.Buffer
	_, n, err := deflate.Unpack(&out, b)
	return out.Bytes(), n, err
}

// packed writes content in pieces.
func packed(w io.Writer, content []byte, v deflate.Variant) error {
	z := deflate.NewWriter(w, v)
	for n := 1; len(content) > 0; n = n*5 + 1 {
		n = min(n, len(content))
		if _, err := z.Write(content[:n]); err != nil {
			return err
		}
		content = content[n:]
	}
	return z.Close()
}

// repacked unpacks a file and packs it again. It returns both streams.
func repacked(t *testing.T, b, want []byte, level deflate.Variant) (stream, again []byte) {
	t.Helper()
	off := deflate.Find(b)
	content, n, err := unpacked(b[off:])
	if off == 0 || err != nil || off+n+8 != len(b) || !bytes.Equal(content, want) {
		t.Fatalf("offset %d, %d of %d bytes, %d of content, %v; want all but the trailer, and %d", off, n, len(b), len(content), err, len(want))
	}
	var out bytes.Buffer
	if err := packed(&out, content, deflate.Gzip+level); err != nil {
		t.Fatalf("%d bytes, the first %.20q, level %d: %v", len(content), content, level, err)
	}
	return b[off : off+n], out.Bytes()
}

// contents are texts, programs, content that does not compress, and sizes at which the buffer
// moves or blocks end.
func contents(t *testing.T) map[string][]byte {
	rnd := rand.New(rand.NewSource(1))
	noise := func(n, letters int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Intn(letters))
		}
		return b
	}
	program, err := os.ReadFile(require.Program(t, "gzip"))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][]byte{
		"empty": nil, "one byte": {'a'}, "one letter": bytes.Repeat([]byte("a"), 300000), "forty letters": noise(300000, 40),
		"noise": noise(200000, 256), "noise, then text": append(noise(70000, 256), strings.Repeat("a line of text\n", 9000)...), "a program": program,
	}
	for _, n := range []int{2, 3, 257, 258, 259, 32767, 32768, 32769, 65273, 65274, 65275, 65535, 65536, 65537, 98304, 131072} {
		list[fmt.Sprintf("%d bytes", n)] = noise(n, 40)
	}
	return list
}

// TestLikeGzip: the streams are those of gzip, at all levels.
func TestLikeGzip(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	dir := t.TempDir()
	for name, content := range contents(t) {
		for level := deflate.Variant(1); level <= 9; level++ {
			stream, again := repacked(t, gzip(t, dir, content, level), content, level)
			if !bytes.Equal(stream, again) {
				t.Errorf("%s, level %d: %d bytes, other than the %d of gzip", name, level, len(again), len(stream))
			}
		}
	}
}

// TestRandom compares files of random repetitions.
func TestRandom(t *testing.T) {
	dir := t.TempDir()
	z := newZlib(t)
	rapid.Check(t, func(r *rapid.T) {
		content := random(r)
		v := rapid.SampledFrom(deflate.Variants()).Draw(r, "variant")
		if v < deflate.Zip {
			if stream, again := repacked(t, gzip(t, dir, content, v), content, v); !bytes.Equal(stream, again) {
				r.Fatalf("level %d: %d bytes, other than the %d of gzip", v, len(again), len(stream))
			}
			return
		}
		want := z.pack
		if v < deflate.Zlib {
			want = func(t *testing.T, content []byte, v deflate.Variant) []byte {
				return zip(t, dir, content, v-deflate.Zip)
			}
		}
		again(t, content, want(t, content, v), v)
	})
}

// random returns a file of random repetitions.
func random(r *rapid.T) []byte {
	rnd := rand.New(rand.NewSource(rapid.Int64().Draw(r, "seed")))
	letters := rapid.SampledFrom([]int{1, 12, 40, 256}).Draw(r, "letters")
	content := make([]byte, rapid.SampledFrom([]int{10, 300, 5000, 70000, 200000}).Draw(r, "size"))
	for i := range content {
		content[i] = byte(rnd.Intn(letters))
	}
	for range rapid.IntRange(0, 300).Draw(r, "copies") {
		from := rnd.Intn(len(content))
		copy(content[rnd.Intn(len(content)):], content[from:min(from+rnd.Intn(600), len(content))])
	}
	return content
}

// TestSlow: content that takes long to search is given up.
func TestSlow(t *testing.T) {
	b := make([]byte, 400000)
	rnd := rand.New(rand.NewSource(1))
	for i := range b {
		b[i] = byte(rnd.Intn(2))
	}
	if err := packed(io.Discard, b, 9); err != deflate.ErrSlow {
		t.Errorf("got %v, want %v", err, deflate.ErrSlow)
	}
}

// TestHeader: a name in the header is no part of the stream.
func TestHeader(t *testing.T) {
	content := []byte(strings.Repeat("a line of text\n", 100))
	for level, flag := range map[deflate.Variant]string{6: "-n", 9: "-N"} {
		b := gzip(t, t.TempDir(), content, level, flag)
		if stream, again := repacked(t, b, content, level); !bytes.Equal(stream, again) {
			t.Errorf("level %d: %d bytes, other than the %d of gzip", level, len(again), len(stream))
		}
		for n := range b {
			if off := deflate.Find(b[:n]); off > 0 {
				if _, size, err := unpacked(b[off:n]); err == nil && off+size+8 == n {
					t.Errorf("cut to %d of %d bytes it is whole", n, len(b))
				}
			}
		}
	}
}

// TestBomb: more content than allowed is an error.
func TestBomb(t *testing.T) {
	for _, n := range []int{deflate.MaxContent, deflate.MaxContent + 1} {
		b := gzip(t, t.TempDir(), make([]byte, n), 6)
		content, _, err := unpacked(b[deflate.Find(b):])
		if n == deflate.MaxContent && (err != nil || len(content) != n) || n > deflate.MaxContent && !errors.Is(err, deflate.ErrMalformed) {
			t.Errorf("%d bytes: %d, %v", n, len(content), err)
		}
	}
}

// FuzzPack: any content comes back, and any file is found, unpacked or refused.
func FuzzPack(f *testing.F) {
	f.Add([]byte("a line of text, a line of text"), byte(6))
	f.Add([]byte("a line of text, a line of text"), byte(deflate.Zlib+1))
	f.Add([]byte("\x1f\x8b\x08\x1c\x00\x00\x00\x00\x02\x03\x02\x00ab\x00name\x00comment\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"), byte(9))
	f.Fuzz(func(t *testing.T, b []byte, variant byte) {
		if off := deflate.Find(b); off > 0 {
			_, _, _ = unpacked(b[off:])
		}
		v := deflate.Variant(variant)
		if !v.Known() {
			return
		}
		b = bytes.Repeat(b, 1+70000/(len(b)+1))
		var out bytes.Buffer
		err := packed(&out, b, v)
		if err == deflate.ErrSlow {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := unpacked(out.Bytes())
		if err != nil || n != out.Len() || !bytes.Equal(got, b) {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(b))
		}
	})
}
