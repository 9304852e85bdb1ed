package delta

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/lz4"
)

// Pack is an opened pack. It belongs to one goroutine.
type Pack struct {
	r      io.ReaderAt
	header *header
	start  int64 // of the streams

	// Scratch returns a new file for an old one that is unpacked. It is closed after its use.
	// Unless it is set, the file is in the directory for temporary files.
	Scratch func() (*os.File, error)
}

// Open reads the header of a pack of size bytes. Error ErrMalformed: it is no pack.
func Open(r io.ReaderAt, size int64) (*Pack, error) {
	h, start, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	at := start
	for i := range h.groups {
		for _, n := range h.groups[i].streams {
			if at += n; at > size {
				return nil, malformed("its streams are cut off")
			}
		}
	}
	if at != size {
		return nil, malformed("something follows it")
	}
	p := &Pack{r: r, header: h, start: start, Scratch: scratch}
	type made struct {
		digest digest.Digest
		exec   bool
	}
	files := map[made]bool{}
	for _, f := range p.Files() {
		m := made{f.Digest, f.Exec}
		if files[m] {
			return nil, malformed("it makes a file twice")
		}
		files[m] = true
	}
	return p, nil
}

// Files returns the new files, in the order in which Decode writes them.
func (p *Pack) Files() (files []File) {
	for i := range p.header.groups {
		files = append(files, p.header.groups[i].new...)
	}
	return files
}

// ScratchSize returns how many bytes Scratch files have at once, at most.
func (p *Pack) ScratchSize() (most int64) {
	for i := range p.header.groups {
		n := int64(0)
		for _, size := range p.header.groups[i].unpacked {
			n += size
		}
		most = max(most, n)
	}
	return most
}

// Source returns the content of old files. The result is closed if it is an io.Closer.
type Source func(File) (io.ReaderAt, error)

// Sink takes the content of a new file. Writes are in order; Close follows the last one. To
// skip a file, it returns nil. Several files may be open at once, each in a goroutine.
type Sink func(File) (io.WriteCloser, error)

// decoders is how many groups without old files are decoded at once. Each takes about 11 MiB.
const decoders = 2

// Decode writes the new files of a pack. Errors: ErrMalformed; those of old and new. Old
// files that have changed make other content, which the caller detects by its hash.
func (p *Pack) Decode(parent context.Context, old Source, new Sink) error {
	running, ctx := errgroup.WithContext(parent)
	running.SetLimit(p.together())
	at := p.start
	for i := range p.header.groups {
		if ctx.Err() != nil {
			break
		}
		g := &p.header.groups[i]
		d := &decoder{ctx: ctx, r: p.r, group: g, at: at, sink: new, scratch: p.Scratch, version: p.header.version}
		running.Go(func() error { return d.decode(old) })
		for _, n := range g.streams {
			at += n
		}
	}
	if err := running.Wait(); err != nil {
		return err
	}
	return parent.Err()
}

// together returns how many groups are decoded at once.
func (p *Pack) together() int {
	for i := range p.header.groups {
		if len(p.header.groups[i].old) > 0 {
			return 1
		}
	}
	return decoders
}

// decoder decodes one group.
type decoder struct {
	ctx   context.Context
	r     io.ReaderAt
	group *groupHeader
	at    int64 // of the first stream
	sink  Sink

	scratch func() (*os.File, error)
	version int

	*predictor
	raw      [streams]*stream
	gap, run uint64 // equal units, and different ones after them

	next int            // new file that is written next
	left int64          // bytes that it lacks
	out  io.WriteCloser // nil if it is skipped
	buf  []byte         // not yet written
}

func (d *decoder) decode(old Source) error {
	var files []*file
	defer func() {
		for _, f := range files {
			closeIf(f.r)
		}
	}()
	for i, f := range d.group.old {
		o, err := d.openOld(f, d.group.unpacked[i], d.group.archives[i], old)
		if err != nil {
			return err
		}
		files = append(files, o)
	}
	oldList := newList(files)
	var made []*file
	for i := range d.group.layouts {
		made = append(made, &file{layout: d.group.layouts[i]})
	}
	d.predictor = newPredictor(oldList, newList(made), nil)
	var spans []match
	err := d.operations(streamShift+1, func(m match) error {
		if m.n >= d.group.least {
			if len(spans) == spanLimit {
				return malformed("too many matches predict")
			}
			spans = append(spans, m)
		}
		return nil
	}, func(int64, int64) error { return nil })
	d.close()
	if err != nil {
		return err
	}
	d.spans = spansOf(spans)
	if d.numbers, err = d.readNumbers(); err != nil {
		return err
	}
	d.buf = make([]byte, 0, 256<<10)
	if err = d.write(); d.out != nil {
		d.out.Close()
	}
	return err
}

// openOld opens an old file, in its unpacked form if that has a size. Of an archive, x is the form.
func (d *decoder) openOld(f File, unpacked int64, x *form, old Source) (*file, error) {
	r, err := old(f)
	if err != nil {
		return nil, err
	}
	size, in := f.Size, inside{0, f.Size}
	if unpacked > 0 {
		packed := r
		size = unpacked
		r, in, err = d.unpack(packed, f, unpacked, x)
		closeIf(packed)
		if err != nil {
			return nil, err
		}
	}
	o, err := openFile(r, size, in, d.version)
	if err != nil {
		closeIf(r)
		return nil, err
	}
	if d.version == 1 {
		o.wordHi = math.MinInt64
	}
	return o, nil
}

func (d *decoder) unpack(r io.ReaderAt, f File, unpacked int64, x *form) (io.ReaderAt, inside, error) {
	out, err := d.scratch()
	if err != nil {
		return nil, inside{}, err
	}
	var in inside
	if x != nil {
		in = x.inside()
		err = unpackStreams(d.ctx, r, f, x, out)
	} else {
		in, err = unpackOld(r, f, unpacked, out, d.version)
	}
	if err != nil {
		out.Close()
		return nil, in, err
	}
	return out, in, nil
}

func closeIf(r io.ReaderAt) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}

// open opens the first n streams.
func (d *decoder) open(n int) (err error) {
	at := d.at
	for i := range n {
		size := d.group.streams[i]
		if d.raw[i], err = openStream(i, d.group.codecs[i], io.NewSectionReader(d.r, at, size)); err != nil {
			return err
		}
		at += size
	}
	return nil
}

// readNumbers reads how numbers have changed.
func (d *decoder) readNumbers() (numbers, error) {
	at := d.at
	for _, n := range d.group.streams[:streamNumbers] {
		at += n
	}
	size := d.group.streams[streamNumbers]
	if size == 0 {
		return numbers{}, nil
	}
	s, err := openStream(streamNumbers, d.group.codecs[streamNumbers], io.NewSectionReader(d.r, at, size))
	if err != nil {
		return numbers{}, err
	}
	defer s.close()
	return readNumbers(s)
}

func (d *decoder) close() {
	for i, s := range d.raw {
		if s != nil {
			s.close()
			d.raw[i] = nil
		}
	}
}

// operations opens the first n streams, which the caller closes, and calls literals and then do for each operation. A
// range of literals is an offset in new and a length.
func (d *decoder) operations(n int, do func(m match) error, literals func(off, n int64) error) error {
	if err := d.open(n); err != nil {
		return err
	}
	if n > streamGap {
		if err := d.nextRun(); err != nil {
			return err
		}
	}
	total, old := d.new.size(), d.predictor.old
	at, shift := int64(0), int64(0)
	for i := 0; ; i++ {
		if i%1024 == 0 && d.ctx.Err() != nil {
			return d.ctx.Err()
		}
		skip, err := binary.ReadUvarint(d.raw[streamLiteral])
		if err != nil {
			return malformed("an operation is missing")
		}
		length, err := binary.ReadUvarint(d.raw[streamLength])
		if err != nil || skip > uint64(total-at) || length > uint64(total-at)-skip {
			return malformed("an operation is longer than its files")
		}
		if length > 0 && length < nearMatch { // each match may take the time of a block
			return malformed("a match is too short")
		}
		if err := literals(at, int64(skip)); err != nil {
			return err
		}
		at += int64(skip)
		if length == 0 {
			if at != total {
				return malformed("its operations end before its files")
			}
			return nil
		}
		change, err := binary.ReadVarint(d.raw[streamShift])
		if err != nil {
			return malformed("an operation is missing")
		}
		shift += change
		from := at + shift
		if from < 0 || from > old.size() || int64(length) > old.size()-from || shift > maxGroup || shift < -maxGroup {
			return malformed("a match is outside of the old files")
		}
		of, nf := old.find(from), d.new.find(at)
		if from+int64(length) > old.starts[of+1] || at+int64(length) > d.new.starts[nf+1] {
			return malformed("a match crosses the end of a file")
		}
		if err := do(match{uint32(from), uint32(at), uint32(length)}); err != nil {
			return err
		}
		at += int64(length)
	}
}

// write writes the new files.
func (d *decoder) write() error {
	w := &walker{predictor: d.predictor, blocks: newBlocks(d.predictor.old, d.version), plain: d.plain}
	var b [8]byte
	d.settle = d.actual
	w.field = func(_ int64, r reference, v []byte) error {
		to, err := d.actual(r, r.kind.target(v, r.oldAt, r.oldBase))
		if err != nil {
			return err
		}
		r.kind.put(b[:], to, r.newAt, r.newBase)
		return d.emit(b[:r.kind.size()])
	}
	defer d.close()
	err := d.operations(streamNumbers, w.walk, d.literals)
	if err != nil {
		return err
	}
	if err := d.drain(); err != nil {
		return err
	}
	return d.border()
}

// actual reads the new value of a field whose old value is target.
func (d *decoder) actual(r reference, target int64) (int64, error) {
	to := d.predict(r, target)
	differs, err := d.differs()
	if err != nil || !differs {
		return to, err
	}
	wrong, err := binary.ReadVarint(d.raw[streamFields])
	if err != nil {
		return 0, malformed("a field is missing")
	}
	to += wrong
	d.learn(r, target, to)
	return to, nil
}

// literals copies the literals of a range of new.
func (d *decoder) literals(off, n int64) error {
	return d.new.pieces(off, off+n, func(from, to int64, filter filterFunc) error {
		n := int(to - from)
		if cap(d.buf)-len(d.buf) < n {
			if err := d.drain(); err != nil {
				return err
			}
		}
		part := d.buf[len(d.buf) : len(d.buf)+n]
		if _, err := io.ReadFull(d.raw[streamContent], part); err != nil {
			return malformed("literals are missing")
		}
		if filter != nil {
			filter(part, -1)
		}
		d.buf = d.buf[:len(d.buf)+n]
		return nil
	})
}

// plain writes bytes of old, corrected.
func (d *decoder) plain(_ int64, old []byte) error {
	for len(old) > 0 {
		if d.gap > 0 {
			n := int(min(d.gap, uint64(len(old))))
			if err := d.emit(old[:n]); err != nil {
				return err
			}
			d.gap -= uint64(n)
			old = old[n:]
			continue
		}
		if _, err := d.differs(); err != nil {
			return err
		}
		c, err := d.raw[streamBytes].ReadByte()
		if err != nil {
			return malformed("a byte is missing")
		}
		if err := d.emit([]byte{old[0] + c}); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

// differs takes one unit, and reports whether it differs.
func (d *decoder) differs() (bool, error) {
	if d.gap > 0 {
		d.gap--
		return false, nil
	}
	if d.run--; d.run == 0 {
		return true, d.nextRun()
	}
	return true, nil
}

// nextRun reads the place of the next differences.
func (d *decoder) nextRun() error {
	gap, err := binary.ReadUvarint(d.raw[streamGap])
	if err == io.EOF {
		d.gap, d.run = math.MaxUint64, 0
		return nil
	}
	if err != nil {
		return malformed("a difference is missing")
	}
	run, err := binary.ReadUvarint(d.raw[streamRun])
	if err != nil || run > maxGroup {
		return malformed("a difference is missing")
	}
	d.gap, d.run = gap, run+1
	return nil
}

// emit appends bytes to the output.
func (d *decoder) emit(b []byte) error {
	for len(b) > 0 {
		if err := d.room(); err != nil {
			return err
		}
		n := min(len(b), cap(d.buf)-len(d.buf))
		d.buf = append(d.buf, b[:n]...)
		b = b[n:]
	}
	return nil
}

func (d *decoder) room() error {
	if len(d.buf) < cap(d.buf) {
		return nil
	}
	return d.drain()
}

// drain writes the buffer to the files that it belongs to.
func (d *decoder) drain() error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	b := d.buf
	for len(b) > 0 {
		if err := d.border(); err != nil {
			return err
		}
		n := min(int64(len(b)), d.left)
		if d.out != nil {
			if _, err := d.out.Write(b[:n]); err != nil {
				return err
			}
		}
		d.left -= n
		b = b[n:]
	}
	d.buf = d.buf[:0]
	return nil
}

// border closes a complete file, and opens the next one that is not empty, unless there is
// none.
func (d *decoder) border() error {
	for d.left == 0 {
		if d.out != nil {
			out := d.out
			d.out = nil
			if err := out.Close(); err != nil {
				return err
			}
		}
		if d.next == len(d.group.new) {
			return nil
		}
		var err error
		f, x := d.group.new[d.next], d.group.forms[d.next]
		d.next++
		d.left = formSize(f, x)
		if d.out, err = d.sink(f); err != nil {
			return err
		}
		if x != nil && (d.out != nil || x.frame) {
			if d.out == nil {
				d.out = discard{} // its notes are read
			}
			d.out = &packer{Packer: lz4.Packer{Notes: d.raw[streamNotes]}, form: x, out: d.out}
		}
	}
	return nil
}
