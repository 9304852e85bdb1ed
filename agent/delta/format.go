package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/gnuzip"
	"github.com/lull/lull/agent/lib/lz4"
)

// The first bytes of a pack: magic and its version. Those of former versions are still read.
const (
	magic   = "LULLDLT"
	version = 4
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
		for _, n := range g.unpacked {
			b = binary.AppendUvarint(b, uint64(n))
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
	b = binary.AppendUvarint(b, uint64(x.level))
	b = binary.AppendUvarint(b, uint64(x.head))
	b = binary.AppendUvarint(b, uint64(x.tail))
	for _, k := range x.blocks {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(k.content)), uint64(k.packed))
	}
	return b
}

// form reads a form of a file of size bytes, which is checked.
func (p *parser) form(size int64, version int) *form {
	n := p.number(maxBlocks)
	if n == 0 {
		return nil
	}
	x := &form{}
	most := uint64(lz4.BlockSize)
	if version >= 4 {
		if x.level = int(p.number(gnuzip.MaxLevel)); x.level > 0 {
			most = gnuzip.MaxContent
			if (n > 1 || x.level < gnuzip.MinLevel) && p.err == nil {
				p.err = malformed("a gzip file has one stream, of a level of %d or more", gnuzip.MinLevel)
			}
		}
	}
	x.head, x.tail = p.number(maxGroup), p.number(maxGroup)
	total := x.head + x.tail
	for range n {
		k := formBlock{p.number(most), p.number(2 * most)}
		x.blocks = append(x.blocks, k)
		total += x.prefix() + k.packed
		if k.content == 0 && p.err == nil {
			p.err = malformed("a block is empty")
		}
	}
	if total != size && p.err == nil {
		p.err = malformed("the blocks of a file are not as large as the file")
	}
	return x
}

// forms reads the forms of a group.
func (p *parser) forms(g *groupHeader, version int) {
	g.unpacked, g.forms = make([]int64, len(g.old)), make([]*form, len(g.new))
	if version == 1 {
		return
	}
	oldTotal, newTotal := int64(0), int64(0)
	for i, f := range g.old {
		g.unpacked[i] = p.number(maxGroup)
		oldTotal += max(g.unpacked[i], f.Size)
	}
	for i, f := range g.new {
		g.forms[i] = p.form(f.Size, version)
		newTotal += formSize(f, g.forms[i])
	}
	if max(oldTotal, newTotal) > maxGroup && p.err == nil {
		p.err = malformed("its files have more than %d bytes", maxGroup)
	}
}

// parser reads the numbers of a header. After an error it returns zeros.
type parser struct {
	b   []byte
	err error
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
	p := &parser{b: b}
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
