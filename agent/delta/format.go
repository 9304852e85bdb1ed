package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/lz4"
)

// The first bytes of a pack: magic and its version. Those of former versions are still read.
const (
	magic   = "LULLDLT"
	version = 5
)

// The bounds of a pack.
const (
	maxHeader = 16 << 20 // bytes, decompressed
	maxFiles  = 1 << 17
	maxGroups = 1 << 12
	maxGroup  = 1 << 30 // bytes of the old or the new files of a group
)

// ErrMalformed is the error of a pack that no Encode has written.
var ErrMalformed = errors.New("the pack is malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// File is a file of a pack.
type File struct {
	Digest digest.Digest
	Size   int64 // bytes
	Exec   bool
}

// The streams of a group.
const (
	streamLiteral = iota // numbers: bytes of literals before a match
	streamLength         // numbers: bytes of the match; after the last one 0
	streamShift          // signed numbers: change of old offset - new offset
	streamGap            // numbers: units until the next difference; a unit is a byte or a field
	streamRun            // numbers: units that differ, less one
	streamBytes          // differences of bytes
	streamFields         // signed numbers: differences of targets of fields
	streamContent        // literals
	streamNotes          // notes of package lz4; since version 2
	streamNumbers        // how numbers have changed; since version 3
	streams
)

// streamsOf returns the number of streams of a version.
func streamsOf(version int) int {
	switch version {
	case 1:
		return streamNotes
	case 2:
		return streamNumbers
	}
	return streams
}

// header describes a pack.
type header struct {
	version int
	groups  []groupHeader
}

type groupHeader struct {
	old, new []File
	unpacked []int64        // of old: bytes of the unpacked form, or 0 if it is not used
	archives []*form        // of old that are archives; since version 5
	forms    []*form        // of new
	layouts  []layout       // of new, in these forms: size, loads, search and range of code only
	least    uint32         // bytes of the matches that predict
	streams  [streams]int64 // bytes
	codecs   [streams]codec
}

func (h *header) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(h.groups)))
	for i := range h.groups {
		g := &h.groups[i]
		b = appendFiles(appendFiles(b, g.old), g.new)
		for i, n := range g.unpacked {
			b = binary.AppendUvarint(b, uint64(n))
			if n > 0 {
				b = appendForm(b, g.archives[i])
			}
		}
		for _, x := range g.forms {
			b = appendForm(b, x)
		}
		for i := range g.layouts {
			l := &g.layouts[i]
			b = binary.AppendUvarint(b, uint64(len(l.loads)))
			for _, s := range l.loads {
				for _, v := range []int64{s.off, s.addr - s.off, s.size, s.mem - s.size} {
					b = binary.AppendVarint(b, v)
				}
			}
			if len(l.loads) > 0 {
				b = binary.AppendVarint(b, l.search)
				b = binary.AppendUvarint(b, uint64(l.codeOff))
				b = binary.AppendUvarint(b, uint64(l.codeEnd-l.codeOff))
				arm := uint64(0)
				if l.arm {
					arm = 1
				}
				b = binary.AppendUvarint(b, arm)
			}
		}
		b = binary.AppendUvarint(b, uint64(g.least))
		for i, n := range g.streams {
			b = append(binary.AppendUvarint(b, uint64(n)), byte(g.codecs[i]))
		}
	}
	return b
}

func appendFiles(b []byte, files []File) []byte {
	b = binary.AppendUvarint(b, uint64(len(files)))
	for _, f := range files {
		exec := uint64(0)
		if f.Exec {
			exec = 1
		}
		b = append(b, f.Digest[:]...)
		b = binary.AppendUvarint(b, uint64(f.Size)<<1|exec)
	}
	return b
}

func appendForm(b []byte, x *form) []byte {
	if x == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(x.blocks)))
	frame := uint64(0)
	if x.frame {
		frame = 1
	}
	b = binary.AppendUvarint(b, frame)
	for _, k := range x.blocks {
		b = binary.AppendUvarint(b, uint64(k.before))
		b = binary.AppendUvarint(b, uint64(k.content))
		b = binary.AppendUvarint(b, uint64(k.packed))
		b = append(b, byte(k.variant))
	}
	return binary.AppendUvarint(b, uint64(x.tail))
}

// form reads a form of a file of size bytes, which is checked. That of an old file names no
// variants.
func (p *parser) form(size int64, old bool) *form {
	n := p.number(uint64(min(maxBlocks, p.blocks)))
	if n == 0 {
		return nil
	}
	p.blocks -= n
	x := &form{frame: p.number(1) == 1}
	if x.frame && (old || n > maxFrame) {
		p.fail("a frame is an archive, or has too many blocks")
	}
	for range n {
		k := formBlock{before: uint32(p.number(maxGroup)), content: uint32(p.number(x.most())), packed: uint32(p.number(2 * x.most()))}
		k.variant = deflate.Variant(p.number(math.MaxUint8))
		if wanted := !old && !x.frame; k.content == 0 || wanted && !k.variant.Known() || !wanted && k.variant != 0 {
			p.fail("a block is empty, or has a wrong variant")
		}
		if p.err != nil {
			return nil
		}
		x.blocks = append(x.blocks, k)
	}
	x.tail = p.number(maxGroup)
	return p.sized(x, size)
}

// formerForm reads a form as versions 2 to 4 have them.
func (p *parser) formerForm(size int64, version int) *form {
	n := p.number(maxFrame)
	if n == 0 {
		return nil
	}
	x := &form{frame: true}
	variant := deflate.Variant(0)
	if version >= 4 {
		variant = deflate.Gzip + deflate.Variant(p.number(9)) // a level; 0 for a frame
	}
	if variant != 0 {
		x.frame = false
		if n > 1 {
			p.fail("a gzip file has one stream")
		}
	}
	before := uint32(p.number(maxGroup))
	x.tail = p.number(maxGroup)
	for range n {
		k := formBlock{before, uint32(p.number(x.most())), uint32(p.number(2 * x.most())), variant}
		if k.content == 0 {
			p.fail("a block is empty")
		}
		x.blocks = append(x.blocks, k)
		before = 0
	}
	return p.sized(x, size)
}

// most is the largest content of a block.
func (f *form) most() uint64 {
	if f.frame {
		return lz4.BlockSize
	}
	return deflate.MaxContent
}

// sized checks that a form makes a file of size bytes.
func (p *parser) sized(x *form, size int64) *form {
	if x.packed() != size {
		p.fail("the blocks of a file are not as large as the file")
	}
	return x
}

// forms reads the forms of a group.
func (p *parser) forms(g *groupHeader, version int) {
	g.unpacked, g.archives, g.forms = make([]int64, len(g.old)), make([]*form, len(g.old)), make([]*form, len(g.new))
	if version == 1 {
		return
	}
	oldTotal, newTotal := int64(0), int64(0)
	for i, f := range g.old {
		n := p.number(maxGroup)
		g.unpacked[i] = n
		oldTotal += max(n, f.Size)
		if n > 0 && version >= 5 {
			if g.archives[i] = p.form(f.Size, true); g.archives[i] != nil && g.archives[i].size() != n {
				p.fail("an old archive has another size when it is unpacked")
			}
		}
	}
	for i, f := range g.new {
		if version < 5 {
			g.forms[i] = p.formerForm(f.Size, version)
		} else {
			g.forms[i] = p.form(f.Size, false)
		}
		newTotal += formSize(f, g.forms[i])
	}
	if max(oldTotal, newTotal) > maxGroup {
		p.fail("its files have more than %d bytes", maxGroup)
	}
}

// parser reads the numbers of a header. After an error it returns zeros.
type parser struct {
	b      []byte
	blocks int64 // of forms that may still come
	err    error
}

// fail sets the error, unless there is one.
func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = malformed(format, args...)
	}
}

func (p *parser) number(most uint64) int64 {
	v, n := binary.Uvarint(p.b)
	if p.err == nil && (n <= 0 || v > most) {
		p.err = malformed("a number of its header is out of range")
	}
	if p.err != nil {
		return 0
	}
	p.b = p.b[n:]
	return int64(v)
}

func (p *parser) signed() int64 {
	v, n := binary.Varint(p.b)
	if p.err == nil && n <= 0 {
		p.err = malformed("its header is cut off")
	}
	if p.err != nil {
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) files() (files []File) {
	n := p.number(maxFiles)
	total := int64(0)
	for range n {
		if len(p.b) < digest.Size {
			p.err = malformed("its header is cut off")
			return nil
		}
		var f File
		copy(f.Digest[:], p.b)
		p.b = p.b[digest.Size:]
		v := p.number(maxGroup<<1 | 1)
		f.Size, f.Exec = v>>1, v&1 == 1
		if total += f.Size; total > maxGroup {
			p.err = malformed("its files have more than %d bytes", maxGroup)
			return nil
		}
		files = append(files, f)
	}
	return files
}

func (p *parser) layout(size int64, version int) layout {
	l := layout{size: size}
	n := p.number(maxLoads)
	for range n {
		off, rel, n, rest := p.signed(), p.signed(), p.signed(), p.signed()
		const most = 1 << 61
		if p.err == nil && (off < 0 || rest < 0 || rest > most || rel > most || rel < -most || !validLoad(off, off+rel, n, n+rest, size)) {
			p.err = malformed("a segment of a file is out of range")
		}
		l.loads = append(l.loads, load{off, off + rel, n, n + rest})
	}
	if n > 0 {
		l.search = p.signed()
	}
	if n > 0 && version > 1 {
		l.codeOff = p.number(uint64(size))
		l.codeEnd = l.codeOff + p.number(uint64(size-l.codeOff))
	}
	if n > 0 && version > 3 {
		l.arm = p.number(1) == 1
	}
	return l
}

func parseHeader(b []byte, version int) (*header, error) {
	p := &parser{b: b, blocks: allBlocks}
	h := &header{version: version}
	for range p.number(maxGroups) {
		g := groupHeader{old: p.files(), new: p.files()}
		p.forms(&g, version)
		for i, f := range g.new {
			g.layouts = append(g.layouts, p.layout(formSize(f, g.forms[i]), version))
		}
		g.least = uint32(p.number(maxGroup))
		for i := range streamsOf(version) {
			g.streams[i] = p.number(maxGroup)
			if version > 1 {
				g.codecs[i] = codec(p.number(uint64(codecs - 1)))
			}
		}
		if p.err == nil && len(g.new) == 0 {
			p.err = malformed("a group makes no file")
		}
		if p.err != nil {
			break
		}
		h.groups = append(h.groups, g)
	}
	if p.err == nil && len(p.b) > 0 {
		p.err = malformed("something follows its header")
	}
	return h, p.err
}

// readHeader returns the header and the offset of the first stream.
func readHeader(r io.ReaderAt, size int64) (*header, int64, error) {
	var start [12]byte
	if size < int64(len(start)) || readFull(r, start[:], 0) != nil {
		return nil, 0, malformed("it is too short")
	}
	of := int(start[len(magic)] - '0')
	if string(start[:len(magic)]) != magic || of < 1 || of > version {
		return nil, 0, malformed("it does not begin as one")
	}
	n := int64(binary.LittleEndian.Uint32(start[8:]))
	if n > maxHeader || n > size-int64(len(start)) {
		return nil, 0, malformed("its header is cut off")
	}
	dec, err := zstd.NewReader(io.NewSectionReader(r, int64(len(start)), n), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, 0, err
	}
	defer dec.Close()
	b, err := io.ReadAll(io.LimitReader(dec, maxHeader+1))
	if err != nil || len(b) > maxHeader {
		return nil, 0, malformed("its header cannot be decompressed")
	}
	h, err := parseHeader(b, of)
	return h, int64(len(start)) + n, err
}
