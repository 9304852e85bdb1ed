package dialer

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
)

// maxDepth bounds how deep arrays, structs and variants may nest together. The
// specification allows 64; the methods of this program need 4.
const maxDepth = 32

// walker reads values in the marshalling of the D-Bus specification, "Marshaling
// (Wire Format)", without keeping them. It accepts less than godbus does: a value
// that it accepts is one that the library decodes without an error or a panic.
// Alignment counts from the start of b, which is a multiple of 8 in its message.
type walker struct {
	b     []byte
	at    int
	order binary.ByteOrder

	fds []uint32 // the indices of the descriptors, in the order of the values
	// element reports whether a descriptor is directly an element of an array
	// or dictionary. godbus makes []UnixFDIndex for those and panics when it
	// puts a UnixFD into it.
	element bool
}

// values reads one value after the other by a signature of any number of types.
func (w *walker) values(sig string) bool {
	for sig != "" {
		n := single(sig, 0)
		if n == 0 || !w.value(sig[:n], 0) {
			return false
		}
		sig = sig[n:]
	}
	return true
}

// value reads the value of a complete type.
func (w *walker) value(sig string, depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch sig[0] {
	case 'y':
		return w.skip(1, 1)
	case 'n', 'q':
		return w.skip(2, 2)
	case 'i', 'u':
		return w.skip(4, 4)
	case 'x', 't', 'd':
		return w.skip(8, 8)
	case 'b':
		v, ok := w.u32()
		return ok && v <= 1
	case 'h':
		v, ok := w.u32()
		w.fds = append(w.fds, v)
		return ok
	case 's':
		_, ok := w.text()
		return ok
	case 'o':
		s, ok := w.text()
		return ok && dbus.ObjectPath(s).IsValid()
	case 'g':
		_, ok := w.signature()
		return ok
	case 'v':
		s, ok := w.signature()
		return ok && s != "" && single(s, 0) == len(s) && w.value(s, depth+1)
	case '(':
		if !w.align(8) {
			return false
		}
		for members := sig[1 : len(sig)-1]; members != ""; {
			n := single(members, 0)
			if !w.value(members[:n], depth+1) {
				return false
			}
			members = members[n:]
		}
		return true
	case 'a':
		return w.array(sig[1:], depth)
	}
	return false
}

// array reads an array whose elements are of the type sig, or a dictionary.
func (w *walker) array(sig string, depth int) bool {
	size, ok := w.u32()
	if !ok || size > 64<<20 || !w.align(alignment(sig[0])) || int(size) > len(w.b)-w.at {
		return false
	}
	end := w.at + int(size)
	if n := fixed(sig[0]); n > 0 { // no value of these types is invalid
		w.at = end
		return int(size)%n == 0
	}
	if size > 0 {
		w.element = w.element || sig[0] == 'h' || sig[0] == '{' && (sig[1] == 'h' || sig[2] == 'h')
	}
	for w.at < end {
		if sig[0] != '{' {
			ok = w.value(sig, depth+1)
		} else {
			ok = w.align(8) && w.value(sig[1:2], depth+2) && w.value(sig[2:len(sig)-1], depth+2)
		}
		if !ok {
			return false
		}
	}
	return w.at == end
}

func (w *walker) align(n int) bool {
	w.at = (w.at + n - 1) &^ (n - 1)
	return w.at <= len(w.b)
}

// skip passes a value of a size and an alignment.
func (w *walker) skip(align, size int) bool {
	if !w.align(align) || size > len(w.b)-w.at {
		return false
	}
	w.at += size
	return true
}

func (w *walker) u32() (uint32, bool) {
	if !w.skip(4, 4) {
		return 0, false
	}
	return w.order.Uint32(w.b[w.at-4:]), true
}

func (w *walker) text() (string, bool) {
	size, ok := w.u32()
	if !ok || int64(size) >= int64(len(w.b)-w.at) {
		return "", false
	}
	return w.terminated(int(size))
}

// signature reads a signature, which has to be one.
func (w *walker) signature() (string, bool) {
	if !w.skip(1, 1) {
		return "", false
	}
	size := int(w.b[w.at-1])
	if size >= len(w.b)-w.at {
		return "", false
	}
	s, ok := w.terminated(size)
	for rest := s; ok && rest != ""; {
		n := single(rest, 0)
		ok, rest = n > 0, rest[n:]
	}
	return s, ok
}

// terminated reads size bytes of text and the zero behind them.
func (w *walker) terminated(size int) (string, bool) {
	b := w.b[w.at : w.at+size]
	if w.b[w.at+size] != 0 || bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b) {
		return "", false
	}
	w.at += size + 1
	return string(b), true
}

// single returns how long the first complete type of a signature is, or 0 if
// that is no type.
func single(sig string, depth int) int {
	if sig == "" || depth > maxDepth {
		return 0
	}
	switch sig[0] {
	case 'v':
		return 1
	case '(':
		at := 1
		for at < len(sig) && sig[at] != ')' {
			n := single(sig[at:], depth+1)
			if n == 0 {
				return 0
			}
			at += n
		}
		if at == 1 || at == len(sig) { // empty, or open
			return 0
		}
		return at + 1
	case 'a':
		if len(sig) < 2 || sig[1] != '{' {
			if n := single(sig[1:], depth+1); n > 0 {
				return n + 1
			}
			return 0
		}
		if len(sig) < 5 || !basic(sig[2]) {
			return 0
		}
		n := single(sig[3:], depth+2)
		if n == 0 || 3+n >= len(sig) || sig[3+n] != '}' {
			return 0
		}
		return 3 + n + 1
	}
	if basic(sig[0]) {
		return 1
	}
	return 0
}

func basic(c byte) bool {
	switch c {
	case 'y', 'b', 'n', 'q', 'i', 'u', 'x', 't', 'd', 's', 'o', 'g', 'h':
		return true
	}
	return false
}

// fixed returns the size of a type all of whose bit patterns are values, or 0.
func fixed(c byte) int {
	switch c {
	case 'y':
		return 1
	case 'n', 'q':
		return 2
	case 'i', 'u':
		return 4
	case 'x', 't', 'd':
		return 8
	}
	return 0
}

func alignment(c byte) int {
	switch c {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h', 's', 'o', 'a':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1
}
