package delta

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"os"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/agent/lib/lz4"
)

// scratch returns a new file without a name.
func scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "lull-delta-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// maxUnpacked bounds an old file that is read as a whole to be unpacked.
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
	if off := deflate.Find(b); off > 0 && version >= 4 {
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
	content, size, err := deflate.Unpack(out, b[off:])
	if err != nil {
		return in, err
	}
	_, err = out.Write(b[off+size:])
	return inside{int64(off), content}, err
}

// unpackFrame writes the unpacked form of a file with an LZ4 frame.
func unpackFrame(out io.Writer, b []byte) (in inside, err error) {
	list := lz4.Find(b)
	if len(list) == 0 || len(list) > maxFrame {
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

// unpackStreams writes a form of an old file whose blocks are compressed streams.
func unpackStreams(ctx context.Context, r io.ReaderAt, f File, x *form, out io.Writer) error {
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, f.Size), 64<<10)
	w := bufio.NewWriterSize(out, 64<<10)
	stream := &io.LimitedReader{R: in}
	z := flate.NewReader(stream)
	for _, k := range x.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(w, in, int64(k.before)); err != nil {
			return err
		}
		stream.N = int64(k.packed)
		if err := z.(flate.Resetter).Reset(stream, nil); err != nil {
			return err
		}
		if _, err := io.CopyN(w, z, int64(k.content)); err != nil {
			return err
		}
		if n, _ := io.ReadFull(z, make([]byte, 1)); n > 0 {
			return malformed("a stream of an old file is larger when it is unpacked")
		}
		if _, err := io.Copy(io.Discard, stream); err != nil {
			return err
		}
	}
	if _, err := io.CopyN(w, in, x.tail); err != nil {
		return err
	}
	return w.Flush()
}

// frameForm returns the form of a file with an LZ4 frame with its bytes, or nil.
func frameForm(b []byte) (*form, []byte) {
	list := lz4.Find(b)
	if len(b) > maxUnpacked || len(list) == 0 || len(list) > maxFrame {
		return nil, nil
	}
	x := &form{frame: true}
	before := list[0].Off - 4
	out := bytes.Clone(b[:before])
	for _, l := range list {
		start := len(out)
		var err error
		if out, err = lz4.Unpack(out, b[l.Off:l.Off+l.Size]); err != nil || len(out) > MaxFile {
			return nil, nil
		}
		x.blocks = append(x.blocks, formBlock{before: uint32(before), content: uint32(len(out) - start), packed: uint32(l.Size)})
		before = 0
	}
	last := list[len(list)-1]
	x.tail = int64(len(b) - last.Off - last.Size)
	return x, append(out, b[last.Off+last.Size:]...)
}

// notes returns what packing the form of an LZ4 frame again needs, or nil if that is not worth it.
func (x *form) notes(file, unpacked []byte) []byte {
	notes := []byte{}
	at, from, packed := x.blocks[0].before, x.blocks[0].before, uint32(0)
	for _, b := range x.blocks {
		block := file[from+4 : from+4+b.packed]
		note := lz4.Note(block, unpacked[at:at+b.content])
		if note == nil {
			return nil
		}
		notes = append(notes, note...)
		at, from, packed = at+b.content, from+4+b.packed, packed+b.packed
	}
	if !x.comesBack(file, unpacked, notes) || uint32(len(notes)) > packed/8 {
		return nil
	}
	return notes
}

// comesBack reports whether the form makes the file.
func (x *form) comesBack(file, unpacked, notes []byte) bool {
	p := &packer{Packer: lz4.Packer{Notes: bytes.NewReader(notes)}, form: x, out: &equal{want: file}}
	_, err := p.Write(unpacked)
	return err == nil && p.Close() == nil
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
