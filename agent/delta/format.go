package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/digest"
)

const magic = "LULLDLT1"

// The bounds of a pack.
const (
	maxHeader = 16 << 20 // bytes, decompressed
	maxFiles  = 1 << 17
	maxGroups = 1 << 12
	maxGroup  = 1 << 30 // bytes of the old or the new files of a group
	maxWindow = 8 << 20 // of zstd
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
	streams
)

// header describes a pack.
type header struct{ groups []groupHeader }

type groupHeader struct {
	old, new []File
	layouts  []layout // of new: size, loads and search only
	least    uint32   // bytes of the matches that predict
	streams  [streams]int64
}

func (h *header) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(h.groups)))
	for i := range h.groups {
		g := &h.groups[i]
		b = appendFiles(appendFiles(b, g.old), g.new)
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
			}
		}
		b = binary.AppendUvarint(b, uint64(g.least))
		for _, n := range g.streams {
			b = binary.AppendUvarint(b, uint64(n))
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

func (p *parser) layout(size int64) layout {
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
	return l
}

func parseHeader(b []byte) (*header, error) {
	p := &parser{b: b}
	h := new(header)
	for range p.number(maxGroups) {
		g := groupHeader{old: p.files(), new: p.files()}
		for _, f := range g.new {
			g.layouts = append(g.layouts, p.layout(f.Size))
		}
		g.least = uint32(p.number(maxGroup))
		for i := range g.streams {
			g.streams[i] = p.number(maxGroup)
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
	if size < int64(len(start)) || readFull(r, start[:], 0) != nil || string(start[:8]) != magic {
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
	h, err := parseHeader(b)
	return h, int64(len(start)) + n, err
}
