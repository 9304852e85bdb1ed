package delta

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/lzma"
)

// codec is how a stream is compressed.
type codec uint8

const (
	codecZstd codec = iota
	codecLZMA       // since version 2
	codecs
)

// lzmaGain is the part of a stream that LZMA has to save, one of this many: reading it takes
// more time.
const lzmaGain = 32

// windows are the distances that a stream may refer to, in bytes.
const (
	maxWindow    = 8 << 20 // of literals
	numberWindow = 256 << 10
)

func window(stream int) int {
	if stream == streamContent {
		return maxWindow
	}
	return numberWindow
}

// compressors are encoders by the size of their windows. Each has tables of 34 MB, which take
// longer to clear than a small stream takes to compress.
type compressors map[int]*zstd.Encoder

// encode returns the frame of a stream; an empty stream has none.
func (c compressors) encode(window int, raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if c[window] == nil {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithWindowSize(window), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, err
		}
		c[window] = z
	}
	return c[window].EncodeAll(raw, nil), nil
}

// least returns the smallest form of a stream.
func (c compressors) least(stream int, raw []byte) ([]byte, codec, error) {
	z, err := c.encode(window(stream), raw)
	if err != nil || len(raw) == 0 || len(z) > len(raw)-len(raw)/lzmaGain { // it is random
		return z, codecZstd, err
	}
	o := lzma.Options{Properties: lzma.Properties{Context: 3, Position: 2}, Dictionary: window(stream), Depth: 32, Enough: 64}
	if stream != streamContent {
		o.Properties = lzma.Properties{Context: 2}
	}
	if l := lzma.Encode(raw, o); len(l) < len(z)-len(z)/lzmaGain {
		return l, codecLZMA, nil
	}
	return z, codecZstd, nil
}

// stream is an opened stream.
type stream struct {
	*bufio.Reader
	close func()
}

// openStream opens a compressed stream.
func openStream(i int, c codec, r *io.SectionReader) (*stream, error) {
	switch {
	case r.Size() == 0:
		return &stream{bufio.NewReaderSize(bytes.NewReader(nil), 16), func() {}}, nil
	case c == codecLZMA:
		dec, err := lzma.NewReader(r, window(i))
		if err != nil {
			return nil, malformed("a stream cannot be decompressed")
		}
		return &stream{bufio.NewReaderSize(dec, 16<<10), func() {}}, nil
	}
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return &stream{bufio.NewReaderSize(dec, 16<<10), dec.Close}, nil
}
