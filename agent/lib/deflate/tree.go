package deflate

import "math/bits"

// tree is the lengths of the codes of an alphabet.
type tree struct {
	lengths []uint8
	max     int // the last symbol that has a code
	size    int // bits of all symbols with their extra bits
	static  int // the same with the fixed codes
}

// newTree builds Huffman codes of at most limit bits. Symbols from base on have extra bits. Codes
// of equal frequency and depth can be assigned in several ways: the order of the heap decides.
func newTree(freq []int, extra []uint8, base, limit int, static []uint8) *tree {
	t := &tree{lengths: make([]uint8, len(freq)), max: -1}
	h := &heap{freq: make([]int, 2*len(freq)+1), depth: make([]uint8, 2*len(freq)+1), list: []int{0}}
	copy(h.freq, freq)
	for i, f := range freq {
		if f != 0 {
			h.list = append(h.list, i)
			t.max = i
		}
	}
	extraOf := func(i int) int {
		if i >= base {
			return int(extra[i-base])
		}
		return 0
	}
	for len(h.list) < 3 { // a code of one symbol has one bit, so two are needed
		i := 0
		if t.max < 2 {
			t.max++
			i = t.max
		}
		h.list = append(h.list, i)
		h.freq[i] = 1
		t.size--
		if static != nil {
			t.static -= int(static[i])
		}
	}
	for i := (len(h.list) - 1) / 2; i >= 1; i-- {
		h.down(i)
	}
	parent := make([]int, 2*len(freq)+1)
	var order []int // nodes and symbols, the least frequent first
	node := len(freq)
	for {
		a := h.list[1]
		h.list[1] = h.list[len(h.list)-1]
		h.list = h.list[:len(h.list)-1]
		h.down(1)
		b := h.list[1]
		order = append(order, a, b)
		h.freq[node] = h.freq[a] + h.freq[b]
		h.depth[node] = max(h.depth[a], h.depth[b]) + 1
		parent[a], parent[b] = node, node
		h.list[1] = node
		node++
		h.down(1)
		if len(h.list) <= 2 {
			break
		}
	}
	t.assign(h, append(order, h.list[1]), parent, limit, extraOf, static)
	return t
}

// assign sets the lengths of codes: the depths in the tree, unless these are above the limit.
func (t *tree) assign(h *heap, order, parent []int, limit int, extraOf func(int) int, static []uint8) {
	depth := make([]int, len(parent))
	var count [maxBits + 1]int
	over := 0
	for k := len(order) - 2; k >= 0; k-- {
		i := order[k]
		n := depth[parent[i]] + 1
		if n > limit {
			n = limit
			over++
		}
		depth[i] = n
		if i >= len(t.lengths) {
			continue // no symbol
		}
		t.lengths[i] = uint8(n)
		count[n]++
		t.size += h.freq[i] * (n + extraOf(i))
		if static != nil {
			t.static += h.freq[i] * (int(static[i]) + extraOf(i))
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		n := limit - 1
		for count[n] == 0 {
			n--
		}
		count[n]-- // this one and one that is too long become its children
		count[n+1] += 2
		count[limit]--
	}
	k := 0
	for n := limit; n > 0; n-- {
		for left := count[n]; left > 0; k++ {
			i := order[k]
			if i >= len(t.lengths) {
				continue
			}
			t.size += (n - int(t.lengths[i])) * h.freq[i]
			t.lengths[i] = uint8(n)
			left--
		}
	}
}

// runs calls do for each symbol that the lengths are coded with, and for the extra bits of it.
func (t *tree) runs(do func(sym, extra, bits int)) {
	before := -1
	for i := 0; i <= t.max; {
		n, length := 1, int(t.lengths[i])
		most := 138
		if length != 0 {
			most = 6
			if length != before {
				most = 7
			}
		}
		for n < most && i+n <= t.max && int(t.lengths[i+n]) == length {
			n++
		}
		i += n
		least := 3
		if length != 0 && length != before {
			least = 4
		}
		switch {
		case n < least:
			for range n {
				do(length, 0, 0)
			}
		case length != 0:
			if length != before {
				do(length, 0, 0)
				n--
			}
			do(repeat, n-3, 2)
		case n <= 10:
			do(zeros, n-3, 3)
		default:
			do(manyZeros, n-11, 7)
		}
		before = length
	}
}

// codesOf returns the codes for lengths, their first bit lowest.
func codesOf(lengths []uint8) []uint16 {
	var count, next [maxBits + 2]int
	for _, n := range lengths {
		count[n]++
	}
	count[0] = 0
	for n := 1; n <= maxBits; n++ {
		next[n] = (next[n-1] + count[n-1]) << 1
	}
	codes := make([]uint16, len(lengths))
	for i, n := range lengths {
		if n > 0 {
			codes[i] = bits.Reverse16(uint16(next[n])) >> (16 - n)
			next[n]++
		}
	}
	return codes
}

// heap has the least frequent node at 1.
type heap struct {
	freq  []int
	depth []uint8
	list  []int
}

func (h *heap) less(a, b int) bool {
	return h.freq[a] < h.freq[b] || h.freq[a] == h.freq[b] && h.depth[a] <= h.depth[b]
}

func (h *heap) down(i int) {
	v, end := h.list[i], len(h.list)-1
	for k := 2 * i; k <= end; k = 2 * i {
		if k < end && h.less(h.list[k+1], h.list[k]) {
			k++
		}
		if h.less(v, h.list[k]) {
			break
		}
		h.list[i] = h.list[k]
		i = k
	}
	h.list[i] = v
}
