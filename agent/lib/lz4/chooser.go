package lz4

import (
	"encoding/binary"
	"math/bits"
)

const (
	hashBits = 15
	attempts = 256
	optimal  = 15 - 1 + minMatch // length of a match that needs no more bytes for it
	none     = -1 << 30
	workOf   = 4 << 10 // bytes that are compared for each byte of a block, at most
)

// match is a range that repeats an earlier one.
type match struct{ start, n, from int }

func (m *match) cut(n int) { m.start, m.from, m.n = m.start+n, m.from+n, m.n-n }

// chooser chooses sequences.
type chooser struct {
	b      []byte
	heads  [1 << hashBits]int32
	chain  [1 << 16]uint16 // distance to the position before with the same hash
	update int             // positions before it are in the chains
	work   int             // bytes that may still be compared

	at      int // end of the last sequence
	pos     int // where the search goes on
	pending []match
	state   int
	m       [4]match // 0 is the first one as it was found
}

const (
	searchFirst = iota
	searchSecond
	searchThird
)

func newChooser(b []byte) *chooser {
	c := &chooser{b: b, work: workOf * len(b)}
	for i := range c.heads {
		c.heads[i] = none
	}
	return c
}

// correct goes on after the true sequence, which ends at a position.
func (c *chooser) correct(end int) {
	c.at, c.pos, c.state, c.pending = end, end, searchFirst, c.pending[:0]
}

// next returns the sequence after the last one.
func (c *chooser) next() sequence {
	if len(c.pending) == 0 {
		c.search()
	}
	if len(c.pending) == 0 {
		s := sequence{literals: len(c.b) - c.at}
		c.at = len(c.b)
		return s
	}
	m := c.pending[0]
	c.pending = c.pending[1:]
	s := sequence{m.start - c.at, m.n, m.start - m.from}
	if s.literals < 0 || s.match < minMatch { // a state that follows a correction
		c.correct(c.at)
		return sequence{}
	}
	c.at = m.start + m.n
	return s
}

func (c *chooser) word(at int) uint32 { return binary.LittleEndian.Uint32(c.b[at:]) }

func (c *chooser) insert(to int) {
	for ; c.update < to; c.update++ {
		h := c.word(c.update) * 2654435761 >> (32 - hashBits)
		c.chain[c.update&maxOffset] = uint16(min(c.update-int(c.heads[h]), maxOffset))
		c.heads[h] = int32(c.update)
	}
}

// common returns how many bytes at two positions are equal, up to a limit of the second.
func (c *chooser) common(a, b, limit int) int {
	n := 0
	for b+n+8 <= limit {
		if x := binary.LittleEndian.Uint64(c.b[a+n:]) ^ binary.LittleEndian.Uint64(c.b[b+n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for b+n < limit && c.b[a+n] == c.b[b+n] {
		n++
	}
	return n
}

// wider returns a match that covers pos, begins at low or later, and is longer than longest; or
// one of that length without a start.
func (c *chooser) wider(pos, low, longest int) match {
	found := match{start: -1, n: longest}
	c.insert(pos)
	limit := len(c.b) - lastBytes
	lowest := max(0, pos-maxOffset)
	back := pos - low
	pattern := c.word(pos)
	repeated, repeats := false, 0
	tested := false
	m := int(c.heads[pattern*2654435761>>(32-hashBits)])
	for k := attempts; m >= lowest && k > 0 && c.work > 0; k-- {
		if m >= pos {
			m -= int(c.chain[m&maxOffset])
			continue
		}
		if c.word(m) == pattern && c.mayBeLonger(low, m-back, found.n) {
			n := minMatch + c.common(m+minMatch, pos+minMatch, limit)
			d := 0
			for d < back && m-d > 0 && c.b[pos-d-1] == c.b[m-d-1] {
				d++
			}
			c.work -= n + d
			if n+d > found.n {
				found = match{pos - d, n + d, m - d}
			}
		}
		step := int(c.chain[m&maxOffset])
		if step == 1 {
			if !tested {
				tested = true
				if repeated = pattern == bits.RotateLeft32(pattern, 8); repeated {
					repeats = c.common(pos, pos+1, limit) + 1
				}
			}
			if o := m - 1; repeated && o >= lowest && c.word(o) == pattern {
				forward := min(c.common(o, o+1, limit)+1, limit-o)
				backward := 0
				c.work -= forward
				for o-backward > lowest && c.b[o-backward-1] == byte(pattern) {
					backward++
				}
				if backward+forward >= repeats && forward <= repeats {
					m = o + forward - repeats
				} else {
					m = o - backward
					if back == 0 {
						if n := min(backward+forward, repeats); n > found.n {
							if pos-m > maxOffset {
								break
							}
							found = match{pos, n, m}
						}
						d := int(c.chain[m&maxOffset])
						if d > m {
							break
						}
						m -= d
					}
				}
				continue
			}
		}
		m -= step
	}
	return found
}

// mayBeLonger reports whether the last two bytes of a longer match are equal.
func (c *chooser) mayBeLonger(a, b, longest int) bool {
	a, b = a+longest-1, b+longest-1
	if b < 0 || longest < 1 {
		return true
	}
	return a+1 < len(c.b) && c.b[a] == c.b[b] && c.b[a+1] == c.b[b+1]
}

// search finds the next matches that are taken.
func (c *chooser) search() {
	last := len(c.b) - matchLimit
	c.pending = c.pending[:0]
	one, two, three := &c.m[1], &c.m[2], &c.m[3]
	for {
		switch c.state {
		case searchFirst:
			for ; ; c.pos++ {
				if c.pos > last {
					return
				}
				if *one = c.wider(c.pos, c.pos, minMatch-1); one.start >= 0 {
					break
				}
			}
			c.m[0] = *one
			c.state = searchSecond
		case searchSecond:
			*two = match{start: -1, n: one.n}
			if one.start+one.n <= last {
				*two = c.wider(one.start+one.n-2, one.start, one.n)
			}
			if two.start < 0 {
				c.take(*one)
				c.pos, c.state = one.start+one.n, searchFirst
				return
			}
			if c.m[0].start < one.start && two.start < one.start+c.m[0].n {
				*one = c.m[0]
			}
			if two.start-one.start < 3 {
				*one = *two
				continue
			}
			c.state = searchThird
		case searchThird:
			if two.start-one.start < optimal {
				n := min(one.n, optimal)
				if one.start+n > two.start+two.n-minMatch {
					n = two.start - one.start + two.n - minMatch
				}
				if n -= two.start - one.start; n > 0 {
					two.cut(n)
				}
			}
			*three = match{start: -1, n: two.n}
			if two.start+two.n <= last {
				*three = c.wider(two.start+two.n-3, two.start, two.n)
			}
			if three.start < 0 {
				if two.start < one.start+one.n {
					one.n = two.start - one.start
				}
				c.take(*one)
				c.take(*two)
				c.pos, c.state = two.start+two.n, searchFirst
				return
			}
			if three.start < one.start+one.n+3 {
				if three.start >= one.start+one.n {
					if two.start < one.start+one.n {
						two.cut(one.start + one.n - two.start)
						if two.n < minMatch {
							*two = *three
						}
					}
					c.take(*one)
					*one = *three
					c.m[0] = *two
					c.state = searchSecond
					return
				}
				*two = *three
				continue
			}
			if two.start < one.start+one.n {
				if two.start-one.start < optimal {
					one.n = min(one.n, optimal)
					if one.start+one.n > two.start+two.n-minMatch {
						one.n = two.start - one.start + two.n - minMatch
					}
					if n := one.n - (two.start - one.start); n > 0 {
						two.cut(n)
					}
				} else {
					one.n = two.start - one.start
				}
			}
			c.take(*one)
			*one, *two = *two, *three
			return
		}
	}
}

func (c *chooser) take(m match) { c.pending = append(c.pending, m) }
