package delta

import (
	"cmp"
	"slices"
)

// list is the old or the new files of a group, as one range of offsets.
type list struct {
	files  []*file
	starts []int64 // of the files; then the end
}

func newList(files []*file) *list {
	l := &list{files: files, starts: make([]int64, 1, len(files)+1)}
	for _, f := range files {
		l.starts = append(l.starts, l.starts[len(l.starts)-1]+f.size)
	}
	return l
}

func (l *list) size() int64 { return l.starts[len(l.files)] }

// find returns the file at an offset.
func (l *list) find(off int64) int {
	i, found := slices.BinarySearch(l.starts, off)
	if !found {
		return i - 1
	}
	for i+1 < len(l.starts) && l.starts[i+1] == off { // empty files
		i++
	}
	return i
}

// match is a range of new that resembles a range of old.
type match struct{ old, new, n uint32 }

// spanLimit is the most matches that predict in one group.
const spanLimit = 1 << 19

// spansOf turns matches into disjoint ranges of old, sorted. Of overlapping ones the longer
// one has the place. It reuses the memory of the matches.
func spansOf(m []match) []match {
	slices.SortFunc(m, func(a, b match) int {
		return cmp.Or(cmp.Compare(a.old, b.old), cmp.Compare(b.n, a.n), cmp.Compare(a.new, b.new))
	})
	out := m[:0]
	for _, x := range m {
		for len(out) > 0 {
			last := &out[len(out)-1]
			if x.old >= last.old+last.n {
				break
			}
			if x.n <= last.n {
				x = x.from(last.old + last.n)
				break
			}
			if x.old > last.old {
				last.n = x.old - last.old
				break
			}
			x = x.from(last.old)
			out = out[:len(out)-1]
		}
		if x.n > 0 {
			out = append(out, x)
		}
	}
	return out
}

// from returns the part of a match from an offset of old on.
func (m match) from(old uint32) match {
	if old <= m.old {
		return m
	}
	cut := min(old-m.old, m.n)
	return match{m.old + cut, m.new + cut, m.n - cut}
}

// predictor predicts where an address of an old file is in a new one. Encoder and decoder
// use it in the same order, as it learns from wrong predictions.
type predictor struct {
	old, new *list
	spans    []match
	numbers  numbers
	learned  []lesson
	bases    [64]base
	settle   func(r reference, old int64) (int64, error) // returns the new base in an object file
}

// base is the prediction of layout.base for a pair of files.
type base struct {
	in       uint64
	old, new int64
}

// lesson is an address whose prediction was wrong.
type lesson struct {
	old, new int64
	in       uint64 // the two files
}

const lessons = 1 << 15

func newPredictor(old, new *list, spans []match) *predictor {
	return &predictor{old: old, new: new, spans: spans, learned: make([]lesson, lessons)}
}

// pairOf returns a number for a pair of files. There are less than 1<<17 of each.
func pairOf(of, nf int) uint64 { return uint64(of+1)<<32 | uint64(nf+1) }

func (p *predictor) slot(r reference, target int64) (*lesson, uint64) {
	in := pairOf(r.of, r.nf)
	if r.kind.isShared() {
		in = uint64(r.kind) << 56
	}
	h := (uint64(target) ^ in<<20) * 0x9e3779b97f4a7c15
	return &p.learned[h>>49], in
}

// predict returns the new value of a field whose old value is target.
func (p *predictor) predict(r reference, target int64) int64 {
	if r.kind.isARM() {
		return p.predictARM(r, target)
	}
	if s, in := p.slot(r, target); s.in == in && s.old == target {
		return s.new
	}
	if r.kind.isNumber() {
		return p.numbers[numbersOf(r.kind)].predict(r.nf, target)
	}
	if r.kind.isShared() {
		return target
	}
	return p.place(r.of, r.nf, target)
}

// predictARM is predict for a field of ARM64. Of the address, an instruction has a part.
func (p *predictor) predictARM(r reference, target int64) int64 {
	to := target & addressMask
	if s, in := p.slot(r, target); s.in == in && s.old == target {
		to = s.new
	} else {
		to = p.place(r.of, r.nf, to)
	}
	switch r.kind {
	case fieldPage:
		to &^= pageMask
	case fieldLow:
		to &= pageMask
	}
	return target&^addressMask | to&addressMask
}

// place is predict by the matches alone.
func (p *predictor) place(of, nf int, target int64) int64 {
	f := p.old.files[of]
	off, ok := f.offset(target)
	if !ok || len(p.spans) == 0 {
		return target
	}
	at := uint32(p.old.starts[of] + off)
	// The last span that begins at or before it.
	lo, hi := 0, len(p.spans)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); p.spans[mid].old <= at {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo > 0 {
		s := &p.spans[lo-1]
		near := min(at-s.old, s.n-1)
		covers := at-s.old < s.n
		if !covers && lo < len(p.spans) && p.spans[lo].old-at < at-s.old-s.n {
			if moved, ok := p.moved(of, nf, target, p.spans[lo].old, p.spans[lo].new); ok {
				return moved
			}
		}
		if moved, ok := p.moved(of, nf, target, s.old+near, s.new+near); ok {
			return moved
		}
	}
	if lo < len(p.spans) {
		if moved, ok := p.moved(of, nf, target, p.spans[lo].old, p.spans[lo].new); ok {
			return moved
		}
	}
	return target
}

// base returns the addresses that a field is relative to, the new one as far as it is known.
func (p *predictor) base(r reference, section uint16) (old, new int64, err error) {
	f := p.old.files[r.of]
	switch r.kind {
	case fieldSearch:
		return f.search, p.new.files[r.nf].search, nil
	case fieldPage:
		return int64(section), 0, nil
	case fieldName, fieldSym, fieldPlace:
		b := &p.bases[(uint16(r.kind)+section)%uint16(len(p.bases))]
		if in := pairOf(r.of, r.nf) ^ uint64(section)<<20 ^ uint64(r.kind)<<52; b.in != in {
			old, new := f.base(r.kind, section), int64(0)
			if len(f.sections) == 0 {
				new = p.place(r.of, r.nf, old)
			} else {
				r.section = section
				if new, err = p.settle(r, old); err != nil {
					return 0, 0, err
				}
			}
			*b = base{in, old, new}
		}
		return b.old, b.new, nil
	}
	return 0, 0, nil
}

// moved moves an address by as much as the loaded bytes at old moved to new.
func (p *predictor) moved(of, nf int, target int64, old, new uint32) (int64, bool) {
	o, n := int64(old)-p.old.starts[of], int64(new)-p.new.starts[nf]
	from, ok := p.old.files[of].addr(o)
	if !ok {
		return 0, false
	}
	to, ok := p.new.files[nf].addr(n)
	return target + to - from, ok
}

// learn notes the true value after a wrong prediction.
func (p *predictor) learn(r reference, target, actual int64) {
	if r.kind.isNumber() && p.numbers[numbersOf(r.kind)].learn(r.nf, target, actual) {
		return
	}
	s, in := p.slot(r, target)
	*s = lesson{target, actual, in}
}

// blocks reads old files by blocks, and keeps some. Matches are short, and some are near others
// that were far before: so blocks are small, and the pages that they are read from are kept, too.
type blocks struct {
	old   *list
	size  int64 // of a block
	cache [blockCache]block
	pages [pageCache]page
}

const (
	blockCache = 2 << 10
	pageCache  = 1 << 10
	pageSize   = 4 << 10
)

func newBlocks(old *list, version int) *blocks {
	b := &blocks{old: old, size: blockSize}
	if version == 1 {
		b.size = blockSize1
	}
	return b
}

// block is a block of a file with the bytes around it.
type block struct {
	file   int   // and one
	off    int64 // of data
	data   []byte
	fields []field // those that begin in the block
}

// page is a part of a file.
type page struct {
	file int // and one
	off  int64
	data []byte
}

// get returns the block of a file that begins at off. It is valid until the next call.
func (b *blocks) get(f int, off int64) (*block, error) {
	c := &b.cache[(off/b.size+int64(f)*61)%blockCache]
	from := max(off-lookBack, 0)
	if c.file == f+1 && c.off == from {
		return c, nil
	}
	file := b.old.files[f]
	if c.data == nil {
		c.data = make([]byte, lookBack+b.size+lookAhead)
	}
	c.file, c.off, c.data = 0, from, c.data[:min(off+b.size+lookAhead, file.size)-from]
	if err := b.read(f, c.data, from); err != nil {
		return nil, err
	}
	c.file = f + 1
	c.fields = file.fields(c.fields[:0], from, c.data)
	first, end := uint32(off-from), uint32(off-from+b.size)
	n := 0
	for _, x := range c.fields {
		if x.off >= first && x.off < end {
			c.fields[n] = x
			n++
		}
	}
	c.fields = c.fields[:n]
	return c, nil
}

// read reads a part of a file from its pages.
func (b *blocks) read(f int, data []byte, off int64) error {
	file := b.old.files[f]
	for len(data) > 0 {
		start := off / pageSize * pageSize
		p := &b.pages[(off/pageSize+int64(f)*61)%pageCache]
		if p.file != f+1 || p.off != start {
			if p.data == nil {
				p.data = make([]byte, pageSize)
			}
			p.file, p.off, p.data = 0, start, p.data[:min(pageSize, file.size-start)]
			if err := readFull(file.r, p.data, start); err != nil {
				return err
			}
			p.file = f + 1
		}
		n := copy(data, p.data[off-start:])
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// walker goes through the matches of a group, in the order of new.
type walker struct {
	*predictor
	*blocks
	plain func(new int64, old []byte) error // bytes outside of fields
	field func(new int64, r reference, v []byte) error
}

// reference is a field of old whose place in new is known.
type reference struct {
	kind             fieldKind
	section          uint16 // of a base
	of, nf           int    // files
	oldAt, newAt     int64  // its addresses
	oldBase, newBase int64  // see base
}

// walk goes through one match, which is inside of one old and one new file.
func (w *walker) walk(m match) error {
	of, nf := w.predictor.old.find(int64(m.old)), w.new.find(int64(m.new))
	ostart := w.predictor.old.starts[of]
	off, end := int64(m.old)-ostart, int64(m.old)-ostart+int64(m.n)
	shift := int64(m.new) - int64(m.old) + ostart // offset in the old file → offset in new
	base := w.new.starts[nf]
	for off < end {
		first := off / w.blocks.size * w.blocks.size
		b, err := w.get(of, first)
		if err != nil {
			return err
		}
		last := min(end, first+w.blocks.size)
		i, _ := slices.BinarySearchFunc(b.fields, uint32(off-b.off), func(f field, off uint32) int { return cmp.Compare(f.off, off) })
		for ; i < len(b.fields); i++ {
			kind, at := b.fields[i].kind, b.off+int64(b.fields[i].off)
			n := int64(kind.size())
			if at+n > end {
				break
			}
			if at < off {
				continue
			}
			r := reference{kind: kind, of: of, nf: nf}
			var known bool
			if r.oldAt, known = w.predictor.old.files[of].addr(at); !known && !kind.isNumber() {
				continue
			}
			if r.newAt, known = w.new.files[nf].addr(at + shift - base); !known && !kind.isNumber() {
				continue
			}
			if at > off {
				if err := w.plain(off+shift, b.data[off-b.off:at-b.off]); err != nil {
					return err
				}
			}
			if r.oldBase, r.newBase, err = w.base(r, b.fields[i].section); err != nil {
				return err
			}
			if kind == fieldLow {
				r.oldBase = int64(b.fields[i].page) << pageBits
			}
			if err := w.field(at+shift, r, b.data[at-b.off:at-b.off+n]); err != nil {
				return err
			}
			off = at + n
		}
		if off < last {
			if err := w.plain(off+shift, b.data[off-b.off:last-b.off]); err != nil {
				return err
			}
			off = last
		}
	}
	return nil
}
