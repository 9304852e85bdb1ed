package delta

import "encoding/binary"

// Literals of code refer to addresses by displacements, which differ at each place. Before
// literals are compressed, the displacements of calls and of some operands become addresses.

// filterPiece is how many bytes of the list are filtered together. An instruction that crosses
// the border of two pieces is not changed, nor is one at the border of a match.
const filterPiece = 64 << 10

// reach is the displacement that is too large to be one: others are replaced by a number of the
// same range.
const reach = 1 << 26

// filter replaces displacements by addresses, or the other way round with sign -1. At is the
// place of b.
func filter(b []byte, at uint32, sign int32) {
	for i := 0; i+7 <= len(b); {
		p := i + 1
		switch c := b[i]; {
		case c&0xfe == 0xe8: // CALL, JMP
		case c&0xfb == 0x48 && withAddress[b[i+1]] && b[i+2]&0xc7 == 5: // REX.W, opcode, ModRM
			p = i + 3
		default:
			i++
			continue
		}
		i = p + 4 // also if it is not changed: what follows must not change its operand
		v := int32(binary.LittleEndian.Uint32(b[p:]))
		if v < -reach || v >= reach {
			continue
		}
		v += sign * int32((at+uint32(p))%(2*reach))
		v = v << 5 >> 5 // 27 bits
		binary.LittleEndian.PutUint32(b[p:], uint32(v))
	}
}

// withAddress are the opcodes after REX.W whose operands are often relative to RIP: MOV, LEA,
// CMP.
var withAddress = [256]bool{0x89: true, 0x8b: true, 0x8d: true, 0x39: true, 0x3b: true}

// filterFunc filters a range of code, or restores it with sign -1.
type filterFunc func(b []byte, sign int32)

// pieces calls do for each range of the list from off to end that is filtered as one, or with
// nil for one that is not filtered.
func (l *list) pieces(off, end int64, do func(off, end int64, filter filterFunc) error) error {
	for off < end {
		i := l.find(off)
		f := l.files[i]
		from, to := l.starts[i]+f.codeOff, l.starts[i]+f.codeEnd
		next, code := min(end, l.starts[i+1]), false
		switch {
		case off < from:
			next = min(next, from)
		case off < to:
			next, code = min(next, to), true
		}
		next = min(next, (off/filterPiece+1)*filterPiece)
		var filtered filterFunc
		switch at := uint32(off); {
		case code && f.arm:
			filtered = func(b []byte, sign int32) { armFilter(b, at, int(from-off)&3, sign) }
		case code:
			filtered = func(b []byte, sign int32) { filter(b, at, sign) }
		}
		if err := do(off, next, filtered); err != nil {
			return err
		}
		off = next
	}
	return nil
}
