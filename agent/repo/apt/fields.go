package apt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxField bounds the value of one field, in bytes.
const maxField = 4 << 20

// fields reads paragraphs of deb822(5) and keeps the named fields. A field that occurs twice
// in a paragraph is an error. The memory is bounded by maxField for each name.
type fields struct {
	r    *bufio.Reader
	keep map[string]bool // lower-case
}

func newFields(r io.Reader, names ...string) *fields {
	f := &fields{r: bufio.NewReaderSize(r, 64<<10), keep: map[string]bool{}}
	for _, n := range names {
		f.keep[strings.ToLower(n)] = true
	}
	return f
}

// next returns the kept fields of a paragraph by their lower-case names. The lines of a value
// are joined by newlines. io.EOF means that there are no more paragraphs.
func (f *fields) next() (map[string]string, error) {
	values := map[string]string{}
	var key string // "" while a field is skipped
	var value strings.Builder
	end := func() {
		if key != "" {
			values[key] = value.String()
		}
		key = ""
		value.Reset()
	}
	begun := false
	for {
		line, err := f.line()
		if err == io.EOF && begun {
			end()
			return values, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case strings.TrimSpace(line) == "" && !begun, strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			end()
			return values, nil
		case line[0] == ' ' || line[0] == '\t':
			if !begun {
				return nil, errors.New("it begins with a continued line")
			}
			if key == "" {
				continue
			}
			if value.Len()+len(line) > maxField {
				return nil, fmt.Errorf("the field %s is too long", key)
			}
			value.WriteString("\n" + strings.TrimSpace(line))
		default:
			end()
			begun = true
			name, first, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("the line %.80q is no field", line)
			}
			name = strings.ToLower(strings.TrimSpace(name))
			if !f.keep[name] {
				continue
			}
			if _, twice := values[name]; twice {
				return nil, fmt.Errorf("the field %s is there twice", name)
			}
			key = name
			value.WriteString(strings.TrimSpace(first))
		}
	}
}

// line reads a line without its end. A line that is longer than the buffer is cut; no kept
// field is that long.
func (f *fields) line() (string, error) {
	b, more, err := f.r.ReadLine()
	line := string(b)
	for err == nil && more {
		_, more, err = f.r.ReadLine()
	}
	return line, err
}
