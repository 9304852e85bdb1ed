package delta

import (
	"bytes"
	"errors"
	"os/exec"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestUnpackIsBounded: whatever an old file has in it, no more is written than the pack has
// announced, for which there is space.
func TestUnpackIsBounded(t *testing.T) {
	for _, c := range []struct {
		program      string
		flags        []string
		content, all int64 // all: with what precedes and follows the blocks
	}{
		{"lz4", []string{"-l", "-c", "-q", "-9"}, 20 << 20, 20<<20 + 4},
		{"gzip", []string{"-n", "-9"}, 15 << 20, 15<<20 + 10 + 8},
	} {
		t.Run(c.program, func(t *testing.T) {
			bomb := exec.Command(require.Program(t, c.program), c.flags...)
			bomb.Stdin = bytes.NewReader(make([]byte, c.content))
			packed, err := bomb.Output()
			if err != nil {
				t.Fatal(err)
			}
			testUnpackIsBounded(t, packed, c.content, c.all)
		})
	}
}

func testUnpackIsBounded(t *testing.T, packed []byte, content, size int64) {
	f := File{Size: int64(len(packed))}
	for _, announced := range []int64{0, 1, 12, size - 1, size, size + 1} {
		var out bytes.Buffer
		in, err := unpackOld(bytes.NewReader(packed), f, announced, &out, version)
		if int64(out.Len()) > announced {
			t.Errorf("announced %d: %d bytes are written, want that at most", announced, out.Len())
		}
		if announced == size && (err != nil || in.size != content) {
			t.Errorf("the right size: got %+v and %v, want %d bytes and no error", in, err, content)
		}
		if announced != size && !errors.Is(err, ErrMalformed) {
			t.Errorf("announced %d of %d: got %v, want %v", announced, size, err, ErrMalformed)
		}
	}
}
