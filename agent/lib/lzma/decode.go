package lzma

import (
	"encoding/binary"
	"errors"
	"io"
)

// ErrMalformed is the error of a stream that is no LZMA stream of a known size, or that needs
// more memory than its reader allows.
var ErrMalformed = errors.New("the LZMA stream is malformed")

const (
	inputSize = 32 << 10
	mostInput = 32      // bytes that one symbol may take, at most
	chunk     = 2 << 20 // bytes of output, beside the dictionary
	step      = 256 << 10
)

// Reader decompresses a stream.
type Reader struct {
	model
	r       io.Reader
	in      []byte // the input from pos on is not used yet
	pos     int
	padding int // bytes at the end of in that are no input
	rng     uint32
	code    uint32

	state uint32
	reps  [4]uint32
	dict  int    // bytes that a distance may go back
	out   []byte // the last of the output
	given int    // bytes of out that were read
	total uint64 // bytes of output
	left  uint64 // bytes that are not in out yet
	err   error
}

// NewReader reads the header of a stream. Most bounds the dictionary, in bytes. The errors of
// reading are ErrMalformed and those of r.
func NewReader(r io.Reader, most int) (*Reader, error) {
	var h [headerSize + 5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, cut(err)
	}
	props := int(h[0])
	p := Properties{props % 9, props / 9 % 5, props / 45}
	dict, size := binary.LittleEndian.Uint32(h[1:]), binary.LittleEndian.Uint64(h[5:])
	if !p.valid() || uint64(dict) > uint64(most) || size > 1<<62 || h[headerSize] != 0 {
		return nil, ErrMalformed
	}
	d := &Reader{r: r, left: size, rng: 1<<32 - 1, code: binary.BigEndian.Uint32(h[headerSize+1:])}
	d.reset(p)
	d.dict = int(min(uint64(dict), size))
	d.out = make([]byte, 0, int(min(uint64(d.dict+max(d.dict/4, step)+maxMatch), size)))
	d.in = make([]byte, 0, inputSize+mostInput)
	return d, nil
}

func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrMalformed
	}
	return err
}

// Read implements io.Reader.
func (d *Reader) Read(b []byte) (int, error) {
	if d.given == len(d.out) {
		if d.err == nil {
			d.err = d.decode()
		}
		if d.given == len(d.out) {
			return 0, d.err
		}
	}
	n := copy(b, d.out[d.given:])
	d.given += n
	return n, nil
}

// ReadByte implements io.ByteReader.
func (d *Reader) ReadByte() (byte, error) {
	if d.given < len(d.out) {
		c := d.out[d.given]
		d.given++
		return c, nil
	}
	var b [1]byte
	_, err := d.Read(b[:])
	return b[0], err
}

// fill makes sure that the input has the bytes of one symbol. After its end are zeros.
func (d *Reader) fill() error {
	n := copy(d.in[:cap(d.in)], d.in[d.pos:])
	d.in, d.pos = d.in[:n], 0
	for len(d.in) < mostInput && d.padding == 0 {
		k, err := d.r.Read(d.in[len(d.in):inputSize])
		d.in = d.in[:len(d.in)+k]
		if err == io.EOF {
			d.padding = mostInput
			d.in = d.in[:len(d.in)+mostInput]
			clear(d.in[len(d.in)-mostInput:])
		} else if err != nil {
			return err
		}
	}
	if len(d.in) < mostInput { // a part of the padding was used
		return ErrMalformed
	}
	return nil
}

// decode appends to the output, up to a chunk. At the end of the stream it returns io.EOF.
func (d *Reader) decode() error {
	if d.left == 0 {
		return d.finish()
	}
	if uint64(cap(d.out)-len(d.out)) < min(d.left, maxMatch) {
		n := copy(d.out[:d.dict], d.out[len(d.out)-d.dict:])
		d.out, d.given = d.out[:n], n
	}
	end := len(d.out) + int(min(step, d.left))
	if uint64(cap(d.out)-len(d.out)) < d.left {
		end = min(end, cap(d.out)-maxMatch+1) // a match that begins before it has place
	}
	before := len(d.out)
	for len(d.out) < end {
		if len(d.in)-d.pos < mostInput {
			if err := d.fill(); err != nil {
				return err
			}
		}
		if err := d.symbols(end, len(d.out)+int(min(1<<30, d.left-uint64(len(d.out)-before)))); err != nil {
			return err
		}
	}
	d.left -= uint64(len(d.out) - before)
	return nil
}

// finish checks the end of the input.
func (d *Reader) finish() error {
	for {
		if len(d.in)-d.pos < mostInput {
			if err := d.fill(); err != nil {
				return err
			}
		}
		if d.rng >= topRange {
			break
		}
		d.normalize()
	}
	if d.padding == 0 { // fill has read at least mostInput bytes, of which none is needed
		return ErrMalformed
	}
	if len(d.in)-d.pos != d.padding || d.code != 0 {
		return ErrMalformed
	}
	return io.EOF
}

func (d *Reader) normalize() {
	d.rng <<= 8
	d.code = d.code<<8 | uint32(d.in[d.pos])
	d.pos++
}

// symbols decodes symbols until the output has end bytes or the input has to be filled. The
// output may get last bytes at most.
func (d *Reader) symbols(end, last int) error {
	stop := len(d.in) - mostInput
	posMask, literalMask := uint32(1)<<d.posOf-1, uint32(1)<<d.literalPos-1
	for len(d.out) < end && d.pos <= stop {
		at := uint32(d.total)
		posState := at & posMask
		if d.bit(&d.isMatch[d.state<<posBits|posState]) == 0 {
			i := uint32(0)
			if n := len(d.out); n > 0 {
				i = uint32(d.out[n-1]) >> (8 - d.literalContext)
			}
			i += (at & literalMask) << d.literalContext
			probs := (*[0x300]prob)(d.literal[0x300*i:])
			c := byte(0)
			if d.state < 7 {
				c = d.plain(probs)
			} else {
				c = d.matched(probs, d.out[len(d.out)-1-int(d.reps[0])])
			}
			d.out = append(d.out, c)
			d.total++
			d.state = afterLiteral(d.state)
			continue
		}
		n, err := d.match(posState)
		if err != nil {
			return err
		}
		dist := int(d.reps[0]) + 1
		k := len(d.out)
		if dist > k || dist > d.dict || n > last-k {
			return ErrMalformed
		}
		out := d.out[:k+n]
		if dist >= n {
			copy(out[k:], out[k-dist:k-dist+n])
		} else {
			for j := k; j < k+n; j++ {
				out[j] = out[j-dist]
			}
		}
		d.out = out
		d.total += uint64(n)
	}
	return nil
}

// match decodes a match after its first bit: its distance is in reps then.
func (d *Reader) match(posState uint32) (n int, err error) {
	s := d.state
	if d.bit(&d.isRep[s]) == 0 {
		d.reps[3], d.reps[2], d.reps[1] = d.reps[2], d.reps[1], d.reps[0]
		length := d.lengthOf(&d.length, posState)
		d.state = afterMatch(s)
		d.reps[0] = d.distance(slotState(length))
		return int(length), nil
	}
	if d.total == 0 {
		return 0, ErrMalformed
	}
	if d.bit(&d.isRepG0[s]) == 0 {
		if d.bit(&d.isRep0Long[s<<posBits|posState]) == 0 {
			d.state = afterShortRep(s)
			return 1, nil
		}
	} else {
		i := 1
		if d.bit(&d.isRepG1[s]) != 0 {
			i = 2 + int(d.bit(&d.isRepG2[s]))
		}
		v := d.reps[i]
		copy(d.reps[1:i+1], d.reps[:i])
		d.reps[0] = v
	}
	d.state = afterRep(s)
	return int(d.lengthOf(&d.repLength, posState)), nil
}

func (d *Reader) lengthOf(l *lengths, posState uint32) uint32 {
	if d.bit(&l.choice) == 0 {
		return minMatch + d.tree(l.low[posState][:], 3)
	}
	if d.bit(&l.choice2) == 0 {
		return minMatch + lowLens + d.tree(l.mid[posState][:], 3)
	}
	return minMatch + lowLens + midLens + d.tree(l.high[:], 8)
}

func (d *Reader) distance(state uint32) uint32 {
	slot := d.tree(d.slot[state][:], 6)
	if slot < firstModel {
		return slot
	}
	n := slot>>1 - 1
	v := (2 | slot&1) << n
	if slot < endModel {
		return v + d.reverse(d.special[v-slot:], n)
	}
	for i := n - 1; i >= alignBits; i-- {
		if d.rng < topRange {
			d.normalize()
		}
		d.rng >>= 1
		if d.code >= d.rng {
			d.code -= d.rng
			v |= 1 << i
		}
	}
	return v | d.reverse(d.align[:], alignBits)
}

// bit decodes one bit.
func (d *Reader) bit(p *prob) uint32 {
	rng, code := d.rng, d.code
	if rng < topRange {
		rng <<= 8
		code = code<<8 | uint32(d.in[d.pos])
		d.pos++
	}
	v := uint32(*p)
	bound := rng >> probBits * v
	if code < bound {
		d.rng, d.code = bound, code
		*p = prob(v + (1<<probBits-v)>>moveBits)
		return 0
	}
	d.rng, d.code = rng-bound, code-bound
	*p = prob(v - v>>moveBits)
	return 1
}

// tree decodes n bits, the highest first.
func (d *Reader) tree(probs []prob, n int) uint32 {
	i := uint32(1)
	for range n {
		i = i<<1 | d.bit(&probs[i])
	}
	return i - 1<<n
}

// reverse decodes n bits, the lowest first.
func (d *Reader) reverse(probs []prob, n uint32) (v uint32) {
	i := uint32(1)
	for k := range n {
		b := d.bit(&probs[i])
		i = i<<1 | b
		v |= b << k
	}
	return v
}

// plain decodes a literal after a literal.
func (d *Reader) plain(probs *[0x300]prob) byte {
	rng, code, in, pos := d.rng, d.code, d.in, d.pos
	i := uint32(1)
	for i < 0x100 {
		if rng < topRange {
			rng <<= 8
			code = code<<8 | uint32(in[pos])
			pos++
		}
		p := &probs[i]
		v := uint32(*p)
		bound := rng >> probBits * v
		if code < bound {
			rng = bound
			*p = prob(v + (1<<probBits-v)>>moveBits)
			i <<= 1
		} else {
			rng -= bound
			code -= bound
			*p = prob(v - v>>moveBits)
			i = i<<1 | 1
		}
	}
	d.rng, d.code, d.pos = rng, code, pos
	return byte(i)
}

// matched decodes a literal after a match, which the byte at the distance of the match is
// likely to differ from.
func (d *Reader) matched(probs *[0x300]prob, other byte) byte {
	rng, code, in, pos := d.rng, d.code, d.in, d.pos
	i, o, same := uint32(1), uint32(other), uint32(0x100)
	for i < 0x100 {
		if rng < topRange {
			rng <<= 8
			code = code<<8 | uint32(in[pos])
			pos++
		}
		o <<= 1
		b := o & same
		p := &probs[same+b+i]
		v := uint32(*p)
		bound := rng >> probBits * v
		if code < bound {
			rng = bound
			*p = prob(v + (1<<probBits-v)>>moveBits)
			i <<= 1
			same &^= b
		} else {
			rng -= bound
			code -= bound
			*p = prob(v - v>>moveBits)
			i = i<<1 | 1
			same &= b
		}
	}
	d.rng, d.code, d.pos = rng, code, pos
	return byte(i)
}
