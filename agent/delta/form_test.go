package delta_test

import (
	"bytes"
	"os/exec"
	"testing"

	"github.com/lull/lull/agent/delta"
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

// TestImages: of a packed program, the differences of its unpacked form are coded, if lz4 -9 has
// packed it. Otherwise it comes back as any other file.
func TestImages(t *testing.T) {
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
