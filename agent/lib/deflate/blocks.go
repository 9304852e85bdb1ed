package deflate

import (
	"io"
	"math/bits"
)

// The alphabets of RFC 1951.
const (
	literals   = 256
	endOfBlock = 256
	lengthSyms = 29
	symbols    = literals + 1 + lengthSyms
	distSyms   = 30
	codeSyms   = 19

	maxBits     = 15
	maxCodeBits = 7
)

// The symbols of lengths of codes that repeat.
const (
	repeat    = 16 // the last one, 3 to 6 times
	zeros     = 17 // 3 to 10
	manyZeros = 18 // 11 to 138
)

var (
	lengthExtra = [lengthSyms]uint8{8: 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distExtra   = [distSyms]uint8{4: 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	codeExtra   = [codeSyms]uint8{repeat: 2, zeros: 3, manyZeros: 7}
	codeOrder   = [codeSyms]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

	lengthBase [lengthSyms]int
	distBase   [distSyms]int

	staticLengths [symbols + 2]uint8
	staticCodes   []uint16
	staticDists   [distSyms]uint8
	distCodes     []uint16
)

func init() {
	n := 0
	for i := range lengthBase {
		lengthBase[i] = n
		n += 1 << lengthExtra[i]
	}
	lengthBase[lengthSyms-1] = maxMatch - minMatch // which has a symbol of its own
	n = 0
	for i := range distBase {
		distBase[i] = n
		n += 1 << distExtra[i]
	}
	for i := range staticLengths {
		switch {
		case i < 144, i >= 280:
			staticLengths[i] = 8
		case i < 256:
			staticLengths[i] = 9
		default:
			staticLengths[i] = 7
		}
	}
	for i := range staticDists {
		staticDists[i] = 5
	}
	staticCodes, distCodes = codesOf(staticLengths[:]), codesOf(staticDists[:])
}

// lengthSym returns the symbol of a length less minMatch, without the literals before it.
func lengthSym(n int) int {
	if n == maxMatch-minMatch {
		return lengthSyms - 1
	}
	if n < 8 {
		return n
	}
	k := bits.Len(uint(n)) - 3
	return 4*k + n>>k
}

// distSym returns the symbol of a distance less one.
func distSym(d int) int {
	if d < 4 {
		return d
	}
	k := bits.Len(uint(d)) - 2
	return 2*k + d>>k
}

// token is a literal, or a match with a distance.
type token struct{ length, dist uint16 } // less minMatch or the literal; 0 for a literal

// blocks collects the tokens of a block, and writes it.
type blocks struct {
	out      bitWriter
	early    bool // see config
	limit    int
	tokens   []token
	matches  int
	litFreq  [symbols]int
	distFreq [distSyms]int
}

// reset begins a stream.
func (b *blocks) reset(w io.Writer, c config) {
	*b = blocks{out: bitWriter{w: w, b: b.out.b[:0]}, early: c.early, limit: c.symbols, tokens: b.tokens[:0]}
	b.litFreq[endOfBlock] = 1
}

// literal adds a literal, and reports whether the block ends there. Since is how many bytes of
// content the block has.
func (b *blocks) literal(c byte, since int) (full bool) {
	b.tokens = append(b.tokens, token{length: uint16(c)})
	b.litFreq[c]++
	return b.full(since)
}

// match adds a match, as literal does.
func (b *blocks) match(length, dist, since int) (full bool) {
	b.tokens = append(b.tokens, token{uint16(length - minMatch), uint16(dist)})
	b.matches++
	b.litFreq[literals+1+lengthSym(length-minMatch)]++
	b.distFreq[distSym(dist-1)]++
	return b.full(since)
}

// full reports whether a block ends: if there is no place, or, in some variants, if few matches
// have shortened it much, so that the codes of another block may fit better.
func (b *blocks) full(since int) bool {
	if n := len(b.tokens); b.early && n%4096 == 0 {
		size := 8 * n
		for i, freq := range b.distFreq {
			size += freq * (5 + int(distExtra[i]))
		}
		if b.matches < n/2 && size/8 < since/2 {
			return true
		}
	}
	return len(b.tokens) == b.limit
}

// flush writes a block in the smallest of three forms. Stored is its content if that is still
// in the buffer, which has size bytes.
func (b *blocks) flush(stored []byte, size int, last bool) error {
	lit := newTree(b.litFreq[:], lengthExtra[:], literals+1, maxBits, staticLengths[:])
	dist := newTree(b.distFreq[:], distExtra[:], 0, maxBits, staticDists[:])
	var codeFreq [codeSyms]int
	count := func(sym, _, _ int) { codeFreq[sym]++ }
	lit.runs(count)
	dist.runs(count)
	code := newTree(codeFreq[:], codeExtra[:], 0, maxCodeBits, nil)
	n := codeSyms
	for n > 4 && code.lengths[codeOrder[n-1]] == 0 {
		n--
	}
	dynamic := (lit.size + dist.size + code.size + 3*n + 5 + 5 + 4 + 3 + 7) / 8
	static := (lit.static + dist.static + 3 + 7) / 8
	final := 0
	if last {
		final = 1
	}
	switch {
	case size+4 <= min(dynamic, static) && stored != nil:
		b.out.bits(final, 3)
		b.out.align()
		b.out.bits(size, 16)
		b.out.bits(^size&0xffff, 16)
		b.out.bytes(stored)
	case static <= dynamic:
		b.out.bits(1<<1|final, 3)
		b.write(staticLengths[:], staticCodes, staticDists[:], distCodes)
	default:
		b.out.bits(2<<1|final, 3)
		b.out.bits(lit.max+1-257, 5)
		b.out.bits(dist.max+1-1, 5)
		b.out.bits(n-4, 4)
		for _, i := range codeOrder[:n] {
			b.out.bits(int(code.lengths[i]), 3)
		}
		codes := codesOf(code.lengths)
		write := func(sym, extra, count int) {
			b.out.bits(int(codes[sym]), int(code.lengths[sym]))
			b.out.bits(extra, count)
		}
		lit.runs(write)
		dist.runs(write)
		b.write(lit.lengths, codesOf(lit.lengths), dist.lengths, codesOf(dist.lengths))
	}
	if last {
		b.out.align()
	}
	b.out.flush()
	b.tokens, b.matches, b.litFreq, b.distFreq = b.tokens[:0], 0, [symbols]int{endOfBlock: 1}, [distSyms]int{}
	return b.out.err
}

// write writes the tokens in codes.
func (b *blocks) write(litLengths []uint8, lit []uint16, distLengths []uint8, dist []uint16) {
	put := func(sym int, codes []uint16, lengths []uint8) { b.out.bits(int(codes[sym]), int(lengths[sym])) }
	for _, t := range b.tokens {
		if t.dist == 0 {
			put(int(t.length), lit, litLengths)
			continue
		}
		n := lengthSym(int(t.length))
		put(literals+1+n, lit, litLengths)
		b.out.bits(int(t.length)-lengthBase[n], int(lengthExtra[n]))
		d := distSym(int(t.dist) - 1)
		put(d, dist, distLengths)
		b.out.bits(int(t.dist)-1-distBase[d], int(distExtra[d]))
	}
	put(endOfBlock, lit, litLengths)
}

// bitWriter writes bits, the lowest first. After an error it writes nothing.
type bitWriter struct {
	w   io.Writer
	b   []byte
	acc uint64
	n   int // bits in acc
	err error
}

func (w *bitWriter) bits(v, n int) {
	w.acc |= uint64(v) << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

func (w *bitWriter) align() { w.bits(0, -w.n&7) }

func (w *bitWriter) bytes(b []byte) { w.b = append(w.b, b...) }

func (w *bitWriter) flush() {
	if w.err == nil {
		_, w.err = w.w.Write(w.b)
	}
	w.b = w.b[:0]
}
