package deflate_test

import (
	stdzip "archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/e2e/require"
)

// zlib is a process of Python that packs with zlib.
type zlib struct {
	in  io.Writer
	out *bufio.Reader
}

const script = `
import struct, sys, zlib
i, o = sys.stdin.buffer, sys.stdout.buffer
while head := i.read(6):
    n, level, memory = struct.unpack("<IBB", head)
    b = i.read(n)
    z = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
    out = b"".join(z.compress(b[k:k+5000]) for k in range(0, n, 5000)) + z.flush()
    o.write(struct.pack("<I", len(out)) + out)
    o.flush()
`

func newZlib(t *testing.T) *zlib {
	t.Helper()
	cmd := exec.Command(require.Program(t, "python3"), "-c", script)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("python3: %v", err)
		}
	})
	return &zlib{in, bufio.NewReader(out)}
}

func (z *zlib) pack(t *testing.T, content []byte, v deflate.Variant) []byte {
	t.Helper()
	memory := byte(8)
	if v >= deflate.ZlibLarge {
		memory = 9
	}
	head := append(binary.LittleEndian.AppendUint32(nil, uint32(len(content))), byte(v&15), memory)
	if _, err := z.in.Write(append(head, content...)); err != nil {
		t.Fatal(err)
	}
	var n uint32
	if err := binary.Read(z.out, binary.LittleEndian, &n); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(z.out, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// zip returns the stream that Info-ZIP's zip makes of a file, or nil if it stores that.
func zip(t *testing.T, dir string, content []byte, level deflate.Variant) []byte {
	t.Helper()
	path := filepath.Join(dir, "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "archive.zip")
	os.Remove(archive)
	if out, err := exec.Command(require.Program(t, "zip"), "-q", "-j", "-X", fmt.Sprint("-", level), archive, path).CombinedOutput(); err != nil {
		t.Fatalf("zip: %v\n%s", err, out)
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	r, err := stdzip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	f := r.File[0]
	if f.Method != stdzip.Deflate {
		return nil
	}
	off, err := f.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	return b[off : off+int64(f.CompressedSize64)]
}

// again packs content, and compares that with a stream of another program.
func again(t *testing.T, content, stream []byte, v deflate.Variant) {
	t.Helper()
	if stream == nil {
		return
	}
	var out bytes.Buffer
	if err := packed(&out, content, v); err != nil {
		t.Fatalf("%d bytes, the first %.20q, variant %#x: %v", len(content), content, v, err)
	}
	if !bytes.Equal(out.Bytes(), stream) {
		t.Errorf("%d bytes, the first %.20q, variant %#x: got %d bytes, want the %d of the program", len(content), content, v, out.Len(), len(stream))
	}
	back, n, err := unpacked(stream)
	if err != nil || n != len(stream) || !bytes.Equal(back, content) {
		t.Errorf("variant %#x: unpacked %d bytes from %d of %d, %v; want %d", v, len(back), n, len(stream), err, len(content))
	}
}

// TestLikeZlib: the streams are those of zlib, at all levels.
func TestLikeZlib(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	z := newZlib(t)
	for name, content := range contents(t) {
		for level := deflate.Variant(1); level <= 9; level++ {
			for _, v := range []deflate.Variant{deflate.Zlib + level, deflate.ZlibLarge + level} {
				t.Run(fmt.Sprintf("%s/%#x", name, v), func(t *testing.T) { again(t, content, z.pack(t, content, v), v) })
			}
		}
	}
}

// TestLikeZip: the streams are those of Info-ZIP's zip, at all levels.
func TestLikeZip(t *testing.T) {
	require.NotShort(t) // it uses the processor for seconds, and one goroutine
	dir := t.TempDir()
	for name, content := range contents(t) {
		for level := deflate.Variant(1); level <= 9; level++ {
			t.Run(fmt.Sprintf("%s/%d", name, level), func(t *testing.T) {
				again(t, content, zip(t, dir, content, level), deflate.Zip+level)
			})
		}
	}
}
