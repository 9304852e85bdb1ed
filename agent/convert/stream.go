package convert

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// Version is the version of the converter. The same files, names, options and version yield
// the same package hash. It changes with any change of a result or of the stream.
const Version = 8

// The bounds of a conversion. The receiver enforces them.
const (
	MaxBytes       = 16 << 30 // of all contents
	MaxEntries     = 400_000
	maxDescription = 128 << 20
)

// partSize is how much of a content is sent between two positions in the input.
const partSize = 4 << 20

// Description is what the converter derived from its input.
type Description struct {
	Launch  manifest.Launch `json:"launch"`
	Entries []Entry         `json:"entries"`
	Remarks []string        `json:"remarks,omitempty"` // changed or omitted content, one line each
	Scripts []string        `json:"scripts,omitempty"` // maintainer scripts that did not run, and their effects
	Needs   []string        `json:"needs,omitempty"`   // packages of the distribution that the input depends on
	// Source means that the input is a package source, with a lull.yaml at the top. In
	// that case no values are derived, and Launch is a placeholder.
	Source bool `json:"source,omitempty"`
}

// Entry is an entry of the package. Content is the number of its content, from 1, for
// regular files.
type Entry struct {
	Path    string `json:"path"`
	Type    string `json:"type,omitempty"` // as in a manifest
	Content int    `json:"content,omitempty"`
	Exec    bool   `json:"exec,omitempty"`
	Symlink string `json:"symlink,omitempty"`
}

// Writer writes a stream. The first error is returned by all later calls.
type Writer struct {
	// Position returns how many bytes of the input were read. Nil means that it is not known.
	Position func() int64

	w        *bufio.Writer
	contents int
	err      error
}

// NewWriter begins a stream.
func NewWriter(w io.Writer) *Writer {
	s := &Writer{w: bufio.NewWriterSize(w, 256<<10)}
	_, s.err = fmt.Fprintf(s.w, "lull-convert %d\n", Version)
	return s
}

// Content copies size bytes of r and returns the number of the content.
func (s *Writer) Content(r io.Reader, size int64) (number int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.err = s.content(r, size); s.err != nil {
		return 0, s.err
	}
	s.contents++
	return s.contents, nil
}

func (s *Writer) content(r io.Reader, size int64) error {
	if _, err := fmt.Fprintf(s.w, "content %d %d\n", size, s.position()); err != nil {
		return err
	}
	for left := size; left > 0; {
		part := min(left, partSize)
		n, err := io.Copy(s.w, io.LimitReader(r, part))
		if err == nil && n < part {
			err = io.ErrUnexpectedEOF
		}
		if left -= part; err == nil && left > 0 {
			_, err = fmt.Fprintf(s.w, "read %d\n", s.position())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Writer) position() int64 {
	if s.Position == nil {
		return 0
	}
	return s.Position()
}

// Done ends the stream.
func (s *Writer) Done(d *Description) error {
	if s.err != nil {
		return s.err
	}
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.w, "done %d\n%s", len(b), b)
	return errors.Join(err, s.w.Flush())
}

// Content is the header of a content.
type Content struct {
	Number int   // from 1
	Size   int64 // bytes
}

// Receive reads a stream and calls content with each content, which must read all of it. Data
// after the end of the stream, or beyond a bound, is an error. It calls progress with the bytes
// of the input that the converter has read, which are not verified.
func Receive(r io.Reader, progress func(read int64), content func(c Content, r io.Reader) error) (*Description, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	first, err := line(in)
	if err != nil {
		return nil, err
	}
	if want := fmt.Sprintf("lull-convert %d", Version); first != want {
		return nil, fmt.Errorf("the converter sent %.40q, want %q: it is of another version of lull", first, want)
	}
	var total int64
	for number := 1; ; number++ {
		header, err := line(in)
		if err != nil {
			return nil, err
		}
		verb, digits, _ := strings.Cut(header, " ")
		digits, position, begins := strings.Cut(digits, " ")
		size, err := number64(digits)
		read := int64(0)
		if begins && err == nil {
			read, err = number64(position)
		}
		switch {
		case err != nil, begins != (verb == "content"):
			return nil, fmt.Errorf("the converter sent %.40q", header)
		case verb == "done" && size <= maxDescription:
			return description(in, size)
		case verb != "content":
			return nil, fmt.Errorf("the converter sent %.40q", header)
		case number > MaxEntries:
			return nil, fmt.Errorf("it has more than %d files", MaxEntries)
		case size > MaxBytes-total:
			return nil, fmt.Errorf("it has more than %d bytes of content", int64(MaxBytes))
		}
		total += size
		progress(read)
		parts := &partsReader{in: in, left: size, part: min(size, partSize), progress: progress}
		if err := content(Content{number, size}, parts); err != nil {
			return nil, err
		}
		if parts.left != 0 {
			return nil, io.ErrUnexpectedEOF
		}
	}
}

// partsReader reads one content without the positions in it.
type partsReader struct {
	in       *bufio.Reader
	left     int64 // bytes of the content
	part     int64 // bytes before the next position
	progress func(read int64)
}

func (p *partsReader) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	if p.part == 0 {
		header, err := line(p.in)
		if err != nil {
			return 0, err
		}
		digits, found := strings.CutPrefix(header, "read ")
		read, err := number64(digits)
		if err != nil || !found {
			return 0, fmt.Errorf("the converter sent %.40q", header)
		}
		p.progress(read)
		p.part = min(p.left, partSize)
	}
	n, err := p.in.Read(b[:min(int64(len(b)), p.part)])
	p.left -= int64(n)
	p.part -= int64(n)
	return n, cutOff(err)
}

// number64 parses a number in its only form.
func number64(digits string) (int64, error) {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err == nil && (n < 0 || digits != strconv.FormatInt(n, 10)) {
		err = strconv.ErrSyntax
	}
	return n, err
}

// line reads a header of at most 64 bytes.
func line(in *bufio.Reader) (string, error) {
	var b []byte
	for len(b) < 64 {
		c, err := in.ReadByte()
		if err != nil {
			return "", cutOff(err)
		}
		if c == '\n' {
			return string(b), nil
		}
		b = append(b, c)
	}
	return "", fmt.Errorf("the converter sent %.40q", b)
}

// cutOff returns the error of a stream that ends too early.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func description(in *bufio.Reader, size int64) (*Description, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, cutOff(err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return nil, errors.New("the converter sent more after its end")
	}
	d := new(Description)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, fmt.Errorf("the converter's description is damaged: %w", err)
	}
	if len(d.Entries) > MaxEntries {
		return nil, fmt.Errorf("it has more than %d entries", MaxEntries)
	}
	return d, nil
}
