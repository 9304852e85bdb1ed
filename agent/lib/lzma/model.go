package lzma

import "math/bits"

// The parameters of the format.
const (
	headerSize = 13 // properties, size of the dictionary, size of the content

	states     = 12
	posBits    = 4 // at most, of the position that select probabilities
	minMatch   = 2
	maxMatch   = 273
	lowLens    = 8
	midLens    = 8
	slots      = 64
	slotStates = 4
	firstModel = 4  // slots below it are distances
	endModel   = 14 // slots from it on have bits of equal probability
	near       = 1 << (endModel / 2)
	alignBits  = 4

	probBits = 11
	probInit = 1 << (probBits - 1)
	moveBits = 5
	topRange = 1 << 24
)

// prob is the probability of a bit that is zero.
type prob = uint16

// lengths has the probabilities of lengths of matches.
type lengths struct {
	choice, choice2 prob
	low, mid        [1 << posBits][8]prob
	high            [256]prob
}

// model has all probabilities.
type model struct {
	isMatch, isRep0Long               [states << posBits]prob
	isRep, isRepG0, isRepG1, isRepG2  [states]prob
	slot                              [slotStates][slots]prob
	special                           [near - endModel + 1]prob // of the low bits of distances up to near
	align                             [1 << alignBits]prob
	length, repLength                 lengths
	literal                           []prob
	literalContext, literalPos, posOf uint32 // lc, lp, pb
}

func (m *model) reset(p Properties) {
	*m = model{literal: m.literal, literalContext: uint32(p.Context), literalPos: uint32(p.LiteralPosition), posOf: uint32(p.Position)}
	if n := 0x300 << (p.Context + p.LiteralPosition); len(m.literal) != n {
		m.literal = make([]prob, n)
	}
	for _, list := range [][]prob{m.isMatch[:], m.isRep0Long[:], m.isRep[:], m.isRepG0[:], m.isRepG1[:], m.isRepG2[:], m.special[:], m.align[:], m.literal} {
		fill(list)
	}
	for i := range m.slot {
		fill(m.slot[i][:])
	}
	m.length.reset()
	m.repLength.reset()
}

func (l *lengths) reset() {
	l.choice, l.choice2 = probInit, probInit
	for i := range l.low {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
	fill(l.high[:])
}

func fill(list []prob) {
	for i := range list {
		list[i] = probInit
	}
}

// literalAt returns the probabilities of the literal at a position after a byte.
func (m *model) literalAt(pos uint32, before byte) []prob {
	i := (pos&(1<<m.literalPos-1))<<m.literalContext + uint32(before)>>(8-m.literalContext)
	return m.literal[0x300*i : 0x300*i+0x300 : 0x300*i+0x300]
}

// The state remembers the last symbols. Below 7 the last one was a literal.
func afterLiteral(s uint32) uint32 {
	switch {
	case s < 4:
		return 0
	case s < 10:
		return s - 3
	}
	return s - 6
}

func after(s, literal, other uint32) uint32 {
	if s < 7 {
		return literal
	}
	return other
}

func afterMatch(s uint32) uint32    { return after(s, 7, 10) }
func afterRep(s uint32) uint32      { return after(s, 8, 11) }
func afterShortRep(s uint32) uint32 { return after(s, 9, 11) }

// slotOf returns the slot of a distance, which is one less than the number of bytes.
func slotOf(d uint32) uint32 {
	if d < firstModel {
		return d
	}
	n := uint32(bits.Len32(d)) - 1
	return n<<1 | d>>(n-1)&1
}

// slotState returns which probabilities the slot after a length has.
func slotState(length uint32) uint32 { return min(length-minMatch, slotStates-1) }

// Properties are lc, lp and pb of the format: the bits of the byte before a literal, of its
// position, and of the position of any symbol that select probabilities.
type Properties struct{ Context, LiteralPosition, Position int }

func (p Properties) valid() bool {
	return p.Context >= 0 && p.LiteralPosition >= 0 && p.Position >= 0 && p.Context+p.LiteralPosition <= 4 && p.Position <= 4
}
