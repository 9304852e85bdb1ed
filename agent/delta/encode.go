package delta

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	"github.com/lull/lull/agent/lib/digest"
)

// Pair is a new file, and the old one that it resembles.
type Pair struct {
	New File
	Old *File // nil means none
}

// MaxFile is the largest file, in bytes, that a pair may have. Encode needs about six times
// the size of the larger file in memory, or of groupSize, each with maxGrown for unpacked archives.
const MaxFile = 512 << 20

// How many bytes of new files are coded together, unless one file is larger. Files that resemble
// no old ones are in smaller groups, of which several are decoded at once.
const (
	groupSize    = 160 << 20
	newGroupSize = 40 << 20
)

// Encode writes a pack that makes the new files of pairs from the old ones. Open returns the
// content of a file. Equal arguments make equal packs.
func Encode(ctx context.Context, w io.Writer, pairs []Pair, open func(File) (io.ReadCloser, error)) error {
	// Most of the memory is a few large arrays: a heap twice as large is not needed.
	defer debug.SetGCPercent(debug.SetGCPercent(15))
	var h header
	var packed [][]byte
	compress := compressors{}
	for len(pairs) > 0 {
		if len(h.groups) > 0 {
			clear(compress)
			debug.FreeOSMemory() // of the group before
		}
		n := groupOf(pairs)
		e := &encoder{ctx: ctx, open: open, compress: compress}
		g, s, err := e.group(pairs[:n])
		if err != nil {
			return err
		}
		h.groups = append(h.groups, *g)
		packed = append(packed, s...)
		pairs = pairs[n:]
	}
	b, err := compress.encode(maxWindow, h.encode())
	if err != nil {
		return err
	}
	out := binary.LittleEndian.AppendUint32(fmt.Appendf(nil, "%s%d", magic, version), uint32(len(b)))
	for _, part := range append([][]byte{out, b}, packed...) {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// tablePasses is how often tables are matched. Later passes know where the addresses in
// tables that refer to tables are.
const tablePasses = 2

// groupOf returns how many of the pairs are coded together.
func groupOf(pairs []Pair) int {
	oldSize, newSize := int64(0), int64(0)
	for i, p := range pairs {
		newSize += p.New.Size
		if p.Old != nil {
			oldSize += p.Old.Size
		}
		most := int64(groupSize)
		if oldSize == 0 {
			most = newGroupSize
		}
		if i > 0 && max(oldSize, newSize) > most {
			return i
		}
	}
	return len(pairs)
}

// encoder codes one group.
type encoder struct {
	ctx  context.Context
	open func(File) (io.ReadCloser, error)

	compress compressors

	new     *list
	content []byte // of new
	raw     [streams][]byte
	gap     uint64 // equal units
	run     uint64 // different units after them
}

func (e *encoder) group(pairs []Pair) (*groupHeader, [][]byte, error) {
	g := &groupHeader{}
	index := map[File]int{}
	pairOf := make([]int, 0, len(pairs))
	for _, p := range pairs {
		g.new = append(g.new, p.New)
		at := -1
		if p.Old != nil {
			var known bool
			if at, known = index[*p.Old]; !known {
				at = len(g.old)
				index[*p.Old] = at
				g.old = append(g.old, *p.Old)
			}
		}
		pairOf = append(pairOf, at)
	}
	g.unpacked, g.forms = make([]int64, len(g.old)), make([]*form, len(g.new))
	g.archives = make([]*form, len(g.old))
	u := &unpacker{chosen: map[int]map[string]bool{}}
	newContent, newList, err := e.load(g.new, func(i int, b []byte) ([]byte, inside) { return e.unpack(g, u, i, b, pairOf[i]) })
	if err != nil {
		return nil, nil, err
	}
	wanted := make([]bool, len(g.old))
	for i, at := range pairOf {
		if at >= 0 && g.forms[i] != nil {
			wanted[at] = true
		}
	}
	oldContent, oldList, err := e.load(g.old, func(i int, b []byte) ([]byte, inside) {
		if !wanted[i] {
			return nil, inside{}
		}
		x, unpacked, archive := u.oldForm(b, i)
		if x == nil {
			return nil, inside{}
		}
		g.unpacked[i] = x.size()
		if archive {
			g.archives[i] = x
		}
		return unpacked, x.inside()
	})
	if err != nil {
		return nil, nil, err
	}
	for _, f := range newList.files {
		g.layouts = append(g.layouts, layout{size: f.size, loads: f.loads, search: f.search, codeOff: f.codeOff, codeEnd: f.codeEnd, arm: f.arm})
	}
	e.content = newContent
	matches := e.matches(oldList, newList, oldContent, pairOf)
	if err := e.ctx.Err(); err != nil {
		return nil, nil, err
	}
	spans, least := predicting(matches)
	g.least = least
	e.new = newList
	p := newEncoderPredictor(oldList, newList, spans)
	if err := e.count(p, matches, oldContent); err != nil {
		return nil, nil, err
	}
	if err := e.residual(p, matches); err != nil {
		return nil, nil, err
	}
	packed := make([][]byte, streams)
	for i, raw := range e.raw {
		if packed[i], g.codecs[i], err = e.compress.least(i, raw); err != nil {
			return nil, nil, err
		}
		g.streams[i] = int64(len(packed[i]))
	}
	return g, packed, e.ctx.Err()
}

// unpack returns the unpacked form of a new file, or nil if that is not used. Old is the index of
// the old file, or -1.
func (e *encoder) unpack(g *groupHeader, u *unpacker, i int, b []byte, old int) ([]byte, inside) {
	x, unpacked := frameForm(b)
	if x != nil {
		notes := x.notes(b, unpacked)
		if notes == nil {
			return nil, inside{}
		}
		e.raw[streamNotes] = append(e.raw[streamNotes], notes...)
	} else {
		x, unpacked = u.newForm(b, old, func() []byte {
			if old < 0 {
				return nil
			}
			return e.read(g.old[old])
		})
		if x == nil {
			return nil, inside{}
		}
	}
	g.forms[i] = x
	return unpacked, x.inside()
}

// read returns the content of an old file, or nil if it cannot be read. Load returns the error.
func (e *encoder) read(f File) []byte {
	if f.Size < 0 || f.Size > MaxFile {
		return nil
	}
	r, err := e.open(f)
	if err != nil {
		return nil
	}
	defer r.Close()
	b := make([]byte, f.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil
	}
	return b
}

// load reads files into memory, and checks their hashes. Of those for which unpack returns
// bytes, it takes these.
func (e *encoder) load(files []File, unpack func(i int, b []byte) ([]byte, inside)) ([]byte, *list, error) {
	total := int64(0)
	for _, f := range files {
		if f.Size < 0 || f.Size > MaxFile {
			return nil, nil, fmt.Errorf("a file of %d bytes is too large for a delta", f.Size)
		}
		total += f.Size
	}
	content := make([]byte, 0, total)
	var sizes []int
	var insides []inside
	for i, f := range files {
		if err := e.ctx.Err(); err != nil {
			return nil, nil, err
		}
		r, err := e.open(f)
		if err != nil {
			return nil, nil, err
		}
		before := len(content)
		content = slices.Grow(content, int(f.Size))[:before+int(f.Size)]
		part := content[before:]
		_, err = io.ReadFull(r, part)
		r.Close()
		if err == nil && digest.Of(part) != f.Digest {
			err = fmt.Errorf("the content of %s is another one", f.Digest)
		}
		if err != nil {
			return nil, nil, err
		}
		unpacked, in := unpack(i, part)
		if unpacked != nil {
			content = append(content[:before], unpacked...)
		} else {
			in.size = f.Size
		}
		sizes, insides = append(sizes, len(content)-before), append(insides, in)
	}
	var opened []*file
	rest := content
	for i, n := range sizes {
		o, err := openFile(bytes.NewReader(rest[:n:n]), int64(n), insides[i], version)
		if err != nil {
			return nil, nil, err
		}
		opened = append(opened, o)
		rest = rest[n:]
	}
	return content, newList(opened), nil
}

// matches finds all matches, in the order of new.
func (e *encoder) matches(oldList, newList *list, oldContent []byte, pairOf []int) []match {
	if oldList.size() == 0 {
		return nil
	}
	old, new := newSide(oldList, oldContent), newSide(newList, e.content)
	found := findMatches(old, new)
	var tables []match
	for range tablePasses {
		spans, _ := predicting(append(slices.Clone(found), tables...))
		predictTables(newEncoderPredictor(oldList, newList, spans), old, new, pairOf)
		tables = findTables(old, new, pairOf)
	}
	found = append(found, tables...)
	slices.SortFunc(found, func(a, b match) int { return cmp.Compare(a.new, b.new) })
	return found
}

// predicting returns the spans of the matches that predict, at most spanLimit, and the least
// size of those.
func predicting(matches []match) (spans []match, least uint32) {
	for least = 24; ; least *= 2 {
		n := 0
		for _, m := range matches {
			if m.n >= least {
				n++
			}
		}
		if n <= spanLimit {
			break
		}
	}
	for _, m := range matches {
		if m.n >= least {
			spans = append(spans, m)
		}
	}
	return spansOf(spans), least
}

// count finds how numbers have changed, and writes it.
func (e *encoder) count(p *predictor, matches []match, oldContent []byte) error {
	var v votes
	for i := range v {
		v[i] = map[[2]int32]int{}
	}
	w := &walker{predictor: p, blocks: newBlocks(p.old, version), plain: func(int64, []byte) error { return nil }}
	w.field = func(n int64, r reference, b []byte) error {
		if r.kind.isNumber() {
			v[numbersOf(r.kind)][[2]int32{int32(binary.LittleEndian.Uint32(b)), int32(binary.LittleEndian.Uint32(e.content[n:]))}]++
		}
		return nil
	}
	for _, m := range matches {
		i := p.old.find(int64(m.old))
		types, start := p.old.files[i].types, p.old.starts[i]
		from, to := max(int64(m.old), start+types.off), min(int64(m.old)+int64(m.n), start+types.end)
		if from < to {
			if err := w.walk(match{uint32(from), m.new + uint32(from) - m.old, uint32(to - from)}); err != nil {
				return err
			}
		}
	}
	p.numbers = v.numbers(baseSizes(p.old, oldContent))
	if len(v[0])+len(v[1]) > 0 {
		e.raw[streamNumbers] = p.numbers.append(nil)
	}
	return nil
}

// residual fills the streams.
func (e *encoder) residual(p *predictor, matches []match) error {
	w := &walker{predictor: p, blocks: newBlocks(p.old, version), plain: e.plain}
	known := p.settle
	p.bases = [len(p.bases)]base{}
	p.settle = func(r reference, old int64) (int64, error) {
		actual, err := known(r, old)
		e.code(p, r, old, actual)
		return actual, err
	}
	w.field = func(n int64, r reference, v []byte) error {
		target := r.kind.target(v, r.oldAt, r.oldBase)
		actual := r.kind.target(e.content[n:], r.newAt, r.newBase)
		e.code(p, r, target, actual)
		return nil
	}
	end, shift := int64(0), int64(0)
	for i, m := range matches {
		if i%4096 == 0 && e.ctx.Err() != nil {
			return e.ctx.Err()
		}
		e.operation(int64(m.new)-end, int64(m.n))
		s := int64(m.old) - int64(m.new)
		e.raw[streamShift] = binary.AppendVarint(e.raw[streamShift], s-shift)
		shift = s
		e.literals(end, int64(m.new))
		if err := w.walk(m); err != nil {
			return err
		}
		end = int64(m.new) + int64(m.n)
	}
	e.operation(int64(len(e.content))-end, 0)
	e.literals(end, int64(len(e.content)))
	e.flush()
	return nil
}

// code codes the value of a field as its difference from the predicted one.
func (e *encoder) code(p *predictor, r reference, target, actual int64) {
	predicted := p.predict(r, target)
	wrong := wrongBy(r.kind, actual, predicted)
	if wrong == 0 {
		e.equal(1)
		return
	}
	p.learn(r, target, predicted+wrong)
	e.differ()
	e.raw[streamFields] = binary.AppendVarint(e.raw[streamFields], wrong)
}

// newEncoderPredictor returns a predictor that knows where the sections of new files are.
func newEncoderPredictor(old, new *list, spans []match) *predictor {
	p := newPredictor(old, new, spans)
	p.settle = func(r reference, base int64) (int64, error) {
		if to, ok := baseLike(&old.files[r.of].layout, &new.files[r.nf].layout, r.kind, r.section); ok {
			return to, nil
		}
		return p.place(r.of, r.nf, base), nil
	}
	return p
}

// wrongBy returns what is to be added to a predicted target. Only the bits that the field
// has count.
func wrongBy(kind fieldKind, actual, predicted int64) int64 {
	if kind.isLong() || kind.isARM() || kind == fieldSym { // the number has 32 bits and replaces more bytes
		return actual - predicted
	}
	return int64(int32(actual - predicted))
}

// literals appends the literals of a range of new.
func (e *encoder) literals(off, end int64) {
	c := append(e.raw[streamContent], e.content[off:end]...)
	e.raw[streamContent] = c
	c = c[len(c)-int(end-off):]
	_ = e.new.pieces(off, end, func(from, to int64, filter filterFunc) error {
		if filter != nil {
			filter(c[from-off:to-off], 1)
		}
		return nil
	})
}

func (e *encoder) operation(literals, length int64) {
	e.raw[streamLiteral] = binary.AppendUvarint(e.raw[streamLiteral], uint64(literals))
	e.raw[streamLength] = binary.AppendUvarint(e.raw[streamLength], uint64(length))
}

func (e *encoder) plain(n int64, old []byte) error {
	new := e.content[n : n+int64(len(old))]
	for i := 0; i < len(old); {
		if k := common(old[i:], new[i:]); k > 0 {
			e.equal(uint64(k))
			i += k
			continue
		}
		e.differ()
		e.raw[streamBytes] = append(e.raw[streamBytes], new[i]-old[i])
		i++
	}
	return nil
}

func (e *encoder) equal(units uint64) {
	if e.run > 0 {
		e.flush()
	}
	e.gap += units
}

func (e *encoder) differ() { e.run++ }

func (e *encoder) flush() {
	if e.run > 0 {
		e.raw[streamGap] = binary.AppendUvarint(e.raw[streamGap], e.gap)
		e.raw[streamRun] = binary.AppendUvarint(e.raw[streamRun], e.run-1)
	}
	e.gap, e.run = 0, 0
}
