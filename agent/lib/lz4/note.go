package lz4

import (
	"encoding/binary"
	"io"
)

// Note returns the note of a block with a content. Packed with it, the content has the same
// bytes. It is nil if the block is of a kind that no sequences describe.
func Note(block, content []byte) (note []byte) {
	r, c := reader{block}, newChooser(content)
	right := uint64(0) // sequences that were predicted
	pos := 0
	for {
		s, _, err := r.next()
		if err != nil {
			return nil
		}
		last := len(r.b) == 0
		p := c.next()
		if p != s {
			note = binary.AppendUvarint(note, right)
			note = binary.AppendUvarint(note, uint64(s.literals))
			note = binary.AppendUvarint(note, uint64(s.offset))
			note = binary.AppendUvarint(note, uint64(s.match))
			right = 0
			c.correct(pos + s.literals + s.match)
		} else {
			right++
		}
		pos += s.literals + s.match
		if last {
			break
		}
	}
	if pos != len(content) {
		return nil
	}
	return binary.AppendUvarint(note, right)
}

// Packer packs blocks.
type Packer struct {
	Notes io.ByteReader // of all blocks
	out   []byte
}

// Pack writes the block of a content, and returns its size, which is most at most.
func (p *Packer) Pack(w io.Writer, content []byte, most int) (size int, err error) {
	c := newChooser(content)
	right, err := binary.ReadUvarint(p.Notes)
	if err != nil {
		return 0, ErrMalformed
	}
	p.out = p.out[:0]
	for pos := 0; ; {
		s := c.next()
		if right > 0 {
			right--
		} else {
			var v [3]uint64
			for i := range v {
				if v[i], err = binary.ReadUvarint(p.Notes); err != nil || v[i] > uint64(len(content)) {
					return size, ErrMalformed
				}
			}
			s = sequence{int(v[0]), int(v[2]), int(v[1])}
			if s.literals+s.match > len(content)-pos || s.offset > maxOffset || s.match > 0 && s.match < minMatch {
				return size, ErrMalformed
			}
			c.correct(pos + s.literals + s.match)
			if right, err = binary.ReadUvarint(p.Notes); err != nil {
				return size, ErrMalformed
			}
		}
		if s.literals+s.match == 0 && pos < len(content) {
			return size, ErrMalformed
		}
		p.out = appendSequence(p.out, content[pos:pos+s.literals], s)
		pos += s.literals + s.match
		if len(p.out) >= 64<<10 || pos == len(content) {
			if size += len(p.out); size > most {
				return size, ErrMalformed
			}
			if _, err := w.Write(p.out); err != nil {
				return size, err
			}
			p.out = p.out[:0]
		}
		if pos == len(content) {
			return size, nil
		}
	}
}
