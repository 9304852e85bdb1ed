package lz4_test

import (
	"bytes"
	"errors"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/lz4"
	"github.com/lull/lull/e2e/require"
)

// packed runs lz4 with some flags.
func packed(t *testing.T, data []byte, flags ...string) []byte {
	t.Helper()
	c := exec.Command(require.Program(t, "lz4"), append([]string{"-l", "-c", "-q"}, flags...)...)
	c.Stdin = bytes.NewReader(data)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("lz4 %v: %v: %s", flags, err, stderr.String())
	}
	return out
}

// comesBack unpacks the blocks of a file and packs them. It returns the size of their notes.
func comesBack(t *testing.T, name string, frame, data []byte) (notes, size int) {
	t.Helper()
	blocks := lz4.Find(frame)
	for _, b := range blocks {
		block := frame[b.Off : b.Off+b.Size]
		content, err := lz4.Unpack(nil, block)
		if err != nil || !bytes.HasPrefix(data, content) {
			t.Fatalf("%s: a block of %d bytes has other content: %v", name, len(block), err)
		}
		data = data[len(content):]
		note := lz4.Note(block, content)
		var out bytes.Buffer
		p := lz4.Packer{Notes: bytes.NewReader(note)}
		if n, err := p.Pack(&out, content, len(block)); err != nil || n != out.Len() || !bytes.Equal(out.Bytes(), block) {
			t.Fatalf("%s: %d bytes were packed, want the same %d: %v", name, out.Len(), len(block), err)
		}
		notes, size = notes+len(note), size+len(block)
	}
	if len(data) > 0 {
		t.Errorf("%s: %d bytes are in no block", name, len(data))
	}
	return notes, size
}

// TestAgainstLZ4: what lz4 has packed comes back, with small notes if it was lz4 -9.
func TestAgainstLZ4(t *testing.T) {
	require.NotShort(t)
	program, err := os.ReadFile(require.Program(t, "git"))
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewSource(1))
	random := make([]byte, 100000)
	rnd.Read(random)
	letters := make([]byte, 30000)
	for i := range letters {
		letters[i] = byte(rnd.Intn(3))
	}
	runs := append(bytes.Repeat([]byte{0}, 200000), bytes.Repeat([]byte("ab"), 3000)...)
	for name, data := range map[string][]byte{
		"program": program[:min(len(program), 600<<10)], "random": random, "letters": letters, "runs": append(append(runs, random[:5000]...), runs...), "short": []byte("short"), "sixteen": random[:16],
	} {
		for _, level := range []string{"-1", "-9"} {
			notes, size := comesBack(t, name+level, packed(t, data, level), data)
			t.Logf("%s %s: notes of %d bytes for %d", name, level, notes, size)
			if level == "-9" && notes*200 > size+2000 {
				t.Errorf("%s: notes have %d bytes of %d, want half a percent at most", name, notes, size)
			}
		}
	}
}

// TestMalformed: hostile blocks and notes are errors.
func TestMalformed(t *testing.T) {
	for _, b := range []string{"\xf0", "\x10", "\x10a\x00\x00", "\x10a\x02\x00", "\x1fa\x01\x00" + strings.Repeat("\xff", 40000)} {
		if got, err := lz4.Unpack(nil, []byte(b)); !errors.Is(err, lz4.ErrMalformed) {
			t.Errorf("%.10q: %d bytes, error %v, want %v", b, len(got), err, lz4.ErrMalformed)
		}
	}
	content := bytes.Repeat([]byte("abcdefgh"), 10)
	for _, note := range []string{"", "\x00", "\x00\x00\x00\x00\x00", "\x00\x7f\x00\x00\x00", "\x00\x01\x01\x02\x00"} {
		p := lz4.Packer{Notes: strings.NewReader(note)}
		var out bytes.Buffer
		if _, err := p.Pack(&out, content, 1<<20); !errors.Is(err, lz4.ErrMalformed) {
			t.Errorf("note %q: %v, want %v", note, err, lz4.ErrMalformed)
		}
	}
}

// FuzzPack: a hostile note makes an error or a block.
func FuzzPack(f *testing.F) {
	f.Add([]byte("\x01"), []byte(strings.Repeat("content", 10)))
	f.Add([]byte("\x00\x07\x07\x3f\x00"), []byte(strings.Repeat("content", 10)))
	f.Fuzz(func(t *testing.T, note, content []byte) {
		if len(content) > lz4.BlockSize {
			return
		}
		p := lz4.Packer{Notes: bytes.NewReader(note)}
		var out bytes.Buffer
		if _, err := p.Pack(&out, content, 1<<20); err == nil && len(content) > 0 {
			_ = lz4.Note(out.Bytes(), content)
		}
	})
}
