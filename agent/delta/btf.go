package delta

import (
	"bufio"
	"encoding/binary"
	"io"
)

// A kernel and its modules describe their types in sections .BTF: see "BPF Type Format" in the
// documentation of Linux. Types refer to each other by their numbers, and to their names by
// offsets into the strings of the section. A module goes on with the numbers and the offsets of
// the kernel. Each build of a kernel numbers its types in another order, so that these fields
// differ in all modules: they are predicted by runs of numbers that have moved together.

const btfMagic = 0xeb9f

// The kinds of types whose records differ from others.
const (
	btfInt       = 1
	btfPointer   = 2
	btfArray     = 3
	btfStruct    = 4
	btfUnion     = 5
	btfEnum      = 6
	btfTypedef   = 8
	btfFuncProto = 13
	btfVar       = 14
	btfDataSec   = 15
	btfDeclTag   = 17
	btfTypeTag   = 18
	btfEnum64    = 19
)

const (
	btfHeader = 24      // bytes, up to the length of the strings
	btfRecord = 12      // bytes: name, kind and number of members, size or type
	maxTypes  = 8 << 20 // bytes of the types of a section
)

// btfMember is what follows the record of a type, once for each member or once in all.
type btfMember struct {
	size  int
	once  bool
	names uint8 // bits: which of its words are offsets of names
	types uint8 // bits: which are numbers of types
}

var btfMembers = map[uint32]btfMember{
	btfInt:       {size: 4, once: true},
	btfArray:     {size: 12, once: true, types: 0b011},
	btfStruct:    {size: 12, names: 0b001, types: 0b010},
	btfUnion:     {size: 12, names: 0b001, types: 0b010},
	btfEnum:      {size: 8, names: 0b001},
	btfFuncProto: {size: 8, names: 0b001, types: 0b010},
	btfVar:       {size: 4, once: true},
	btfDataSec:   {size: 12, types: 0b001},
	btfDeclTag:   {size: 4, once: true},
	btfEnum64:    {size: 12, names: 0b001},
}

// refersToType reports whether the last word of a record is the number of a type.
func refersToType(kind uint32) bool {
	return kind == btfPointer || kind >= btfTypedef && kind <= btfVar || kind == btfDeclTag || kind == btfTypeTag
}

// btfTypes returns the range of the types of a section at off, or no range. The strings follow.
func btfTypes(r io.ReaderAt, off, size int64) (types, strings region) {
	var h [btfHeader]byte
	if size < btfHeader || readFull(r, h[:], off) != nil || binary.LittleEndian.Uint16(h[:]) != btfMagic {
		return region{}, region{}
	}
	at := off + int64(binary.LittleEndian.Uint32(h[4:]))
	part := func(i int) region {
		from := at + int64(binary.LittleEndian.Uint32(h[i:]))
		return region{off: from, end: from + int64(binary.LittleEndian.Uint32(h[i+4:])), kind: regionTypes}
	}
	types, strings = part(8), part(16)
	if at < off || types.end > off+size || strings.end > off+size || types.end-types.off > maxTypes {
		return region{}, region{}
	}
	return types, strings
}

// typeFields has the fields of a regionTypes, which only a reading from its beginning finds.
type typeFields struct {
	region
	names, types []uint64 // bits: words of the region
}

// readTypes finds the fields of types. At the first malformed record it ends.
func readTypes(r io.ReaderAt, reg region) (typeFields, error) {
	words := int(reg.end-reg.off) / 4
	t := typeFields{region: reg, names: make([]uint64, (words+63)/64), types: make([]uint64, (words+63)/64)}
	in := bufio.NewReaderSize(io.NewSectionReader(r, reg.off, reg.end-reg.off), 16<<10)
	for w := 0; w+btfRecord/4 <= words; {
		b, err := in.Peek(btfRecord)
		if err != nil {
			return t, err
		}
		kind, m, length := btfParse(b)
		if length /= 4; length > words-w {
			break
		}
		t.names[w/64] |= 1 << (w % 64)
		if refersToType(kind) {
			t.types[(w+2)/64] |= 1 << ((w + 2) % 64)
		}
		for i := w + 3; i < w+length; i += m.size / 4 {
			for j := range m.size / 4 {
				t.names[(i+j)/64] |= uint64(m.names>>j&1) << ((i + j) % 64)
				t.types[(i+j)/64] |= uint64(m.types>>j&1) << ((i + j) % 64)
			}
		}
		if _, err := in.Discard(4 * length); err != nil {
			return t, err
		}
		w += length
	}
	return t, nil
}

// btfParse returns the kind of a type, its members, and the length of the record with them, in
// bytes.
func btfParse(record []byte) (kind uint32, m btfMember, length int) {
	info := binary.LittleEndian.Uint32(record[4:])
	kind = info >> 24 & 31
	m = btfMembers[kind]
	n := int(info & 0xffff)
	if m.once {
		n = 1
	}
	return kind, m, btfRecord + n*m.size
}

func (t *typeFields) fields(fields []field, off, from, to int64) []field {
	for p := align(from, t.off, 4); p+4 <= to; p += 4 {
		w := (p - t.off) / 4
		word, bit := w/64, uint64(1)<<(w%64)
		switch {
		case t.names[word]&bit != 0:
			fields = append(fields, field{off: uint32(p - off), kind: fieldString})
		case t.types[word]&bit != 0:
			fields = append(fields, field{off: uint32(p - off), kind: fieldType})
		}
	}
	return fields
}
