package lzma

import "math"

const (
	priceShift = 4 // a bit has 1 << priceShift
	priceStep  = 4 // probabilities that share a price
)

// pricesOf has the price of a zero at each probability.
var pricesOf = func() (t [1 << probBits >> priceStep]uint32) {
	for i := range t {
		p := (float64(i) + 0.5) / float64(len(t))
		t[i] = uint32(math.Round(-math.Log2(p) * (1 << priceShift)))
	}
	return t
}()

func price0(p prob) uint32 { return pricesOf[p>>priceStep] }
func price1(p prob) uint32 { return pricesOf[(1<<probBits-1-p)>>priceStep] }

func price(p prob, bit uint32) uint32 {
	if bit == 0 {
		return price0(p)
	}
	return price1(p)
}

func priceTree(probs []prob, n int, v uint32) (sum uint32) {
	i := uint32(1)
	for k := n - 1; k >= 0; k-- {
		b := v >> k & 1
		sum += price(probs[i], b)
		i = i<<1 | b
	}
	return sum
}

func priceReverse(probs []prob, n, v uint32) (sum uint32) {
	i := uint32(1)
	for range n {
		b := v & 1
		v >>= 1
		sum += price(probs[i], b)
		i = i<<1 | b
	}
	return sum
}

// prices has what lengths and distances take.
type prices struct {
	length, repLength [1 << posBits][maxMatch + 1]uint32
	slot              [slotStates][slots]uint32 // with the bits of equal probability
	near              [slotStates][near]uint32
	align             [1 << alignBits]uint32
}

func (t *prices) update(m *model) {
	for s := range uint32(1) << m.posOf {
		m.length.prices(&t.length[s], s)
		m.repLength.prices(&t.repLength[s], s)
	}
	for s := range t.slot {
		for v := range t.slot[s] {
			t.slot[s][v] = priceTree(m.slot[s][:], 6, uint32(v))
			if v >= endModel {
				t.slot[s][v] += uint32(v>>1-1-alignBits) << priceShift
			}
		}
	}
	var low [near]uint32
	for d := uint32(firstModel); d < near; d++ {
		slot := slotOf(d)
		n := slot>>1 - 1
		v := (2 | slot&1) << n
		low[d] = priceReverse(m.special[v-slot:], n, d-v)
	}
	for s := range t.near {
		for d := range t.near[s] {
			t.near[s][d] = t.slot[s][slotOf(uint32(d))] + low[d]
		}
	}
	for v := range t.align {
		t.align[v] = priceReverse(m.align[:], alignBits, uint32(v))
	}
}

func (l *lengths) prices(t *[maxMatch + 1]uint32, posState uint32) {
	zero, one := price0(l.choice), price1(l.choice)
	mid, high := one+price0(l.choice2), one+price1(l.choice2)
	for n := range uint32(maxMatch + 1) {
		switch {
		case n < minMatch:
		case n < minMatch+lowLens:
			t[n] = zero + priceTree(l.low[posState][:], 3, n-minMatch)
		case n < minMatch+lowLens+midLens:
			t[n] = mid + priceTree(l.mid[posState][:], 3, n-minMatch-lowLens)
		default:
			t[n] = high + priceTree(l.high[:], 8, n-minMatch-lowLens-midLens)
		}
	}
}

// distance returns the price of a distance.
func (t *prices) distance(state, d uint32) uint32 {
	if d < near {
		return t.near[state][d]
	}
	return t.slot[state][slotOf(d)] + t.align[d&(1<<alignBits-1)]
}

// priceLiteral returns the price of a literal without its first bit. Other is the byte at the
// distance of the last match, which counts after a match.
func priceLiteral(probs []prob, state uint32, c, other byte) (sum uint32) {
	v := uint32(c) | 0x100
	if state < 7 {
		for v < 0x10000 {
			sum += price(probs[v>>8], v>>7&1)
			v <<= 1
		}
		return sum
	}
	o, same := uint32(other), uint32(0x100)
	for v < 0x10000 {
		o <<= 1
		sum += price(probs[same+o&same+v>>8], v>>7&1)
		v <<= 1
		same &^= o ^ v
	}
	return sum
}
