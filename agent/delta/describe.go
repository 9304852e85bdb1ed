package delta

import (
	"encoding/binary"
	"hash/crc32"
)

// description is a section .BTF for the search of matches: types and names are compared by
// what they are, not by their numbers.
type description struct {
	types   []byte
	strings []byte
	starts  []uint32 // of the records
	hashes  []uint32 // of the types; 0 if it is not known yet
	base    *description
}

// descriptions returns the types of the files of a list. The largest are those of the kernel,
// on which the others are based.
func descriptions(l *list, content []byte) map[int]*description {
	all := map[int]*description{}
	var base *description
	for i, f := range l.files {
		if f.types.end == f.types.off {
			continue
		}
		d := newDescription(content[l.starts[i]+f.types.off:l.starts[i]+f.types.end], content[l.starts[i]+f.texts.off:l.starts[i]+f.texts.end])
		if base == nil || len(d.types) > len(base.types) {
			base = d
		}
		all[i] = d
	}
	for _, d := range all {
		if d != base {
			d.base = base
		}
	}
	return all
}

// baseSizes returns how many strings, in bytes, and types the kernel has: those that follow are
// of the modules.
func baseSizes(l *list, content []byte) (n [2]int64) {
	for _, d := range descriptions(l, content) {
		if d.base == nil {
			n[numbersOf(fieldString)], n[numbersOf(fieldType)] = int64(len(d.strings)), int64(len(d.starts))+1
		}
	}
	return n
}

func newDescription(types, strings []byte) *description {
	d := &description{types: types, strings: strings}
	for at := 0; at+btfRecord <= len(types); {
		_, _, length := btfParse(types[at:])
		if length > len(types)-at {
			break
		}
		d.starts = append(d.starts, uint32(at))
		at += length
	}
	d.hashes = make([]uint32, len(d.starts))
	return d
}

// alike returns a number in place of a field, which is the same for equal types or names.
func (d *description) alike(kind fieldKind, v uint32) uint32 {
	if kind == fieldString {
		return crc32.ChecksumIEEE(d.name(v))
	}
	return d.typeHash(v, followed)
}

// name returns the string at an offset.
func (d *description) name(off uint32) []byte {
	if d.base != nil {
		if int(off) < len(d.base.strings) {
			return d.base.name(off)
		}
		off -= uint32(len(d.base.strings))
	}
	if int64(off) >= int64(len(d.strings)) {
		return nil
	}
	s := d.strings[off:]
	for i, c := range s {
		if c == 0 {
			return s[:i]
		}
	}
	return s
}

// followed is how many references are followed to tell types without names apart.
const followed = 4

// typeHash returns the hash of a type: that of its record, of its name, and without a name of
// the types that it refers to.
func (d *description) typeHash(id uint32, depth int) uint32 {
	if id == 0 || depth == 0 { // 0 is void
		return 1
	}
	if d.base != nil {
		if int(id) <= len(d.base.starts) {
			return d.base.typeHash(id, depth)
		}
		id -= uint32(len(d.base.starts))
	}
	if int64(id) > int64(len(d.starts)) {
		return 2
	}
	if depth == followed && d.hashes[id-1] != 0 {
		return d.hashes[id-1]
	}
	record := d.types[d.starts[id-1]:]
	kind, m, length := btfParse(record)
	var b []byte
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(record[at:]) }
	add := func(v uint32) { b = binary.LittleEndian.AppendUint32(b, v) }
	name := word(0)
	b = append(b, d.name(name)...)
	add(word(4))
	if name == 0 || kind == btfTypedef {
		if refersToType(kind) {
			add(d.typeHash(word(8), depth-1))
		}
		for at := btfRecord; at < min(length, btfRecord+16*max(m.size, 1)); at += m.size {
			for j := range m.size / 4 {
				switch v := word(at + 4*j); {
				case m.names>>j&1 != 0:
					b = append(b, d.name(v)...)
				case m.types>>j&1 != 0:
					add(d.typeHash(v, min(depth-1, 1))) // more would take time that grows with each reference
				default:
					add(v)
				}
			}
		}
	} else if !refersToType(kind) {
		add(word(8))
	}
	h := max(crc32.ChecksumIEEE(b), 3)
	if depth == followed {
		d.hashes[id-1] = h
	}
	return h
}
