package lzma

import "encoding/binary"

// found is a match: the longest at its distance, which is one less than the number of bytes.
type found struct{ n, dist uint32 }

// matcher finds matches by a binary tree of the last positions for each hash of four bytes, and
// by the last position for each hash of two and three.
type matcher struct {
	data   []byte
	pos    int
	window uint32 // bytes that a distance may go back
	depth  int    // positions that are compared
	enough uint32 // length of a match that ends the search

	hash2, hash3, hash4 []uint32 // position and one
	shift               uint
	tree                []uint32 // two for each position of the window
}

func newMatcher(data []byte, window, depth, enough int) *matcher {
	window = max(min(window, len(data)), 1)
	bits := uint(16)
	for bits < 22 && 1<<bits < window {
		bits++
	}
	return &matcher{
		data: data, window: uint32(window), depth: depth, enough: uint32(enough), shift: 32 - bits,
		hash2: make([]uint32, 1<<16), hash3: make([]uint32, 1<<16), hash4: make([]uint32, 1<<bits), tree: make([]uint32, 2*window),
	}
}

// next appends the matches at the position, each longer and farther than the one before, and
// goes to the next position.
func (m *matcher) next(list []found) []found {
	pos, rest := uint32(m.pos), m.data[m.pos:]
	m.pos++
	limit := uint32(min(len(rest), maxMatch))
	if limit < 4 {
		return list
	}
	word := binary.LittleEndian.Uint32(rest)
	h2, h3, h4 := uint16(word), word<<8*0x9e3779b1>>16, word*0x9e3779b1>>m.shift
	best := uint32(1)
	old2, old3, at := m.hash2[h2], m.hash3[h3], m.hash4[h4]
	m.hash2[h2], m.hash3[h3], m.hash4[h4] = pos+1, pos+1, pos+1
	if old2 > 0 && pos-(old2-1) <= m.window {
		best = m.common(old2-1, 2, limit)
		list = append(list, found{best, pos - old2})
	}
	if old3 > 0 && old3 != old2 && pos-(old3-1) <= m.window {
		if o := m.data[old3-1:]; o[0] == rest[0] && o[1] == rest[1] && o[2] == rest[2] {
			if n := m.common(old3-1, 3, limit); n > best {
				best = n
				list = append(list, found{best, pos - old3})
			}
		}
	}
	return m.descend(list, pos, at, best, limit)
}

// common returns the length of the match with a position, which is at least n.
func (m *matcher) common(at, n, limit uint32) uint32 {
	a, b := m.data[at:], m.data[m.pos-1:]
	for n+8 <= limit && binary.LittleEndian.Uint64(a[n:]) == binary.LittleEndian.Uint64(b[n:]) {
		n += 8
	}
	for n < limit && a[n] == b[n] {
		n++
	}
	return n
}

// descend makes the position the root of its tree, and finds matches on the way.
func (m *matcher) descend(list []found, pos, at, best, limit uint32) []found {
	slot := pos % m.window
	left, right := 2*slot+1, 2*slot // where the smaller and the greater positions go
	var nleft, nright uint32        // bytes that they have in common with this one
	for depth := m.depth; ; depth-- {
		if at == 0 || depth == 0 || pos-(at-1) >= m.window {
			m.tree[left], m.tree[right] = 0, 0
			return list
		}
		at--
		child := 2 * (at % m.window)
		n := m.common(at, min(nleft, nright), limit)
		if n > best {
			best = n
			list = append(list, found{n, pos - at - 1})
		}
		if n == limit || n >= m.enough {
			m.tree[right], m.tree[left] = m.tree[child], m.tree[child+1]
			return list
		}
		if m.data[at+n] < m.data[pos+n] {
			m.tree[right] = at + 1
			right = child + 1
			at = m.tree[right]
			nright = n
		} else {
			m.tree[left] = at + 1
			left = child
			at = m.tree[left]
			nleft = n
		}
	}
}
