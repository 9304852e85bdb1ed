package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
)

// MaxContent is the largest content of a compressed stream, in bytes.
const MaxContent = 16 << 20

// ErrMalformed is the error of a stream that no compressor has written, or with more content
// than MaxContent.
var ErrMalformed = errors.New("the compressed stream is malformed")

const trailer = 8 // CRC-32 and size of the content

// The flags of a header of RFC 1952.
const (
	flagHeaderCRC = 1 << (iota + 1)
	flagExtra
	flagName
	flagComment
	unknownFlags = 0xe0
)

// Find returns where the compressed stream of a gzip file begins, or 0 if b is no gzip file.
func Find(b []byte) (off int) {
	const fixed = 10
	if len(b) < fixed+trailer || b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 || b[3]&unknownFlags != 0 {
		return 0
	}
	flags, rest := b[3], b[fixed:]
	skip := func(n int) {
		rest = rest[min(n, len(rest)):]
	}
	if flags&flagExtra != 0 && len(rest) >= 2 {
		skip(2 + int(binary.LittleEndian.Uint16(rest)))
	}
	for _, text := range []byte{flagName, flagComment} {
		if flags&text != 0 {
			skip(bytes.IndexByte(rest, 0) + 1)
		}
	}
	if flags&flagHeaderCRC != 0 {
		skip(2)
	}
	if len(rest) <= trailer {
		return 0
	}
	return len(b) - len(rest)
}

// Unpack writes the content of the compressed stream at the beginning of b. It returns how many
// bytes that has, and the stream. Errors: ErrMalformed; those of w.
func Unpack(w io.Writer, b []byte) (content int64, size int, err error) {
	r := bytes.NewReader(b)
	out := &sink{w: w}
	content, err = io.Copy(out, io.LimitReader(flate.NewReader(r), MaxContent+1))
	if err == nil && content > MaxContent || err != nil && out.err == nil {
		err = ErrMalformed
	}
	return content, len(b) - r.Len(), err
}

// sink remembers an error of its writer.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (n int, err error) {
	n, s.err = s.w.Write(b)
	return n, s.err
}
