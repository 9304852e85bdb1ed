package dialer

import (
	"encoding/binary"
	"slices"
)

// Message types of the D-Bus specification, "Message Format".
const (
	typeCall   = 1
	typeReply  = 2
	typeError  = 3
	typeSignal = 4

	knownFlags  = 7
	noReply     = 1
	flagsAt     = 2
	serialAt    = 8
	fieldsLenAt = 12
)

// Header fields of the specification, "Header Fields".
const (
	fieldPath = iota + 1
	fieldInterface
	fieldMember
	fieldErrorName
	fieldReplySerial
	fieldDestination
	fieldSender
	fieldSignature
	fieldUnixFDs
)

// fieldTypes are the types of the header fields, by their codes.
const fieldTypes = "\x00osssussgu"

// message is one message in its marshalled form.
type message struct {
	b     []byte
	order binary.ByteOrder
	body  int64 // where the body begins in b

	fields  []field // those that are known
	unknown bool    // there are others
	words   map[byte]string
	fds     uint32 // how many descriptors it announces
	reply   uint32 // the serial that it answers
	inBody  walker // has read the body
}

// field is where a header field is in b: from its code to the end of its value.
type field struct {
	code       byte
	start, end int
}

func (m *message) kind() byte     { return m.b[1] }
func (m *message) serial() uint32 { return m.order.Uint32(m.b[serialAt:]) }

// parse reads the message, whose header fields end at end, and reports whether it is
// one that godbus can decode.
func (m *message) parse(end int) bool {
	if !m.parseFields(end) {
		return false
	}
	sig := m.words[fieldSignature]
	m.inBody = walker{b: m.b[m.body:], order: m.order}
	return m.inBody.values(sig) && m.inBody.at == len(m.inBody.b)
}

// parseFields reads the header fields, which end at end, and reports whether godbus
// can decode them.
func (m *message) parseFields(end int) bool {
	if m.kind() < typeCall || m.kind() > typeSignal {
		return false
	}
	m.words = map[byte]string{}
	w := walker{b: m.b[:end], at: fixedHeader, order: m.order}
	for w.at < end {
		if !w.align(8) || w.at == end {
			return false
		}
		f := field{start: w.at}
		if !w.skip(1, 1) {
			return false
		}
		f.code = w.b[w.at-1]
		sig, ok := w.signature()
		if !ok || f.code == 0 || single(sig, 0) != len(sig) || sig == "" {
			return false
		}
		if int(f.code) >= len(fieldTypes) {
			m.unknown = true // must be ignored: "Header Fields"
			if !w.value(sig, 0) {
				return false
			}
			continue
		}
		if sig[0] != fieldTypes[f.code] || !m.known(&w, f.code) {
			return false
		}
		f.end = w.at
		m.fields = append(m.fields, f)
	}
	return true
}

// known reads the value of a header field of the specification.
func (m *message) known(w *walker, code byte) (ok bool) {
	var s string
	var n uint32
	before := w.at
	switch fieldTypes[code] {
	case 's':
		s, ok = w.text()
	case 'g':
		s, ok = w.signature()
	case 'o':
		if ok = w.value("o", 0); ok {
			s = string(w.b[(before+3)&^3+4 : w.at-1])
		}
	case 'u':
		n, ok = w.u32()
	}
	switch code {
	case fieldUnixFDs:
		m.fds = n
	case fieldReplySerial:
		m.reply = n
	}
	m.words[code] = s
	return ok
}

// answer makes the message one that answers another serial.
func (m *message) answer(serial uint32) {
	m.reply = serial
	for _, f := range m.fields {
		if f.code == fieldReplySerial {
			m.order.PutUint32(m.b[f.end-4:], serial)
		}
	}
}

// passes reports whether godbus can decode the body with the descriptors: each is
// named once, in a place where the library keeps it.
func (m *message) passes(most int) bool {
	fds := m.inBody.fds
	if m.inBody.element || len(fds) > most || int64(len(fds)) != int64(m.fds) {
		return false
	}
	for i := range uint32(len(fds)) {
		if !slices.Contains(fds, i) {
			return false
		}
	}
	return true
}

// clean returns the bytes of the message without unknown header fields and
// flags, which godbus refuses, and, unless the descriptors are kept, as one that has
// none. It may be m.b itself.
func (m *message) clean(keepFDs bool) []byte {
	strip := m.fds > 0 && !keepFDs
	m.b[flagsAt] &= knownFlags
	if !m.unknown && !strip {
		return m.b
	}
	// Each field begins at a multiple of 8, so that its bytes can be moved by
	// such a number.
	out := slices.Clone(m.b[:fixedHeader])
	for _, f := range m.fields {
		if strip && f.code == fieldUnixFDs {
			continue
		}
		out = append(pad(out), m.b[f.start:f.end]...)
	}
	m.order.PutUint32(out[fieldsLenAt:], uint32(len(out)-fixedHeader))
	return append(pad(out), m.b[m.body:]...)
}

func pad(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}
