package delta

import (
	"bufio"
	"encoding/binary"
	"io"
)

// fieldKind is how a field expresses an address.
type fieldKind uint8

const (
	fieldRel    fieldKind = iota // 32 bits, relative to the end of the field
	fieldSelf                    // 32 bits, relative to the field
	fieldBack                    // 32 bits, the distance back from the field
	fieldSearch                  // 32 bits, relative to .eh_frame_hdr
	fieldName                    // 32 bits, relative to .dynstr
	fieldSym                     // 32 bits, the number of an entry of .dynsym
	fieldAbs                     // 64 bits, absolute
	fieldString                  // 32 bits, the offset of a name of a type; since version 3
	fieldType                    // 32 bits, the number of a type; since version 3
	fieldSum                     // 32 bits, the checksum of a symbol; since version 3
	fieldPlace                   // 64 bits, relative to a section; since version 3
	fieldEntry                   // as fieldSelf, in a table; since version 3
	fieldBranch                  // an instruction for ARM64 that branches or calls; since version 4
	fieldPage                    // one that loads the address of a page; since version 4
	fieldLow                     // one that adds the offset in a page; since version 4
)

const symSize = 24 // bytes of an Elf64_Sym

// isLong reports whether a field has 64 bits.
func (k fieldKind) isLong() bool { return k == fieldAbs || k == fieldPlace }

// inTable reports whether fields of a kind are in tables.
func (k fieldKind) inTable() bool {
	return k >= fieldSearch && k <= fieldAbs || k == fieldPlace || k == fieldEntry
}

// isShared reports whether a field has a number that means the same in all files.
func (k fieldKind) isShared() bool { return k.isNumber() || k == fieldSum }

func (k fieldKind) size() int {
	if k.isLong() {
		return 8
	}
	return 4
}

// target returns the address that a field refers to, with its bytes, its own address, and
// the address that its kind is relative to.
func (k fieldKind) target(b []byte, at, base int64) int64 {
	if k.isLong() {
		return base + int64(binary.LittleEndian.Uint64(b))
	}
	v := int64(int32(binary.LittleEndian.Uint32(b)))
	switch k {
	case fieldBranch, fieldPage, fieldLow:
		return k.armTarget(uint32(v), at, base)
	case fieldRel:
		return at + 4 + v
	case fieldSelf, fieldEntry:
		return at + v
	case fieldBack:
		return at - v
	case fieldSym:
		return base + v*symSize
	}
	return base + v
}

// put is the inverse of target.
func (k fieldKind) put(b []byte, target, at, base int64) {
	switch k {
	case fieldAbs, fieldPlace:
		binary.LittleEndian.PutUint64(b, uint64(target-base))
		return
	case fieldBranch, fieldPage, fieldLow:
		k.armPut(b, target, at)
		return
	case fieldRel:
		target -= at + 4
	case fieldSelf, fieldEntry:
		target -= at
	case fieldBack:
		target = at - target
	case fieldSym:
		target = (target - base) / symSize
	default:
		target -= base
	}
	binary.LittleEndian.PutUint32(b, uint32(target))
}

// base returns the address that fields of a kind are relative to.
func (l *layout) base(k fieldKind, section uint16) int64 {
	switch k {
	case fieldPlace:
		if int(section) < len(l.sections) {
			return l.sections[section].off
		}
	case fieldSearch:
		return l.search
	case fieldName:
		return l.names
	case fieldSym:
		return l.syms
	}
	return 0
}

// field is the place of a reference.
type field struct {
	off     uint32 // in the data that was searched
	kind    fieldKind
	section uint16 // of a fieldPlace; of a fieldPage the offset that is added
	page    uint32 // of a fieldLow: the number of the page
}

// Blocks of a file are searched for fields one by one, in any order, with some bytes before,
// so that a search has found the borders of instructions, and after, for the fields that
// cross the end.
const (
	blockSize  = 1 << 10
	blockSize1 = 4 << 10 // of version 1
	lookBack   = 64
	lookAhead  = 24
)

// file is an old or new file that can be searched for fields.
type file struct {
	layout
	r       io.ReaderAt
	unwinds []unwind
	typed   []typeFields
}

// unwind has the fields of an .eh_frame region, which only a reading from its beginning finds.
type unwind struct {
	region
	self, back []uint64 // bits: offsets of fields in the region
}

func openFile(r io.ReaderAt, size int64, in inside, version int) (*file, error) {
	f := &file{layout: layoutIn(r, size, in, version), r: r}
	for _, reg := range f.regions {
		if reg.kind == regionUnwind {
			u, err := readUnwind(r, reg)
			if err != nil {
				return nil, err
			}
			f.unwinds = append(f.unwinds, u)
		}
		if reg.kind == regionTypes {
			t, err := readTypes(r, reg)
			if err != nil {
				return nil, err
			}
			f.typed = append(f.typed, t)
		}
	}
	return f, nil
}

// fields appends the fields of data, which is at off in the file.
func (f *file) fields(fields []field, off int64, data []byte) []field {
	end := off + int64(len(data))
	for i := range f.regions {
		reg := &f.regions[i]
		from, to := max(reg.off, off), min(reg.end, end)
		if from >= to {
			continue
		}
		b := data[from-off : to-off]
		switch reg.kind {
		case regionCode:
			at, ok := f.addr(from)
			switch {
			case ok && f.arm:
				fields = f.armFields(fields, from-off, at, b)
			case ok:
				fields = f.codeFields(fields, from-off, at, b)
			}
		case regionUnwind:
			for u := range f.unwinds {
				if f.unwinds[u].region == *reg {
					fields = f.unwinds[u].fields(fields, off, from, to)
				}
			}
		case regionTypes:
			for t := range f.typed {
				if f.typed[t].region == *reg {
					fields = f.typed[t].fields(fields, off, from, to)
				}
			}
		case regionVersions:
			for p := align(from, reg.off, versionSize); p+4 <= to; p += versionSize {
				fields = append(fields, field{off: uint32(p - off), kind: fieldSum})
			}
		case regionEntries:
			for p := align(from, reg.off, 4); p+4 <= to; p += 4 {
				if at, ok := f.addr(p); ok && f.mapped(at+int64(int32(binary.LittleEndian.Uint32(b[p-from:])))) {
					fields = append(fields, field{off: uint32(p - off), kind: fieldEntry})
				}
			}
		case regionPatches:
			fields = f.patchFields(fields, reg, off, from, b)
		case regionSymbols:
			fields = f.symbolFields(fields, reg, off, from, b)
		case regionSearch:
			for p := align(from, reg.off, 4); p+4 <= to; p += 4 {
				fields = append(fields, field{off: uint32(p - off), kind: fieldSearch})
			}
		case regionRela:
			fields = f.relaFields(fields, reg, off, from, b)
		case regionSyms:
			for p := align(from-symSize+1, reg.off, symSize); p < to; p += symSize {
				if p >= from && p+4 <= to {
					fields = append(fields, field{off: uint32(p - off), kind: fieldName})
				}
				if p+8 >= from && p+16 <= to && f.mapped(int64(binary.LittleEndian.Uint64(b[p+8-from:]))) {
					fields = append(fields, field{off: uint32(p + 8 - off), kind: fieldAbs})
				}
			}
		case regionWords:
			for p := (from + 7) &^ 7; p+8 <= to; p += 8 {
				if v := int64(binary.LittleEndian.Uint64(b[p-from:])); (v >= f.wordLo || v < f.wordHi) && f.mapped(v) {
					fields = append(fields, field{off: uint32(p - off), kind: fieldAbs})
				}
			}
		}
	}
	return fields
}

// align returns the first offset from p on that is a multiple of n after start.
func align(p, start, n int64) int64 {
	if p <= start {
		return start
	}
	return start + (p-start+n-1)/n*n
}

// relaFields finds the offset and, of those that are relative, the addend of relocations.
func (f *file) relaFields(fields []field, reg *region, off, from int64, b []byte) []field {
	to := from + int64(len(b))
	for p := align(from-23, reg.off, 24); p < to; p += 24 {
		if p >= from && p+8 <= to {
			fields = append(fields, field{off: uint32(p - off), kind: fieldAbs})
		}
		// Without the whole entry, its type is unknown.
		switch {
		case p+8 < from || p+24 > to:
		case binary.LittleEndian.Uint32(b[p+8-from:]) == f.relative():
			fields = append(fields, field{off: uint32(p + 16 - off), kind: fieldAbs})
		default:
			fields = append(fields, field{off: uint32(p + 12 - off), kind: fieldSym})
		}
	}
	return fields
}

// The possible meanings of a byte of code.
const (
	isCall   = 1 + iota // opcode of CALL or JMP, rel32
	isEscape            // 0F: the second byte of Jcc rel32 follows
	isModRM             // ModRM of an operand relative to RIP
)

var codeBytes = func() (t [256]uint8) {
	t[0xe8], t[0xe9], t[0x0f] = isCall, isCall, isEscape
	for reg := range 8 {
		t[reg<<3|5] = isModRM
	}
	return t
}()

// withModRM are the opcodes of one byte that a ModRM byte follows.
var withModRM = func() (t [256]bool) {
	for op := 0; op < 0x40; op += 8 {
		t[op], t[op+1], t[op+2], t[op+3] = true, true, true, true
	}
	for _, op := range []int{0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x8f,
		0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xf6, 0xf7, 0xfe, 0xff} {
		t[op] = true
	}
	return t
}()

// codeFields finds displacements of 32 bits in instructions, without decoding them: a
// pattern of bytes counts if the address is in the file. A wrong one costs little, since its
// prediction is corrected as any other.
func (f *file) codeFields(fields []field, off, at int64, b []byte) []field {
	for i := 0; i+5 <= len(b); i++ {
		p := i + 1
		data := false
		switch codeBytes[b[i]] {
		case 0:
			continue
		case isCall:
		case isEscape:
			if b[i+1]&0xf0 != 0x80 || i+6 > len(b) {
				continue
			}
			p = i + 2
		case isModRM:
			if i == 0 || !withModRM[b[i-1]] && (i < 2 || b[i-2] != 0x0f && (i < 3 || b[i-3] != 0xc5 && (i < 4 || b[i-4] != 0xc4))) {
				continue
			}
			data = true
		}
		target := at + int64(p) + 4 + int64(int32(binary.LittleEndian.Uint32(b[p:])))
		if target >= f.codeLo && target < f.code || data && f.mapped(target) {
			fields = append(fields, field{off: uint32(off + int64(p)), kind: fieldRel})
			i = p + 3
		}
	}
	return fields
}

// readUnwind finds the fields of .eh_frame: see the Linux Standard Base, "Exception Frames".
// At the first malformed entry it ends.
func readUnwind(r io.ReaderAt, reg region) (unwind, error) {
	size := int(reg.end - reg.off)
	u := unwind{region: reg, self: make([]uint64, (size+63)/64), back: make([]uint64, (size+63)/64)}
	in := bufio.NewReaderSize(io.NewSectionReader(r, reg.off, int64(size)), 64<<10)
	lsda := map[int]bool{} // CIE → whether its FDEs have a pointer of 32 bits
	for p := 0; p+8 <= size; {
		b, err := in.Peek(min(32, size-p))
		if err != nil {
			return u, err
		}
		n := int(binary.LittleEndian.Uint32(b))
		if n < 4 || n > size-p-4 {
			break
		}
		id := p + 4
		entry := b[4:min(len(b), 4+n)]
		back := int(binary.LittleEndian.Uint32(entry))
		switch {
		case back == 0:
			if len(lsda) < maxHeaders {
				lsda[p] = hasLSDA(entry)
			}
		case back <= id && n >= 12:
			u.back[id/64] |= 1 << (id % 64)
			u.self[(id+4)/64] |= 1 << ((id + 4) % 64)
			if n >= 17 && lsda[id-back] && entry[12] == 4 {
				u.self[(id+13)/64] |= 1 << ((id + 13) % 64)
			}
		}
		if _, err := in.Discard(4 + n); err != nil {
			return u, err
		}
		p += 4 + n
	}
	return u, nil
}

// hasLSDA reports whether the FDEs of a CIE have a relative pointer of 32 bits as their only
// augmentation.
func hasLSDA(cie []byte) bool {
	if len(cie) < 16 || cie[4] != 1 {
		return false
	}
	for i := 5; i < 12; i++ {
		switch cie[i] {
		case 'L':
			return true
		case 0:
			return false
		}
	}
	return false
}

func (u *unwind) fields(fields []field, off, from, to int64) []field {
	for p := from - u.off; p+4 <= to-u.off; p++ {
		word, bit := p/64, uint64(1)<<(p%64)
		switch {
		case u.self[word]|u.back[word] == 0:
			p |= 63
		case u.back[word]&bit != 0:
			fields = append(fields, field{off: uint32(u.region.off + p - off), kind: fieldBack})
		case u.self[word]&bit != 0:
			fields = append(fields, field{off: uint32(u.region.off + p - off), kind: fieldSelf})
		}
	}
	return fields
}
