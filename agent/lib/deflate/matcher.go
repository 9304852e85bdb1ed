package deflate

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
)

// The parameters of the search.
const (
	window   = 32 << 10
	maxMatch = 258
	minMatch = 3
	ahead    = maxMatch + minMatch + 1 // bytes that are read before a position is searched
	maxDist  = window - ahead
	tooFar   = 4096 // a match of three bytes from there is worse than three literals

	maxHash = 1 << 16
)

// Writer packs what is written to it. Its buffer has two windows. The content moves down by one
// window when the search has come near the end, and a position that is 0 then is forgotten:
// which matches are found depends on that, and on when the buffer is filled.
type Writer struct {
	config
	buf  [2 * window]byte
	head [maxHash]uint16 // the newest position with a hash
	prev [window]uint16  // the one before a position with the same hash
	hash uint32
	mask uint32
	at   int // position in buf
	end  int // of the bytes in buf
	want int // bytes that are missing until the search goes on
	got  int // bytes that have come since it stopped
	eof  bool

	length  int  // of the match before the position, or less than minMatch
	literal bool // the byte before the position is not written yet
	begun   bool
	from    int // where the last match was found
	block   int // where the block begins; below 0 if that is no longer in buf
	blocks  blocks

	effort int // how much may still be compared: positions, and each 16 bytes that are equal
	err    error
}

// perByte is how much is compared for each byte of content at most. Of 26,000 files of Debian's
// packages (documentation and manuals), none took more than 60, and most took less than 4.
const perByte = 256

// ErrSlow is the error of content that takes too long to be packed.
var ErrSlow = errors.New("packing the content takes too long")

// NewWriter returns a Writer that writes to w the compressed stream that a known variant makes of
// the content.
func NewWriter(w io.Writer, v Variant) *Writer {
	m := &Writer{}
	m.Reset(w, v)
	m.effort = 1 << 20
	return m
}

// Reset begins another stream.
func (m *Writer) Reset(w io.Writer, v Variant) {
	c := configOf(v)
	m.blocks.reset(w, c)
	clear(m.buf[:])
	clear(m.head[:])
	m.config, m.mask, m.hash = c, 1<<(3*c.shift)-1, 0
	if m.mask >= maxHash {
		m.mask = maxHash - 1
	}
	m.at, m.end, m.want, m.got, m.eof = 0, 0, 2*window, 0, false
	m.length, m.literal, m.begun, m.from, m.block, m.err = minMatch-1, false, false, 0, 0, nil
	m.effort = 1 << 16 // less, as there may be many small streams
}

// Write implements io.Writer. Errors: ErrSlow; those of the writer below.
func (m *Writer) Write(b []byte) (int, error) {
	n := len(b)
	for m.err == nil {
		k := copy(m.buf[m.end:m.end+m.want], b)
		m.end, m.want, m.got, b = m.end+k, m.want-k, m.got+k, b[k:]
		m.effort += perByte * k
		if m.want > 0 {
			return n, nil
		}
		m.search()
	}
	return n - len(b), m.err
}

// Close writes the rest of the stream.
func (m *Writer) Close() error {
	for m.err == nil && !m.eof {
		if m.got == 0 {
			m.eof = true
			clear(m.buf[m.end:min(m.end+minMatch-1, len(m.buf))])
		}
		m.search()
	}
	if m.err == nil {
		if m.literal {
			m.blocks.literal(m.buf[m.at-1], m.at-m.block)
		}
		m.flush(true)
	}
	return m.err
}

// fill has more of the content read.
func (m *Writer) fill() {
	m.slide()
	m.want, m.got = len(m.buf)-m.end, 0
}

// slide moves the content down if the position is near the end of the buffer.
func (m *Writer) slide() {
	if m.at >= window+maxDist {
		copy(m.buf[:window], m.buf[window:])
		m.from -= window
		m.at -= window
		m.block -= window
		m.end -= window
		for i, p := range m.head {
			m.head[i] = p - min(p, window)
		}
		for i, p := range m.prev {
			m.prev[i] = p - min(p, window)
		}
	}
}

func (m *Writer) update(c byte) { m.hash = (m.hash<<m.shift ^ uint32(c)) & m.mask }

// insert enters the position, and returns the newest one with the same hash, or 0.
func (m *Writer) insert() int {
	m.update(m.buf[m.at+minMatch-1])
	before := m.head[m.hash]
	m.prev[m.at&(window-1)] = before
	m.head[m.hash] = uint16(m.at)
	return int(before)
}

// search goes through the content until more of it is needed.
func (m *Writer) search() {
	if !m.begun && (m.left() >= ahead || m.eof) {
		m.begun = true
		for _, c := range m.buf[:minMatch-1] {
			m.update(c)
		}
	}
	for m.left() >= ahead || m.eof && m.left() > 0 {
		if m.effort < 0 {
			m.err = ErrSlow
		}
		if m.err != nil {
			return
		}
		if m.eof && !m.gnu {
			m.slide()
		}
		if m.fast {
			m.fastStep()
		} else {
			m.step()
		}
	}
	if !m.eof {
		m.fill()
	}
}

// left returns how many bytes from the position on are in the buffer.
func (m *Writer) left() int { return m.end - m.at }

// step searches one position. A match is written only if the position after its beginning has no
// longer one.
func (m *Writer) step() {
	candidate := m.insert()
	before, beforeFrom := m.length, m.from
	m.length = minMatch - 1
	if before < m.lazy && m.near(candidate) {
		m.length = min(m.longest(candidate, before), m.left())
		if m.length == minMatch && m.at-m.from > tooFar {
			m.length--
		}
	}
	if before >= minMatch && m.length <= before {
		full := m.blocks.match(before, m.at-1-beforeFrom, m.at-m.block)
		for range before - 2 {
			m.at++
			m.insert()
		}
		m.at++
		m.length, m.literal = minMatch-1, false
		if full {
			m.flush(false)
		}
		return
	}
	if m.literal && m.blocks.literal(m.buf[m.at-1], m.at-m.block) {
		m.flush(false)
	}
	m.literal = true
	m.at++
}

// near reports whether a match may begin at an entered position.
func (m *Writer) near(candidate int) bool {
	return candidate != 0 && m.at-candidate <= maxDist && (m.at <= len(m.buf)-ahead || !m.gnu)
}

// fastStep searches one position, and writes what it finds.
func (m *Writer) fastStep() {
	n := 0
	if candidate := m.insert(); m.near(candidate) {
		n = min(m.longest(candidate, minMatch-1), m.left())
	}
	var full bool
	switch {
	case n < minMatch:
		full = m.blocks.literal(m.buf[m.at], m.at-m.block)
		m.at++
	case n <= m.lazy:
		full = m.blocks.match(n, m.at-m.from, m.at-m.block)
		for range n - 1 {
			m.at++
			m.insert()
		}
		m.at++
	default:
		full = m.blocks.match(n, m.at-m.from, m.at-m.block)
		m.at += n
		m.hash = 0
		m.update(m.buf[m.at])
		m.update(m.buf[m.at+1])
	}
	if full {
		m.flush(false)
	}
}

// flush ends a block at the position.
func (m *Writer) flush(last bool) {
	var stored []byte
	if m.block >= 0 {
		stored = m.buf[m.block:m.at]
	}
	m.err = m.blocks.flush(stored, m.at-m.block, last)
	m.block = m.at
}

// longest returns the length of the longest match that is longer than best, and sets from.
func (m *Writer) longest(candidate, best int) int {
	chain := m.chain
	if best >= m.good {
		chain >>= 2
	}
	nice := m.nice
	if !m.gnu {
		nice = min(nice, m.left())
	}
	limit := max(m.at-maxDist, 0)
	scan := m.buf[m.at : m.at+maxMatch]
	for {
		other := m.buf[candidate : candidate+maxMatch]
		m.effort--
		if other[best] == scan[best] && other[best-1] == scan[best-1] && other[0] == scan[0] && other[1] == scan[1] {
			n := common(scan, other)
			m.effort -= n / 16
			if n > best {
				m.from, best = candidate, n
				if n >= nice {
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

// common returns how many of maxMatch bytes are equal.
func common(a, b []byte) int {
	n := 0
	for ; n+8 <= maxMatch; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < maxMatch && a[n] == b[n] {
		n++
	}
	return n
}
