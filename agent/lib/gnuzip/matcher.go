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

// Writer packs what is written to it. Its buffer has two windows. The content moves down by one
// window when the search has come near the end, and a position that is 0 then is forgotten:
// which matches are found depends on that, and on when the buffer is filled.
type Writer struct {
	config
	buf  [2 * window]byte
	head [1 << hashBits]uint16 // the newest position with a hash
	prev [window]uint16        // the one before a position with the same hash
	hash uint32
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
	blocks  *blocks

	effort int // how much may still be compared: positions, and each 16 bytes that are equal
	err    error
}

// perByte is how much is compared for each byte of content at most. Of 26,000 files of Debian's
// packages (documentation and manuals), none took more than 60, and most took less than 4.
const perByte = 256

// ErrSlow is the error of content that takes too long to be packed.
var ErrSlow = errors.New("packing the content takes too long")

// NewWriter returns a Writer that writes to w the compressed stream that GNU gzip makes of the
// content at a level.
func NewWriter(w io.Writer, level int) *Writer {
	return &Writer{config: configs[level], want: 2 * window, length: minMatch - 1, blocks: newBlocks(w), effort: 1 << 20}
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
	m.want, m.got = len(m.buf)-m.end, 0
}

func (m *Writer) update(c byte) { m.hash = (m.hash<<hashShift ^ uint32(c)) & (1<<hashBits - 1) }

// insert enters the position, and returns the newest one with the same hash, or 0.
func (m *Writer) insert() int {
	m.update(m.buf[m.at+minMatch-1])
	before := m.head[m.hash]
	m.prev[m.at&(window-1)] = before
	m.head[m.hash] = uint16(m.at)
	return int(before)
}

// search goes through the content until more of it is needed. A match is written only if the
// position after its beginning has no longer one.
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
		m.step()
	}
	if !m.eof {
		m.fill()
	}
}

// left returns how many bytes from the position on are in the buffer.
func (m *Writer) left() int { return m.end - m.at }

// step searches one position.
func (m *Writer) step() {
	candidate := m.insert()
	before, beforeFrom := m.length, m.from
	m.length = minMatch - 1
	if candidate != 0 && before < m.lazy && m.at-candidate <= maxDist && m.at <= len(m.buf)-ahead {
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
