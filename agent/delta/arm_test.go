package delta

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// TestInstructions: an instruction is made again from its value, whatever its bits are.
func TestInstructions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]fieldKind{fieldBranch, fieldPage, fieldLow}).Draw(t, "kind")
		w := rapid.Uint32().Draw(t, "instruction")
		at := rapid.Int64Range(0, 1<<40).Draw(t, "at") &^ 3
		var b [4]byte
		kind.put(b[:], kind.target(binary.LittleEndian.AppendUint32(nil, w), at, 0), at, 0)
		if got := binary.LittleEndian.Uint32(b[:]); got != w {
			t.Errorf("%08x came back, want %08x", got, w)
		}
	})
}

// TestAddresses: the addresses of instructions, as an assembler makes them.
func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		kind fieldKind
		w    uint32
		base int64
		want int64
	}{
		{fieldBranch, 0x94000002, 0, 0x10008},    // BL .+8
		{fieldBranch, 0x17ffffff, 0, 0xfffc},     // B .-4
		{fieldPage, 0xb0000000, 0, 0x11000},      // ADRP X0, .+0x1000
		{fieldPage, 0xf0ffffe0, 0x123, 0xf123},   // ADRP X0, .-0x1000, and 0x123
		{fieldLow, 0x91048c00, 0x11000, 0x11123}, // ADD X0, X0, 0x123
		{fieldLow, 0xf9400400, 0x11000, 0x11008}, // LDR X0, [X0, 8]
		{fieldLow, 0xb9400400, 0x11000, 0x11004}, // LDR W0, [X0, 4]
		{fieldLow, 0x3dc00400, 0x11000, 0x11010}, // LDR Q0, [X0, 16]
		{fieldLow, 0xfd400400, 0x11000, 0x11008}, // LDR D0, [X0, 8]
	} {
		b := binary.LittleEndian.AppendUint32(nil, c.w)
		if got := c.kind.target(b, 0x10000, c.base) & addressMask; got != c.want {
			t.Errorf("%08x refers to %#x, want %#x", c.w, got, c.want)
		}
	}
}

// TestARMFilter: what is filtered comes back, wherever instructions begin.
func TestARMFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0x94, 0x97, 0, 1, 0xff}), 0, 200).Draw(t, "code")
		at, skip := rapid.Uint32().Draw(t, "at"), rapid.IntRange(0, 3).Draw(t, "skip")
		c := bytes.Clone(b)
		armFilter(c, at, skip, 1)
		armFilter(c, at, skip, -1)
		if !bytes.Equal(b, c) {
			t.Errorf("% x came back, want % x", c, b)
		}
	})
}
