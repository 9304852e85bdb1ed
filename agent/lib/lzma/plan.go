package lzma

import "math"

// planSize is the most bytes whose symbols are chosen together.
const planSize = 4 << 10

const backLiteral = math.MaxUint32

// symbol is one symbol: a literal, a repetition (0 to 3) or a match (its distance and 4).
type symbol struct{ n, back uint32 }

// node is the cheapest known way to a position: from an earlier node by one symbol, or by that
// symbol, a literal, and a repetition of the first distance.
type node struct {
	price  uint32
	from   uint32
	symbol        // the first symbol; its n is 0 if the literal is the first
	more   uint32 // length of the repetition at the end, or 0
	state  uint32
	reps   [4]uint32
}

const noPrice = math.MaxUint32

// plan chooses symbols from a position on, codes them, and returns the position after them.
func (e *encoder) plan(start int) int {
	rest := len(e.data) - start
	nodes := &e.nodes
	nodes[0] = node{state: e.state, reps: e.reps}
	reach := 0 // last node that has a way
	cur := 0
	e.path = e.path[:0]
	for ; ; cur++ {
		if cur > 0 {
			e.arrive(cur, start)
			if cur == reach || cur >= planSize || cur == rest {
				break
			}
		}
		pos := start + cur
		e.list = e.next(e.list[:0])
		n := &nodes[cur]
		limit := min(rest-cur, maxMatch)
		long, back := e.longest(pos, n, limit)
		if long >= e.enough {
			e.takeTo(cur, start)
			e.path = append(e.path, symbol{long, back})
			for range long - 1 {
				e.skip()
			}
			return e.emitPath(start)
		}
		reach = e.relax(cur, reach, pos, uint32(limit))
	}
	e.takeTo(cur, start)
	return e.emitPath(start)
}

// skip goes to the next position.
func (e *encoder) skip() { e.list = e.next(e.list[:0]) }

// longest returns the longest match or repetition at a position.
func (e *encoder) longest(pos int, n *node, limit int) (long, back uint32) {
	for i, r := range n.reps {
		if k := e.repeats(pos, r, uint32(limit)); k > long {
			long, back = k, uint32(i)
		}
	}
	if k := len(e.list); k > 0 && e.list[k-1].n > long+1 {
		long, back = e.list[k-1].n, e.list[k-1].dist+4
	}
	return long, back
}

// repeats returns how many bytes at a position are those at a distance before.
func (e *encoder) repeats(pos int, dist, limit uint32) (n uint32) {
	at := pos - 1 - int(dist)
	if at < 0 {
		return 0
	}
	a, b := e.data[at:], e.data[pos:]
	for n < limit && a[n] == b[n] {
		n++
	}
	return n
}

// arrive computes the state of a node, whose way is final.
func (e *encoder) arrive(cur, start int) {
	n := &e.nodes[cur]
	f := &e.nodes[n.from]
	s, reps := f.state, f.reps
	at := n.from
	if n.n > 0 {
		s, reps = stateAfter(s, reps, n.symbol)
		at += n.n
	}
	if n.more > 0 {
		s = afterRep(afterLiteral(s))
	}
	n.state, n.reps = s, reps
}

func stateAfter(s uint32, reps [4]uint32, x symbol) (uint32, [4]uint32) {
	switch {
	case x.back == backLiteral:
		return afterLiteral(s), reps
	case x.back >= 4:
		return afterMatch(s), moved(reps, x.back)
	case x.n == 1:
		return afterShortRep(s), reps
	}
	return afterRep(s), moved(reps, x.back)
}

// takeTo sets the path to the way to a node.
func (e *encoder) takeTo(cur, start int) {
	e.path = e.path[:0]
	for i := uint32(cur); i > 0; {
		n := &e.nodes[i]
		if n.more > 0 {
			e.path = append(e.path, symbol{n.more, 0}, symbol{1, backLiteral})
		}
		if n.n > 0 {
			e.path = append(e.path, n.symbol)
		}
		i = n.from
	}
	for i, j := 0, len(e.path)-1; i < j; i, j = i+1, j-1 {
		e.path[i], e.path[j] = e.path[j], e.path[i]
	}
}

func (e *encoder) emitPath(pos int) int {
	for _, s := range e.path {
		pos = e.emit(pos, s)
	}
	return pos
}

// relax offers ways from a node to those after it. It returns the last node with a way.
func (e *encoder) relax(cur, reach, pos int, limit uint32) int {
	nodes := &e.nodes
	n := &nodes[cur]
	posMask := uint32(1)<<e.posOf - 1
	posState := uint32(pos) & posMask
	i := n.state<<posBits | posState
	grow := func(to int) {
		for reach < to {
			reach++
			nodes[reach].price = noPrice
		}
	}
	offer := func(to int, price uint32, s symbol, more uint32) {
		if x := &nodes[to]; price < x.price {
			x.price, x.from, x.symbol, x.more = price, uint32(cur), s, more
		}
	}
	// A literal, and one with a repetition after it.
	c := e.data[pos]
	same := false
	other := byte(0)
	if at := pos - 1 - int(n.reps[0]); at >= 0 {
		other = e.data[at]
		same = other == c
	}
	literal := n.price + price0(e.isMatch[i]) + priceLiteral(e.literalAt(uint32(pos), e.before(pos)), n.state, c, other)
	grow(cur + 1)
	offer(cur+1, literal, symbol{1, backLiteral}, 0)
	match := n.price + price1(e.isMatch[i])
	rep := match + price1(e.isRep[n.state])
	if same && pos > int(n.reps[0]) {
		offer(cur+1, rep+price0(e.isRepG0[n.state])+price0(e.isRep0Long[i]), symbol{1, 0}, 0)
	}
	if limit < minMatch {
		return reach
	}
	if !same {
		reach = e.after(cur, reach, pos, symbol{0, backLiteral}, literal, afterLiteral(n.state), n.reps[0])
	}
	least := uint32(minMatch)
	for k, r := range n.reps {
		long := e.repeats(pos, r, limit)
		if long < minMatch {
			continue
		}
		p := rep
		switch k {
		case 0:
			p += price0(e.isRepG0[n.state]) + price1(e.isRep0Long[i])
			least = long + 1
		case 1:
			p += price1(e.isRepG0[n.state]) + price0(e.isRepG1[n.state])
		default:
			p += price1(e.isRepG0[n.state]) + price1(e.isRepG1[n.state]) + price(e.isRepG2[n.state], uint32(k)-2)
		}
		grow(cur + int(long))
		for l := long; l >= minMatch; l-- {
			offer(cur+int(l), p+e.prices.repLength[posState][l], symbol{l, uint32(k)}, 0)
		}
		reach = e.then(cur, reach, pos, symbol{long, uint32(k)}, p+e.prices.repLength[posState][long], afterRep(n.state), r)
	}
	if len(e.list) == 0 {
		return reach
	}
	match += price0(e.isRep[n.state])
	long := min(e.list[len(e.list)-1].n, limit)
	if long < least {
		return reach
	}
	grow(cur + int(long))
	l := least
	for _, f := range e.list {
		for ; l <= min(f.n, limit); l++ {
			offer(cur+int(l), match+e.prices.length[posState][l]+e.prices.distance(slotState(l), f.dist), symbol{l, f.dist + 4}, 0)
		}
		if f.n >= least && f.n <= limit {
			reach = e.then(cur, reach, pos, symbol{f.n, f.dist + 4}, match+e.prices.length[posState][f.n]+e.prices.distance(slotState(f.n), f.dist), afterMatch(n.state), f.dist)
		}
	}
	return reach
}

// then offers a match with a literal and a repetition after it.
func (e *encoder) then(cur, reach, pos int, s symbol, price, state, dist uint32) int {
	at := pos + int(s.n)
	if at+1+minMatch > len(e.data) {
		return reach
	}
	if back := at - 1 - int(dist); e.data[at+1] != e.data[back+1] || e.data[at+2] != e.data[back+2] {
		return reach
	}
	posState := uint32(at) & (1<<e.posOf - 1)
	price += price0(e.isMatch[state<<posBits|posState]) +
		priceLiteral(e.literalAt(uint32(at), e.data[at-1]), state, e.data[at], e.data[at-1-int(dist)])
	return e.after(cur, reach, pos, s, price, afterLiteral(state), dist)
}

// after offers a way that ends with a repetition after a literal.
func (e *encoder) after(cur, reach, pos int, s symbol, price, state, dist uint32) int {
	at := pos + int(s.n) + 1
	limit := min(len(e.data)-at, maxMatch, len(e.nodes)-2-cur-int(s.n)-1)
	if limit < minMatch {
		return reach
	}
	long := e.repeats(at, dist, uint32(limit))
	if long < minMatch {
		return reach
	}
	posState := uint32(at) & (1<<e.posOf - 1)
	price += price1(e.isMatch[state<<posBits|posState]) + price1(e.isRep[state]) + price0(e.isRepG0[state]) +
		price1(e.isRep0Long[state<<posBits|posState]) + e.prices.repLength[posState][long]
	to := cur + int(s.n) + 1 + int(long)
	for reach < to {
		reach++
		e.nodes[reach].price = noPrice
	}
	if x := &e.nodes[to]; price < x.price {
		x.price, x.from, x.symbol, x.more = price, uint32(cur), s, long
	}
	return reach
}
