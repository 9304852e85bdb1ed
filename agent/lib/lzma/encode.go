package lzma

import "encoding/binary"

// Options are those of Encode.
type Options struct {
	Properties
	Dictionary int // bytes that a distance may go back
	Depth      int // earlier positions that are compared at each position
	Enough     int // length of a match that is taken without comparing others
}

// Encode returns the stream of data. It is the same for the same arguments.
func Encode(data []byte, o Options) []byte {
	out := []byte{byte((o.Position*5+o.LiteralPosition)*9 + o.Context)}
	out = binary.LittleEndian.AppendUint32(out, uint32(o.Dictionary))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	e := &encoder{rng: 1<<32 - 1, pending: 1, out: out, matcher: newMatcher(data, o.Dictionary, o.Depth, o.Enough)}
	e.reset(o.Properties)
	for done := 0; done < len(data); {
		e.prices.update(&e.model)
		for target := min(done+priceSpan, len(data)); done < target; {
			done = e.plan(done)
		}
	}
	for range 5 {
		e.shift()
	}
	return e.out
}

// priceSpan is how many bytes are coded with the same prices, at least.
const priceSpan = 1 << 10

// encoder is one call of Encode.
type encoder struct {
	model
	*matcher
	prices prices

	low     uint64
	rng     uint32
	last    byte // output that a carry may change, with pending-1 bytes of 0xff after it
	pending int
	out     []byte

	state uint32
	reps  [4]uint32
	nodes [planSize + maxMatch + 2]node
	list  []found
	path  []symbol
}

func (e *encoder) bit(p *prob, b uint32) {
	v := uint32(*p)
	bound := e.rng >> probBits * v
	if b == 0 {
		e.rng = bound
		*p = prob(v + (1<<probBits-v)>>moveBits)
	} else {
		e.low += uint64(bound)
		e.rng -= bound
		*p = prob(v - v>>moveBits)
	}
	for e.rng < topRange {
		e.rng <<= 8
		e.shift()
	}
}

func (e *encoder) shift() {
	if uint32(e.low) < 0xff000000 || e.low>>32 != 0 {
		carry := byte(e.low >> 32)
		for c := e.last; e.pending > 0; e.pending-- {
			e.out = append(e.out, c+carry)
			c = 0xff
		}
		e.last = byte(e.low >> 24)
	}
	e.pending++
	e.low = uint64(uint32(e.low) << 8)
}

func (e *encoder) tree(probs []prob, n int, v uint32) {
	i := uint32(1)
	for k := n - 1; k >= 0; k-- {
		b := v >> k & 1
		e.bit(&probs[i], b)
		i = i<<1 | b
	}
}

func (e *encoder) reverse(probs []prob, n, v uint32) {
	i := uint32(1)
	for range n {
		b := v & 1
		v >>= 1
		e.bit(&probs[i], b)
		i = i<<1 | b
	}
}

// emit codes a step at a position, and returns the next position.
func (e *encoder) emit(pos int, s symbol) int {
	posState := uint32(pos) & (1<<e.posOf - 1)
	i := e.state<<posBits | posState
	if s.back == backLiteral {
		e.bit(&e.isMatch[i], 0)
		e.literalByte(pos)
		e.state = afterLiteral(e.state)
		return pos + 1
	}
	e.bit(&e.isMatch[i], 1)
	switch {
	case s.back >= 4:
		e.bit(&e.isRep[e.state], 0)
		e.lengthOf(&e.length, s.n, posState)
		e.distance(slotState(s.n), s.back-4)
		e.state = afterMatch(e.state)
	case s.n == 1:
		e.bit(&e.isRep[e.state], 1)
		e.bit(&e.isRepG0[e.state], 0)
		e.bit(&e.isRep0Long[i], 0)
		e.state = afterShortRep(e.state)
	default:
		e.bit(&e.isRep[e.state], 1)
		if s.back == 0 {
			e.bit(&e.isRepG0[e.state], 0)
			e.bit(&e.isRep0Long[i], 1)
		} else {
			e.bit(&e.isRepG0[e.state], 1)
			e.bit(&e.isRepG1[e.state], min(s.back-1, 1))
			if s.back > 1 {
				e.bit(&e.isRepG2[e.state], s.back-2)
			}
		}
		e.lengthOf(&e.repLength, s.n, posState)
		e.state = afterRep(e.state)
	}
	e.reps = moved(e.reps, s.back)
	return pos + int(s.n)
}

// moved returns the last distances after a match.
func moved(reps [4]uint32, back uint32) [4]uint32 {
	switch back {
	case 0:
	case 1:
		reps[0], reps[1] = reps[1], reps[0]
	case 2:
		reps[0], reps[1], reps[2] = reps[2], reps[0], reps[1]
	case 3:
		reps[0], reps[1], reps[2], reps[3] = reps[3], reps[0], reps[1], reps[2]
	default:
		reps[0], reps[1], reps[2], reps[3] = back-4, reps[0], reps[1], reps[2]
	}
	return reps
}

func (e *encoder) before(pos int) byte {
	if pos == 0 {
		return 0
	}
	return e.data[pos-1]
}

func (e *encoder) literalByte(pos int) {
	probs := e.literalAt(uint32(pos), e.before(pos))
	v := uint32(e.data[pos]) | 0x100
	if e.state < 7 {
		for v < 0x10000 {
			e.bit(&probs[v>>8], v>>7&1)
			v <<= 1
		}
		return
	}
	o, same := uint32(e.data[pos-1-int(e.reps[0])]), uint32(0x100)
	for v < 0x10000 {
		o <<= 1
		e.bit(&probs[same+o&same+v>>8], v>>7&1)
		v <<= 1
		same &^= o ^ v
	}
}

func (e *encoder) lengthOf(l *lengths, n, posState uint32) {
	n -= minMatch
	if n < lowLens {
		e.bit(&l.choice, 0)
		e.tree(l.low[posState][:], 3, n)
		return
	}
	e.bit(&l.choice, 1)
	if n -= lowLens; n < midLens {
		e.bit(&l.choice2, 0)
		e.tree(l.mid[posState][:], 3, n)
		return
	}
	e.bit(&l.choice2, 1)
	e.tree(l.high[:], 8, n-midLens)
}

func (e *encoder) distance(state, d uint32) {
	slot := slotOf(d)
	e.tree(e.slot[state][:], 6, slot)
	if slot < firstModel {
		return
	}
	n := slot>>1 - 1
	v := (2 | slot&1) << n
	if slot < endModel {
		e.reverse(e.special[v-slot:], n, d-v)
		return
	}
	for k := int(n) - 1; k >= alignBits; k-- {
		e.rng >>= 1
		if d>>k&1 != 0 {
			e.low += uint64(e.rng)
		}
		for e.rng < topRange {
			e.rng <<= 8
			e.shift()
		}
	}
	e.reverse(e.align[:], alignBits, d&(1<<alignBits-1))
}
