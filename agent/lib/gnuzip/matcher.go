package gnuzip

import (
	"errors"
	"io"
)

// The parameters of the search.
const (
	window   = 32 << 10
	maxMatch = 258
	minMatch = 3
	ahead    = maxMatch + minMatch + 1 // bytes that are read before a position is searched
	maxDist  = window - ahead
	tooFar   = 4096 // a match of three bytes from there is worse than three literals

	hashBits  = 15
	hashShift = 5
)

// config is what a level means.
type config struct {
	good  int // after a match of this length only a quarter of the chain is searched
	lazy  int // after a match of this length no better one is searched
	nice  int // a match of this length ends the search
	chain int // positions that are compared
}

var configs = [MaxLevel + 1]config{
	4: {4, 4, 16, 16}, 5: {8, 16, 32, 32}, 6: {8, 16, 128, 128}, 7: {8, 32, 128, 256}, 8: {32, 128, 258, 1024}, 9: {32, 258, 258, 4096},
}

// matcher finds the matches. Its buffer has two windows. The content moves down by one window
// when the search has come near the end, and a position that is 0 then is forgotten: which
// matches are found depends on that.
type matcher struct {
	config
	in  []byte // not yet in the buffer
	eof bool

	buf    [2 * window]byte
	head   [1 << hashBits]uint16 // the newest position with a hash
	prev   [window]uint16        // the one before a position with the same hash
	hash   uint32
	at     int // position in buf
	left   int // bytes in buf from there on
	block  int // where the block begins; below 0 if that is no longer in buf
	from   int // where the last match was found
	blocks *blocks

	effort int // how much may still be compared: positions, and each 16 bytes that are equal
}

// perByte is how much is compared for each byte of content at most. Of 26,000 files of Debian's
// packages (documentation and manuals), none took more than 60, and most took less than 4.
const perByte = 256

// ErrSlow is the error of content that takes too long to be packed.
var ErrSlow = errors.New("packing the content takes too long")

// Pack writes the compressed stream that GNU gzip makes of content. Errors: ErrSlow; those of w.
func Pack(w io.Writer, content []byte, level int) error {
	m := &matcher{config: configs[level], in: content, blocks: newBlocks(w), effort: 1<<20 + perByte*len(content)}
	m.left = m.read(m.buf[:])
	if m.left == 0 {
		m.eof = true
	}
	for m.left < ahead && !m.eof {
		m.fill()
	}
	for _, c := range m.buf[:minMatch-1] {
		m.update(c)
	}
	return m.search()
}

func (m *matcher) read(b []byte) int {
	n := copy(b, m.in)
	m.in = m.in[n:]
	return n
}

// fill reads more of the content.
func (m *matcher) fill() {
	if m.at >= window+maxDist {
		copy(m.buf[:window], m.buf[window:])
		m.from -= window
		m.at -= window
		m.block -= window
		for i, p := range m.head {
			m.head[i] = p - min(p, window)
		}
		for i, p := range m.prev {
			m.prev[i] = p - min(p, window)
		}
	}
	end := m.at + m.left
	n := m.read(m.buf[end:])
	m.left += n
	if n == 0 {
		m.eof = true
		clear(m.buf[end:min(end+minMatch-1, len(m.buf))])
	}
}

func (m *matcher) update(c byte) { m.hash = (m.hash<<hashShift ^ uint32(c)) & (1<<hashBits - 1) }

// insert enters the position, and returns the newest one with the same hash, or 0.
func (m *matcher) insert() int {
	m.update(m.buf[m.at+minMatch-1])
	before := m.head[m.hash]
	m.prev[m.at&(window-1)] = before
	m.head[m.hash] = uint16(m.at)
	return int(before)
}

// search goes through the content. A match is written only if the position after its
// beginning has no longer one.
func (m *matcher) search() error {
	length, literal := minMatch-1, false
	for m.left > 0 {
		if m.effort < 0 {
			return ErrSlow
		}
		candidate := m.insert()
		before, beforeFrom := length, m.from
		length = minMatch - 1
		if candidate != 0 && before < m.lazy && m.at-candidate <= maxDist && m.at <= len(m.buf)-ahead {
			length = min(m.longest(candidate, before), m.left)
			if length == minMatch && m.at-m.from > tooFar {
				length--
			}
		}
		switch {
		case before >= minMatch && length <= before:
			full := m.blocks.match(before, m.at-1-beforeFrom, m.at-m.block)
			m.left -= before - 1
			for range before - 2 {
				m.at++
				m.insert()
			}
			length, literal = minMatch-1, false
			m.at++
			if full {
				m.flush(false)
			}
		case literal:
			if m.blocks.literal(m.buf[m.at-1], m.at-m.block) {
				m.flush(false)
			}
			m.at++
			m.left--
		default:
			literal = true
			m.at++
			m.left--
		}
		for m.left < ahead && !m.eof {
			m.fill()
		}
	}
	if literal {
		m.blocks.literal(m.buf[m.at-1], m.at-m.block)
	}
	m.flush(true)
	return m.blocks.out.err
}

// flush ends a block at the position.
func (m *matcher) flush(last bool) {
	var stored []byte
	if m.block >= 0 {
		stored = m.buf[m.block:m.at]
	}
	m.blocks.flush(stored, m.at-m.block, last)
	m.block = m.at
}

// longest returns the length of the longest match that is longer than best, and sets from.
func (m *matcher) longest(candidate, best int) int {
	chain := m.chain
	if best >= m.good {
		chain >>= 2
	}
	limit := max(m.at-maxDist, 0)
	scan := m.buf[m.at : m.at+maxMatch]
	for {
		other := m.buf[candidate : candidate+maxMatch]
		m.effort--
		if other[best] == scan[best] && other[best-1] == scan[best-1] && other[0] == scan[0] && other[1] == scan[1] {
			n := 2
			for n < maxMatch && other[n] == scan[n] {
				n++
			}
			m.effort -= n / 16
			if n > best {
				m.from, best = candidate, n
				if n >= m.nice {
					return best
				}
			}
		}
		candidate = int(m.prev[candidate&(window-1)])
		if chain--; candidate <= limit || chain == 0 {
			return best
		}
	}
}
