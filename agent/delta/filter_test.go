package delta

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestFilter: what is filtered comes back, also where instructions overlap.
func TestFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := []byte{0xe8, 0xe9, 0x48, 0x4c, 0x8b, 0x8d, 0x05, 0x0d, 0x00, 0xff, 0x01, 0x7f}
		b := rapid.SliceOfN(rapid.SampledFrom(letters), 0, 200).Draw(t, "code")
		at := rapid.Uint32().Draw(t, "at")
		c := bytes.Clone(b)
		filter(c, at, 1)
		filter(c, at, -1)
		if !bytes.Equal(b, c) {
			t.Errorf("% x came back, want % x", c, b)
		}
	})
}
