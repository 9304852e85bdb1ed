package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// FrameSize is the number of content bytes in one zstd frame of a large blob, so that a
// download can resume at a frame's border. The frames are followed by a seek table as
// described in zstd's contrib/seekable_format.
const FrameSize = 4 << 20

// MaxWindow is the largest zstd window, and so about the most memory, that one
// open blob may ask for.
const MaxWindow = 8 << 20

// Blob returns the content of a blob from a byte onwards. It is not verified: the caller
// checks digest and size of the whole. To resume at offset, a large blob is fetched from the
// frame that holds it. A small one, or one from a server without ranges, is fetched whole and
// the bytes before offset are skipped. Missing in the repository: kind Unavailable;
// undecodable: kind Untrusted, also from the reader.
func (c *Client) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	path, old := c.blobPath(d)
	var compressed, start int64
	if offset > 0 {
		compressed, start = c.locate(ctx, path, offset)
	}
	body, err := c.openAnywhere(ctx, path, compressed)
	if errors.Is(err, errMissing) && old != "" {
		start = 0
		body, err = c.openAnywhere(ctx, old, 0)
	}
	if err != nil {
		return nil, c.unavailable(errkind.Text("fetch blob %s from", d), err)
	}
	b := &blobReader{c: c, digest: d, body: body, sum: newSumOf(c, d, offset)}
	if b.dec, err = c.decoder(); err == nil {
		err = b.dec.Reset(b.source())
	}
	if err != nil {
		b.Close()
		return nil, b.translate(err)
	}
	if _, err := io.CopyN(io.Discard, b, offset-start); err != nil {
		b.Close()
		if errors.Is(err, io.EOF) {
			err = errkind.New(errkind.Untrusted, "cannot resume blob %s from repository %q: it is shorter than the part that is here", d, c.cfg.Name)
		}
		return nil, err
	}
	return b, nil
}

type blobReader struct {
	c       *Client
	digest  digest.Digest
	body    *movingBody
	sum     *sumOf // nil means that it is not checked here
	bodyErr error  // the error of the source, as opposed to the decoder's
	dec     *zstd.Decoder
}

type recorder struct{ b *blobReader }

func (b *blobReader) source() io.Reader { return recorder{b} }

func (r recorder) Read(p []byte) (int, error) {
	n, err := r.b.body.Read(p)
	if err != nil && err != io.EOF {
		r.b.bodyErr = err
	}
	return n, err
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.dec == nil {
		return 0, errors.New("internal error: read of a closed blob")
	}
	n, err := b.dec.Read(p)
	if b.sum.wrong(p[:n], err == io.EOF) {
		err = errDiffers
	}
	if err != nil && err != io.EOF {
		err = b.translate(err)
	}
	return n, err
}

func (b *blobReader) translate(err error) error {
	if b.bodyErr != nil {
		return b.c.unavailable(errkind.Text("fetch blob %s from", b.digest), b.bodyErr)
	}
	b.c.passOver(b.body.from, err)
	return errkind.New(errkind.Untrusted, "cannot use blob %s from repository %q: %w", b.digest, b.c.cfg.Name, err)
}

func (b *blobReader) Close() error {
	if b.dec != nil {
		b.c.release(b.dec)
		b.dec = nil
	}
	return b.body.Close()
}

// decoders are kept for the next blob. With one goroutine each they own no resources that
// must be freed.
type decoders struct{ pool sync.Pool }

func (d *decoders) decoder() (*zstd.Decoder, error) {
	if dec, ok := d.pool.Get().(*zstd.Decoder); ok {
		return dec, nil
	}
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxWindow))
}

func (d *decoders) release(dec *zstd.Decoder) {
	if dec.Reset(nil) == nil {
		d.pool.Put(dec)
	}
}

// The seek table: a skippable frame at the end of the file.
const (
	seekMagic    = 0x8F92EAB1
	skipMagic    = 0x184D2A5E
	footerSize   = 9
	maxSeekTable = 16 << 20
)

// locate finds the frame that holds the byte offset of the content: its start in the file and
// in the content. Without a seek table that is 0, 0. The table is not trusted either; a wrong
// one leads to a wrong digest.
func (c *Client) locate(ctx context.Context, path string, offset int64) (compressed, start int64) {
	at := c.order(true)[0] // without a table there, the blob is read from its beginning
	tail, size, err := at.tail(ctx, path, 32<<10)
	if err != nil {
		return 0, 0
	}
	need, ok := seekTableSize(tail)
	if ok && need > int64(len(tail)) && need <= min(size, maxSeekTable) {
		tail, size, err = at.tail(ctx, path, need)
		ok = err == nil
	}
	if !ok || int64(len(tail)) < need {
		return 0, 0
	}
	frames, err := parseSeekTable(tail[int64(len(tail))-need:], size)
	if err != nil {
		return 0, 0
	}
	i := sort.Search(len(frames), func(i int) bool { return frames[i].start > offset }) - 1
	if i < 0 {
		return 0, 0
	}
	return frames[i].compressed, frames[i].start
}

// frame is the start of a frame in the file and in the content.
type frame struct{ compressed, start int64 }

// seekTableSize reads the footer at the end of tail and returns the size of the
// whole table with its frame header.
func seekTableSize(tail []byte) (int64, bool) {
	if len(tail) < footerSize {
		return 0, false
	}
	footer := tail[len(tail)-footerSize:]
	// No reserved bits and no checksums: the only form that lull writes.
	if binary.LittleEndian.Uint32(footer[5:]) != seekMagic || footer[4] != 0 {
		return 0, false
	}
	return 8 + 8*int64(binary.LittleEndian.Uint32(footer)) + footerSize, true
}

var errSeekTable = errors.New("the seek table does not fit")

// parseSeekTable reads a table, with its frame header, of a file of size bytes.
func parseSeekTable(b []byte, size int64) ([]frame, error) {
	n := (len(b) - 8 - footerSize) / 8
	if n < 1 || binary.LittleEndian.Uint32(b) != skipMagic || int(binary.LittleEndian.Uint32(b[4:])) != len(b)-8 {
		return nil, errSeekTable
	}
	frames := make([]frame, n)
	var at frame
	for i := range frames {
		frames[i] = at
		at.compressed += int64(binary.LittleEndian.Uint32(b[8+8*i:]))
		at.start += int64(binary.LittleEndian.Uint32(b[12+8*i:]))
	}
	if at.compressed+int64(len(b)) != size {
		return nil, errSeekTable
	}
	return frames, nil
}

// SeekTable collects the frames of a blob that is being written.
type SeekTable struct{ entries []byte }

// Add notes a frame of that many bytes in the file and in the content.
func (t *SeekTable) Add(compressed, content int) {
	t.entries = binary.LittleEndian.AppendUint32(t.entries, uint32(compressed))
	t.entries = binary.LittleEndian.AppendUint32(t.entries, uint32(content))
}

// Encode returns the table for the end of the file, or nothing for a single frame.
func (t *SeekTable) Encode() []byte {
	n := len(t.entries) / 8
	if n < 2 {
		return nil
	}
	b := binary.LittleEndian.AppendUint32(nil, skipMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.entries)+footerSize))
	b = append(b, t.entries...)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = append(b, 0)
	return binary.LittleEndian.AppendUint32(b, seekMagic)
}
