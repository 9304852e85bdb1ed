package lzma_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/lzma"
	"github.com/lull/lull/e2e/require"
)

func options() lzma.Options {
	return lzma.Options{Properties: lzma.Properties{Context: 3, Position: 2}, Dictionary: 1 << 20, Depth: 32, Enough: 64}
}

func decoded(b []byte) ([]byte, error) {
	r, err := lzma.NewReader(bytes.NewReader(b), 64<<20)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// TestRandom: random content comes back with all options.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		data := make([]byte, rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 300, 5000, 30000}).Draw(t, "size"))
		letters := rapid.SampledFrom([]int{1, 2, 20, 256}).Draw(t, "letters")
		for i := range data {
			data[i] = byte(rnd.Intn(letters))
		}
		for range rapid.IntRange(0, 100).Draw(t, "copies") {
			if n := len(data); n > 0 {
				from, to := rnd.Intn(n), rnd.Intn(n)
				copy(data[to:], data[from:min(from+rnd.Intn(1000), n)])
			}
		}
		o := options()
		o.Context = rapid.IntRange(0, 4).Draw(t, "lc")
		o.LiteralPosition = rapid.IntRange(0, 4-o.Context).Draw(t, "lp")
		o.Position = rapid.IntRange(0, 4).Draw(t, "pb")
		o.Dictionary = rapid.SampledFrom([]int{1, 16, 4096, 1 << 20}).Draw(t, "dictionary")
		o.Enough = rapid.IntRange(2, 273).Draw(t, "enough")
		got, err := decoded(lzma.Encode(data, o))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back, want %d: %v", len(got), len(data), err)
		}
	})
}

// program returns the content of a program of this machine.
func program(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(require.Program(t, "git"))
	if err != nil {
		t.Fatal(err)
	}
	return b[:min(len(b), 600<<10)]
}

// TestAgainstXZ: xz reads a stream, which is not larger than its own by more than 1 %.
func TestAgainstXZ(t *testing.T) {
	require.NotShort(t)
	xz := require.Program(t, "xz")
	data := program(t)
	o := options()
	o.Dictionary, o.Depth, o.Enough = 8<<20, 64, 128
	ours := lzma.Encode(data, o)
	run := func(in []byte, flags ...string) []byte {
		t.Helper()
		c := exec.Command(xz, append([]string{"--format=lzma", "--stdout"}, flags...)...)
		c.Stdin = bytes.NewReader(in)
		var stderr strings.Builder
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("xz %v: %v: %s", flags, err, stderr.String())
		}
		return out
	}
	if got := run(ours, "--decompress"); !bytes.Equal(got, data) {
		t.Errorf("xz makes %d other bytes, want %d", len(got), len(data))
	}
	theirs := run(data, "-6")
	t.Logf("%d bytes: %d, xz -6 %d", len(data), len(ours), len(theirs))
	if len(ours)*100 > len(theirs)*101 {
		t.Errorf("%d bytes, want 1 %% more than %d of xz at most", len(ours), len(theirs))
	}
}

// TestMalformed: a stream that is cut off, longer, or of another kind is an error.
func TestMalformed(t *testing.T) {
	data := bytes.Repeat([]byte("a line of text\n"), 100)
	good := lzma.Encode(data, options())
	for n := range good {
		if b, err := decoded(good[:n]); !errors.Is(err, lzma.ErrMalformed) {
			t.Errorf("cut to %d bytes: %d bytes, error %v, want %v", n, len(b), err, lzma.ErrMalformed)
		}
	}
	other := func(at int, c byte) []byte {
		b := bytes.Clone(good)
		b[at] = c
		return b
	}
	for name, b := range map[string][]byte{
		"longer": append(bytes.Clone(good), 0), "properties": other(0, 225), "size": other(12, 0x7f), "dictionary": other(4, 0xff), "first byte": other(13, 1),
	} {
		if got, err := decoded(b); !errors.Is(err, lzma.ErrMalformed) {
			t.Errorf("%s: %d bytes, error %v, want %v", name, len(got), err, lzma.ErrMalformed)
		}
	}
}

// FuzzReader: hostile input makes an error or as many bytes as its header says.
func FuzzReader(f *testing.F) {
	f.Add(lzma.Encode([]byte(strings.Repeat("a line of text\n", 100)), options()))
	f.Add(lzma.Encode(nil, options()))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := lzma.NewReader(bytes.NewReader(b), 1<<20)
		if err != nil {
			return
		}
		want := uint64(0)
		for i := range 8 {
			want |= uint64(b[5+i]) << (8 * i)
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 8<<20))
		if err == nil && uint64(n) != want && n < 8<<20 {
			t.Errorf("%d bytes, want %d", n, want)
		}
	})
}
