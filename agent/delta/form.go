package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/lull/lull/agent/lib/gnuzip"
	"github.com/lull/lull/agent/lib/lz4"
)

// A file that contains compressed blocks is coded in its unpacked form: the bytes before the
// first block, the content of the blocks, and the bytes after the last one. It is used only if
// the encoder has packed it again with identical bytes. The blocks are those of an LZ4 frame, or
// the stream of a gzip file.

// form is the unpacked form of a file. Nil means that the file is coded as it is.
type form struct {
	level      int   // of gzip; 0 for LZ4. Since version 4
	head, tail int64 // bytes before the first block and after the last one
	blocks     []formBlock
}

// formBlock is the size of a block, in bytes.
type formBlock struct{ content, packed int64 }

// maxBlocks is the most blocks of a form.
const maxBlocks = 64

func (f *form) size() int64 {
	n := f.head + f.tail
	for _, b := range f.blocks {
		n += b.content
	}
	return n
}

// prefix is how many bytes precede each block that are computed.
func (f *form) prefix() int64 {
	if f.level > 0 {
		return 0
	}
	return 4 // the size of the block
}

// inside is where the content of the blocks is.
func (f *form) inside() inside { return inside{f.head, f.size() - f.head - f.tail} }

// formSize returns the bytes of a file in the form in which it is coded.
func formSize(f File, x *form) int64 {
	if x == nil {
		return f.Size
	}
	return x.size()
}

// unpackedForm returns the form of a file with its bytes, or nil if it has no blocks.
func unpackedForm(b []byte) (*form, []byte) {
	if len(b) > maxUnpacked {
		return nil, nil
	}
	if off := gnuzip.Find(b); off > 0 {
		return unpackedGzip(b, off)
	}
	list := lz4.Find(b)
	if len(list) == 0 || len(list) > maxBlocks {
		return nil, nil
	}
	x := &form{head: int64(list[0].Off - 4)}
	out := bytes.Clone(b[:x.head])
	for _, l := range list {
		before := len(out)
		var err error
		if out, err = lz4.Unpack(out, b[l.Off:l.Off+l.Size]); err != nil || len(out) > MaxFile {
			return nil, nil
		}
		x.blocks = append(x.blocks, formBlock{int64(len(out) - before), int64(l.Size)})
	}
	last := list[len(list)-1]
	x.tail = int64(len(b) - last.Off - last.Size)
	return x, append(out, b[last.Off+last.Size:]...)
}

// unpackedGzip returns the form of a gzip file whose stream is at an offset.
func unpackedGzip(b []byte, off int) (*form, []byte) {
	var out bytes.Buffer
	out.Write(b[:off])
	content, size, err := gnuzip.Unpack(&out, b[off:])
	if err != nil || content == 0 {
		return nil, nil
	}
	end := off + size
	out.Write(b[end:])
	return &form{level: gnuzip.Level(b), head: int64(off), tail: int64(len(b) - end), blocks: []formBlock{{content, int64(size)}}}, out.Bytes()
}

// notes returns what packing the form again needs, or nil if that is not worth it.
func (x *form) notes(file, unpacked []byte) []byte {
	notes := []byte{}
	at, from, packed := x.head, x.head, int64(0)
	blocks := x.blocks
	if x.level > 0 {
		blocks = nil // they need none
	}
	for _, b := range blocks {
		block := file[from+4 : from+4+b.packed]
		note := lz4.Note(block, unpacked[at:at+b.content])
		if note == nil {
			return nil
		}
		notes = append(notes, note...)
		at, from, packed = at+b.content, from+4+b.packed, packed+b.packed
	}
	p := &packer{Packer: lz4.Packer{Notes: bytes.NewReader(notes)}, form: x, out: &equal{want: file}}
	if _, err := p.Write(unpacked); err != nil || p.Close() != nil || len(notes) > 0 && int64(len(notes)) > packed/8 {
		return nil
	}
	return notes
}

// equal takes bytes that are those of want.
type equal struct{ want []byte }

func (e *equal) Write(b []byte) (int, error) {
	if !bytes.HasPrefix(e.want, b) {
		return 0, errors.New("other bytes")
	}
	e.want = e.want[len(b):]
	return len(b), nil
}

func (e *equal) Close() error {
	if len(e.want) > 0 {
		return errors.New("bytes are missing")
	}
	return nil
}

// packer writes a file whose unpacked form is written to it.
type packer struct {
	lz4.Packer
	form *form
	out  io.WriteCloser

	done  int64 // bytes of the form
	next  int   // block
	block []byte

	zip    *gnuzip.Writer // of the stream of a gzip file
	zipped limited
}

func (p *packer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b
		switch {
		case p.form.level > 0:
			var err error
			if part, err = p.gzip(b); err != nil {
				return 0, err
			}
		case p.done >= p.form.head && p.next < len(p.form.blocks):
			want := p.form.blocks[p.next].content
			if p.block == nil {
				p.block = make([]byte, 0, want)
			}
			part = b[:min(int64(len(b)), want-int64(len(p.block)))]
			p.block = append(p.block, part...)
			if int64(len(p.block)) == want {
				if err := p.pack(p.form.blocks[p.next]); err != nil {
					return 0, err
				}
				p.next, p.block = p.next+1, p.block[:0]
				if p.next < len(p.form.blocks) && p.form.blocks[p.next].content > int64(cap(p.block)) {
					p.block = nil
				}
			}
		default:
			if p.done < p.form.head {
				part = b[:min(int64(len(b)), p.form.head-p.done)]
			}
			if _, err := p.out.Write(part); err != nil {
				return 0, err
			}
		}
		p.done += int64(len(part))
		b = b[len(part):]
	}
	return n, nil
}

// gzip writes the first part of b to a gzip file: what belongs to its header, its stream or its
// trailer.
func (p *packer) gzip(b []byte) (part []byte, err error) {
	stream := p.form.blocks[0]
	end := p.form.head + stream.content
	switch {
	case p.done < p.form.head:
		part = b[:min(int64(len(b)), p.form.head-p.done)]
		_, err = p.out.Write(part)
	case p.done < end:
		part = b[:min(int64(len(b)), end-p.done)]
		if p.zip == nil {
			p.zipped = limited{p.out, stream.packed}
			p.zip = gnuzip.NewWriter(&p.zipped, p.form.level)
		}
		if _, err = p.zip.Write(part); err == nil && p.done+int64(len(part)) == end {
			if err = p.zip.Close(); err == nil && p.zipped.left > 0 {
				err = malformed("a gzip file is smaller when it is packed again")
			}
		}
	default:
		part = b
		_, err = p.out.Write(part)
	}
	if errors.Is(err, gnuzip.ErrSlow) {
		err = malformed("a gzip file cannot be packed again")
	}
	return part, err
}

func (p *packer) pack(b formBlock) error {
	if _, err := p.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(b.packed))); err != nil {
		return err
	}
	n, err := p.Pack(p.out, p.block, int(b.packed))
	if errors.Is(err, lz4.ErrMalformed) || err == nil && int64(n) != b.packed {
		return malformed("a block cannot be packed again")
	}
	return err
}

func (p *packer) Close() error { return p.out.Close() }

// limited takes no more bytes than a pack has announced.
type limited struct {
	out  io.Writer
	left int64
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= int64(len(b)); l.left < 0 {
		return 0, malformed("a file is larger when it is packed or unpacked than the pack says")
	}
	return l.out.Write(b)
}

// discard is the output of a file that is skipped.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

// scratch returns a new file without a name.
func scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "lull-delta-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// maxUnpacked bounds a file that is unpacked as a whole.
const maxUnpacked = 24 << 20

// unpackOld writes the unpacked form of an old file, of size bytes, to out, and returns where
// the content of the blocks is. It writes no more than that: there may be no space for more.
func unpackOld(r io.ReaderAt, f File, size int64, out io.Writer, version int) (in inside, err error) {
	if f.Size > maxUnpacked {
		return in, malformed("a file is too large to be unpacked")
	}
	b := make([]byte, f.Size)
	if err := readFull(r, b, 0); err != nil {
		return in, err
	}
	o := &limited{out, size}
	if off := gnuzip.Find(b); off > 0 && version >= 4 {
		in, err = unpackGzip(o, b, off)
	} else {
		in, err = unpackFrame(o, b)
	}
	if err == nil && o.left > 0 {
		err = malformed("an old file is smaller when it is unpacked")
	}
	return in, err
}

// unpackGzip writes the unpacked form of a gzip file.
func unpackGzip(out io.Writer, b []byte, off int) (in inside, err error) {
	if _, err := out.Write(b[:off]); err != nil {
		return in, err
	}
	content, size, err := gnuzip.Unpack(out, b[off:])
	if err != nil {
		return in, err
	}
	_, err = out.Write(b[off+size:])
	return inside{int64(off), content}, err
}

// unpackFrame writes the unpacked form of a file with an LZ4 frame.
func unpackFrame(out io.Writer, b []byte) (in inside, err error) {
	list := lz4.Find(b)
	if len(list) == 0 || len(list) > maxBlocks {
		return in, errors.New("the old file has no compressed blocks")
	}
	in.off = int64(list[0].Off - 4)
	if _, err := out.Write(b[:in.off]); err != nil {
		return in, err
	}
	var block []byte
	for _, l := range list {
		if block, err = lz4.Unpack(block[:0], b[l.Off:l.Off+l.Size]); err != nil {
			return in, err
		}
		if _, err := out.Write(block); err != nil {
			return in, err
		}
		in.size += int64(len(block))
	}
	last := list[len(list)-1]
	_, err = out.Write(b[last.Off+last.Size:])
	return in, err
}
