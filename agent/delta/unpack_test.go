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
	const content = 20 << 20
	const size = 4 + content // with the magic of the frame
	c := exec.Command(require.Program(t, "lz4"), "-l", "-c", "-q", "-9")
	c.Stdin = bytes.NewReader(make([]byte, content)) // a bomb: about 80 KB
	packed, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	f := File{Size: int64(len(packed))}
	for _, announced := range []int64{0, 1, size - 1, size, size + 1} {
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
