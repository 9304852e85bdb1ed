package lz4

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// BlockSize is the content of a block, in bytes, except for the last one of a frame.
const BlockSize = 8 << 20

const (
	minMatch   = 4
	maxOffset  = 1<<16 - 1
	lastBytes  = 5  // at the end of a block that are literals
	matchLimit = 12 // at the end of a block where no match begins
)

// ErrMalformed is the error of a block or note that no compressor has written.
var ErrMalformed = errors.New("the LZ4 block is malformed")

var magic = []byte{0x02, 0x21, 0x4c, 0x18}

// Block is the place of a compressed block in a file, in bytes.
type Block struct{ Off, Size int }

// Find returns the blocks of the first frame in a file. Without one, there are none.
func Find(b []byte) (blocks []Block) {
	for from := 0; ; {
		i := bytes.Index(b[from:], magic)
		if i < 0 {
			return nil
		}
		from += i + len(magic)
		for at := from; at+4 < len(b); {
			n := int(binary.LittleEndian.Uint32(b[at:]))
			if n == 0 || n > BlockSize+BlockSize/255+16 || n > len(b)-at-4 {
				break
			}
			blocks = append(blocks, Block{at + 4, n})
			at += 4 + n
		}
		if len(blocks) > 0 {
			return blocks
		}
	}
}

// sequence is some literals and a match. The last one of a block has no match.
type sequence struct{ literals, match, offset int }

// reader reads the sequences of a block.
type reader struct{ b []byte }

func (r *reader) length(n int) (int, bool) {
	if n < 15 {
		return n, true
	}
	for len(r.b) > 0 {
		c := r.b[0]
		r.b = r.b[1:]
		if n += int(c); c < 255 {
			return n, n <= BlockSize
		}
	}
	return 0, false
}

// next returns a sequence and its literals.
func (r *reader) next() (s sequence, literals []byte, err error) {
	if len(r.b) == 0 {
		return s, nil, ErrMalformed
	}
	token := int(r.b[0])
	r.b = r.b[1:]
	n, ok := r.length(token >> 4)
	if !ok || n > len(r.b) {
		return s, nil, ErrMalformed
	}
	s.literals, literals, r.b = n, r.b[:n], r.b[n:]
	if len(r.b) == 0 {
		return s, literals, nil
	}
	if len(r.b) < 2 {
		return s, nil, ErrMalformed
	}
	s.offset = int(binary.LittleEndian.Uint16(r.b))
	r.b = r.b[2:]
	n, ok = r.length(token & 15)
	s.match = n + minMatch
	if !ok || s.offset == 0 {
		return s, nil, ErrMalformed
	}
	return s, literals, nil
}

// Unpack appends the content of a block.
func Unpack(dst, block []byte) ([]byte, error) {
	r, start := reader{block}, len(dst)
	for len(r.b) > 0 {
		s, literals, err := r.next()
		if err != nil {
			return nil, err
		}
		if len(dst)-start+s.literals+s.match > BlockSize || s.offset > len(dst)-start+s.literals {
			return nil, ErrMalformed
		}
		dst = append(dst, literals...)
		for range s.match {
			dst = append(dst, dst[len(dst)-s.offset])
		}
	}
	return dst, nil
}

// appendSequence appends a sequence with its literals.
func appendSequence(b, literals []byte, s sequence) []byte {
	token := byte(min(len(literals), 15)) << 4
	if s.match > 0 {
		token |= byte(min(s.match-minMatch, 15))
	}
	b = append(b, token)
	b = append(appendLength(b, len(literals)), literals...)
	if s.match > 0 {
		b = binary.LittleEndian.AppendUint16(b, uint16(s.offset))
		b = appendLength(b, s.match-minMatch)
	}
	return b
}

func appendLength(b []byte, n int) []byte {
	if n < 15 {
		return b
	}
	for n -= 15; n >= 255; n -= 255 {
		b = append(b, 255)
	}
	return append(b, byte(n))
}
