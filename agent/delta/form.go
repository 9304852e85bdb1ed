package delta

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/agent/lib/lz4"
)

// A file that contains compressed blocks is coded in its unpacked form: the content of the blocks
// takes their place, and other bytes stay as they are. It is used only if the encoder has packed
// it again with identical bytes. The blocks are those of an LZ4 frame, the stream of a gzip file,
// or the members of a zip archive; members that do not come back identical are not unpacked.

// form is the unpacked form of a file. Nil means that the file is coded as it is.
type form struct {
	frame  bool // the blocks are those of an LZ4 frame
	blocks []formBlock
	tail   int64 // bytes after the last block
}

// formBlock is a block. Sizes are in bytes.
type formBlock struct {
	before  uint32 // other bytes before it
	content uint32
	packed  uint32
	variant deflate.Variant // since version 4; zero for blocks of LZ4, and in old files
}

const (
	maxFrame  = 64      // blocks of a frame
	maxBlocks = 1 << 14 // blocks of a form
	allBlocks = 1 << 17 // blocks of a pack; each takes 16 bytes of memory
)

// size is the bytes of the form.
func (f *form) size() int64 {
	n := f.tail
	for _, b := range f.blocks {
		n += int64(b.before) + int64(b.content)
	}
	return n
}

// packed is the bytes of the file.
func (f *form) packed() int64 {
	n := f.tail + int64(len(f.blocks))*f.prefix()
	for _, b := range f.blocks {
		n += int64(b.before) + int64(b.packed)
	}
	return n
}

// prefix is how many bytes precede each block that are computed.
func (f *form) prefix() int64 {
	if f.frame {
		return 4 // the size of the block
	}
	return 0
}

// inside is where the content of blocks is that follow each other.
func (f *form) inside() inside {
	in := inside{off: int64(f.blocks[0].before)}
	for i, b := range f.blocks {
		if i > 0 && b.before > 0 {
			return inside{}
		}
		in.size += int64(b.content)
	}
	return in
}

// formSize returns the bytes of a file in the form in which it is coded.
func formSize(f File, x *form) int64 {
	if x == nil {
		return f.Size
	}
	return x.size()
}

// packer writes a file whose unpacked form is written to it.
type packer struct {
	lz4.Packer
	form *form
	out  io.WriteCloser
	zip  *deflate.Writer // created when it is needed

	next   int   // block
	done   int64 // bytes of the form that are other bytes before the next block, or its content
	zipped limited
	block  []byte // content of a block of LZ4
}

func (p *packer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.next == len(p.form.blocks) {
			_, err := p.out.Write(b)
			return n, err
		}
		k := p.form.blocks[p.next]
		before := int64(k.before)
		if p.done < before {
			part := b[:min(int64(len(b)), before-p.done)]
			if _, err := p.out.Write(part); err != nil {
				return 0, err
			}
			p.done += int64(len(part))
			b = b[len(part):]
			continue
		}
		part := b[:min(int64(len(b)), before+int64(k.content)-p.done)]
		first := p.done == before
		p.done += int64(len(part))
		b = b[len(part):]
		last := p.done == before+int64(k.content)
		var err error
		if p.form.frame {
			err = p.frame(part, k, last)
		} else {
			err = p.stream(part, k, first, last)
		}
		if err != nil {
			return 0, err
		}
		if last {
			p.next, p.done = p.next+1, 0
		}
	}
	return n, nil
}

// stream writes a part of the content of a compressed stream.
func (p *packer) stream(part []byte, k formBlock, first, last bool) error {
	if first {
		p.zipped = limited{p.out, int64(k.packed)}
		if p.zip == nil {
			p.zip = deflate.NewWriter(&p.zipped, k.variant)
		} else {
			p.zip.Reset(&p.zipped, k.variant)
		}
	}
	_, err := p.zip.Write(part)
	if err == nil && last {
		if err = p.zip.Close(); err == nil && p.zipped.left > 0 {
			err = malformed("a stream is smaller when it is packed again")
		}
	}
	if errors.Is(err, deflate.ErrSlow) {
		err = malformed("a stream cannot be packed again")
	}
	return err
}

// frame adds a part of the content of a block of LZ4.
func (p *packer) frame(part []byte, k formBlock, last bool) error {
	if uint32(cap(p.block)) < k.content {
		p.block = make([]byte, 0, k.content)
	}
	p.block = append(p.block, part...)
	if !last {
		return nil
	}
	if _, err := p.out.Write(binary.LittleEndian.AppendUint32(nil, k.packed)); err != nil {
		return err
	}
	n, err := p.Pack(p.out, p.block, int(k.packed))
	if errors.Is(err, lz4.ErrMalformed) || err == nil && n != int(k.packed) {
		return malformed("a block cannot be packed again")
	}
	p.block = p.block[:0]
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
