package delta

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// side is one list of files for the search of matches.
type side struct {
	*list
	content []byte
	masked  []byte // content, with the fields zero or predicted
	parts   []part // sorted, without gaps
}

// part is a range that a match does not leave: of a file, a table or what is between tables.
type part struct {
	off, end int64 // in the list
	table    bool
}

// newSide masks the fields in content, which is all files of the list.
func newSide(l *list, content []byte) *side {
	s := &side{list: l, content: content, masked: slices.Clone(content)}
	described := descriptions(l, content)
	s.each(func(i int, x field, at int64) {
		kind := x.kind
		if kind.isNumber() {
			b := s.masked[at:]
			binary.LittleEndian.PutUint32(b, described[i].alike(kind, binary.LittleEndian.Uint32(b)))
			return
		}
		if kind.isARM() {
			b := s.masked[at:]
			binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)&^kind.address())
			return
		}
		clear(s.masked[at : at+int64(kind.size())])
	})
	for i, f := range l.files {
		f.refer(content[l.starts[i]:l.starts[i+1]], s.masked[l.starts[i]:l.starts[i+1]])
	}
	off := int64(0)
	add := func(end int64, table bool) {
		if off < end {
			s.parts = append(s.parts, part{off, end, table})
			off = end
		}
	}
	for i, f := range l.files {
		for _, r := range f.regions {
			if r.kind.isTable() {
				add(l.starts[i]+r.off, false)
				add(l.starts[i]+r.end, true)
			}
		}
		add(l.starts[i+1], false)
	}
	return s
}

// chunkSize is how much of a file is searched for fields at a time, in bytes.
const chunkSize = 1 << 20

// each calls do for each field, with its file and its offset in the list.
func (s *side) each(do func(i int, x field, at int64)) {
	var fields []field
	for i, f := range s.files {
		start := s.starts[i]
		for off := int64(0); off < f.size; off += chunkSize {
			fields = f.fields(fields[:0], off, s.content[start+off:start+min(off+chunkSize, f.size)])
			for _, x := range fields {
				do(i, x, start+off+int64(x.off))
			}
		}
	}
}

// part returns the part that has an offset.
func (s *side) part(off int64) part {
	i, found := slices.BinarySearchFunc(s.parts, off, func(p part, off int64) int { return cmp.Compare(p.off, off) })
	if !found {
		i--
	}
	return s.parts[i]
}

// predictTables replaces the fields of old in tables by their predicted values, and restores
// those of new. Pairs has for each file of new the one of old, or -1.
func predictTables(p *predictor, old, new *side, pairs []int) {
	partner := make([]int, len(old.files))
	for i := range partner {
		partner[i] = -1
	}
	for nf, of := range pairs {
		if of >= 0 {
			partner[of] = nf
		}
	}
	for _, x := range new.parts {
		if x.table {
			copy(new.masked[x.off:x.end], new.content[x.off:x.end])
		}
	}
	new.each(func(nf int, x field, at int64) {
		if x.kind == fieldEntry {
			putEntry(p.new, new, nf, at, func(target int64) int64 { return target })
		}
	})
	old.each(func(of int, x field, at int64) {
		nf, kind := partner[of], x.kind
		if nf < 0 || !kind.inTable() {
			return
		}
		if kind == fieldEntry {
			putEntry(p.old, old, of, at, func(target int64) int64 { return p.place(of, nf, target) })
			return
		}
		oldBase, newBase, _ := p.base(reference{kind: kind, of: of, nf: nf}, x.section) // there is none
		kind.put(old.masked[at:], p.place(of, nf, kind.target(old.content[at:], 0, oldBase)), 0, newBase)
	})
}

// putEntry replaces a reference that is relative to itself by what it refers to.
func putEntry(l *list, s *side, file int, at int64, become func(int64) int64) {
	if own, ok := l.files[file].addr(at - l.starts[file]); ok {
		to := become(fieldEntry.target(s.content[at:], own, 0))
		binary.LittleEndian.PutUint32(s.masked[at:], uint32(to))
	}
}

const (
	anchorSize  = 16 // bytes that are looked up
	anchorStep  = 4  // bytes between the anchors of old
	candidates  = 24 // anchors that are compared
	leastMatch  = 20 // bytes of a match that begins far from the one before
	nearMatch   = 16 // bytes of one that begins close to it
	nearDist    = 1 << 16
	fuzzDrop    = 48 // see extend
	mismatchTax = 2
)

// anchors finds places of old by 16 of its bytes.
type anchors struct {
	shift  uint
	heads  []uint32 // bucket → index of its first place
	places []uint32 // sorted in each bucket
}

func anchorHash(b []byte) (h uint64, uniform bool) {
	x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return (x*0x9e3779b97f4a7c15 ^ bits.RotateLeft64(y*0xc2b2ae3d27d4eb4f, 31)) * 0x9fb21c651e98df25, x == y && bits.RotateLeft64(x, 8) == x
}

func newAnchors(s *side, tables bool) *anchors {
	n := len(s.masked) / anchorStep
	b := max(bits.Len(uint(n))-1, 8)
	a := &anchors{shift: uint(64 - b), heads: make([]uint32, 1<<b+1)}
	each := func(do func(h uint64, at int64)) {
		for _, x := range s.parts {
			if x.table != tables {
				continue
			}
			for at := (x.off + anchorStep - 1) / anchorStep * anchorStep; at+anchorSize <= x.end; at += anchorStep {
				if h, uniform := anchorHash(s.masked[at:]); !uniform {
					do(h>>a.shift, at)
				}
			}
		}
	}
	total := uint32(0)
	each(func(h uint64, _ int64) { a.heads[h]++; total++ })
	sum := uint32(0)
	for i, n := range a.heads {
		a.heads[i] = sum
		sum += n
	}
	a.places = make([]uint32, total)
	each(func(h uint64, at int64) { a.places[a.heads[h]] = uint32(at); a.heads[h]++ })
	copy(a.heads[1:], a.heads[:len(a.heads)-1])
	a.heads[0] = 0
	return a
}

// find returns the places that share the bucket of b, those closest to near.
func (a *anchors) find(b []byte, near int64) []uint32 {
	h, uniform := anchorHash(b)
	if uniform {
		return nil
	}
	h >>= a.shift
	places := a.places[a.heads[h]:a.heads[h+1]]
	if len(places) <= candidates {
		return places
	}
	i, _ := slices.BinarySearch(places, uint32(min(max(near, 0), 1<<32-1)))
	from := min(max(i-candidates/2, 0), len(places)-candidates)
	return places[from : from+candidates]
}

// common returns how many bytes a and b begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// commonEnd returns how many bytes a and b end with alike.
func commonEnd(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// extend returns how far a and b are similar: to where equal bytes outweigh different ones
// most. It ends where the balance is fuzzDrop below its maximum.
func extend(a, b []byte) int {
	n := min(len(a), len(b))
	score, best, length := 0, 0, 0
	for i := 0; i < n; {
		if k := common(a[i:], b[i:]); k > 0 {
			i += k
			if score += k; score > best {
				best, length = score, i
			}
			continue
		}
		i++
		if score -= mismatchTax; score < best-fuzzDrop {
			break
		}
	}
	return length
}

// extendBack is extend from the ends of a and b.
func extendBack(a, b []byte) int {
	n := min(len(a), len(b))
	score, best, length := 0, 0, 0
	for i := 1; i <= n; i++ {
		if a[len(a)-i] == b[len(b)-i] {
			if score++; score > best {
				best, length = score, i
			}
		} else if score -= mismatchTax; score < best-fuzzDrop {
			break
		}
	}
	return length
}

// findMatches returns the matches of all parts but tables, in the order of new.
func findMatches(old, new *side) (found []match) {
	index := newAnchors(old, false)
	shift := int64(0) // of the last match: old offset - new offset
	for _, x := range new.parts {
		if !x.table {
			found, shift = matchPart(found, old, new, index, x, 0, old.size(), shift)
		}
	}
	return found
}

// findTables returns the matches of tables, in the order of new. Their fields are predicted for
// pairs of files. So they are matched in these only.
func findTables(old, new *side, pairs []int) (found []match) {
	index := newAnchors(old, true)
	for _, x := range new.parts {
		if !x.table {
			continue
		}
		file := new.find(x.off)
		if of := pairs[file]; of >= 0 {
			found, _ = matchPart(found, old, new, index, x, old.starts[of], old.starts[of+1], old.starts[of]-new.starts[file])
		}
	}
	return found
}

// matchPart appends the matches of a part of new with a range of old.
func matchPart(found []match, old, new *side, index *anchors, x part, low, high, shift int64) ([]match, int64) {
	from, to := x.off, x.end
	done := from // everything before is decided
	for at := from; at+anchorSize <= to; {
		o, n, best := int64(0), int64(0), 0
		near := at + shift
		if near >= low && near < high {
			if k := common(old.masked[near:old.part(near).end], new.masked[at:to]); k >= nearMatch {
				o, n, best = near, at, k
			}
		}
		if best == 0 {
			for _, place := range index.find(new.masked[at:], near) {
				p := int64(place)
				if p < low || p >= high {
					continue
				}
				if string(old.masked[p:p+anchorSize]) != string(new.masked[at:at+anchorSize]) {
					continue
				}
				in := old.part(p)
				back := commonEnd(old.masked[in.off:p], new.masked[done:at])
				k := back + common(old.masked[p:in.end], new.masked[at:to])
				least := leastMatch
				if p-near < nearDist && near-p < nearDist {
					least = nearMatch
				}
				if k >= least && (k > best || k == best && abs(p-near) < abs(o-n-shift)) {
					o, n, best = p-int64(back), at-int64(back), k
				}
			}
		}
		if best == 0 {
			at++
			continue
		}
		in := old.part(o)
		back := int64(extendBack(old.masked[in.off:o], new.masked[done:n]))
		o, n = o-back, n-back
		length := back + int64(best)
		length += int64(extend(old.masked[o+length:in.end], new.masked[n+length:to]))
		found = append(found, match{uint32(o), uint32(n), uint32(length)})
		shift = o - n
		at = n + length
		done = at
	}
	return found, shift
}

func abs(v int64) int64 { return max(v, -v) }
