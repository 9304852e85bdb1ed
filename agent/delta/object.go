package delta

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// An object file, such as a module of a kernel, has no addresses yet: references are relative
// to the beginnings of its sections. Its offsets take the place of addresses.

const (
	maxSections = 4 << 10
	maxLocals   = 16 << 10 // local symbols
	symSection  = 3        // STT_SECTION
)

// section is the beginning of a section, and its name.
type section struct {
	off  int64
	name string
}

// sectionLike returns where the section of new begins that has the name of one of old.
func sectionLike(old, new *layout, i uint16) (off int64, ok bool) {
	if int(i) < len(old.sections) {
		for _, s := range new.sections {
			if s.name == old.sections[i].name {
				return s.off, true
			}
		}
	}
	return 0, false
}

// baseLike returns what is in new what layout.base is in old.
func baseLike(old, new *layout, k fieldKind, section uint16) (base int64, ok bool) {
	if k == fieldPlace {
		return sectionLike(old, new, section)
	}
	return new.base(k, section), new.syms != 0
}

// readObject reads the layout of an object file whose header is h.
func readObject(r io.ReaderAt, size int64, h []byte) layout {
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	l := layout{size: size}
	sh, ok := readTable(r, size, u64(h[40:]), u16(h[58:]), u16(h[60:]), 64)
	if !ok || len(sh)/64 > maxSections {
		return l
	}
	l.loads = []load{{size: size, mem: size}}
	for s := sh; len(s) >= 64; s = s[64:] {
		off, n := int64(u64(s[24:])), int64(u64(s[32:]))
		if off < 0 || n < 0 || off > size || n > size-off {
			off, n = 0, 0
		}
		l.sections = append(l.sections, section{off: off})
		reg := region{off: off, end: off + n}
		link, info := u32(s[40:]), u32(s[44:])
		switch typ := u32(s[4:]); {
		case n == 0:
			continue
		case typ == shtProgbits && u64(s[8:])&shfExec != 0:
			if l.code == 0 || off < l.codeLo {
				l.codeLo = off
			}
			l.code = max(l.code, off+n)
		case typ == shtRela && info < maxSections:
			reg.kind, reg.section = regionPatches, uint16(info)
		case typ == shtSymtab && l.syms == 0 && int64(link) < int64(len(sh)/64):
			reg.kind = regionSymbols
			l.syms, l.names = off, int64(u64(sh[link*64+24:]))
			l.readLocals(r, off, min(int64(info), n/symSize, maxLocals))
		default:
			continue
		}
		l.regions = append(l.regions, reg)
	}
	sectionNames(r, size, sh, int(u16(h[62:])), func(i int, name string, typ uint32, off, n int64) {
		l.sections[i].name = name
		switch {
		case isTypes(name, typ):
			l.addTypes(r, off, n)
		case name == "__versions" && typ == shtProgbits && n > 0:
			l.regions = append(l.regions, region{off: off, end: off + n/versionSize*versionSize, kind: regionVersions})
		}
	})
	l.sortRegions()
	return l
}

// readLocals reads the first n symbols.
func (l *layout) readLocals(r io.ReaderAt, off, n int64) {
	b := make([]byte, n*symSize)
	if readFull(r, b, off) != nil {
		return
	}
	for ; len(b) >= symSize; b = b[symSize:] {
		section := uint16(0)
		if b[4]&15 == symSection {
			section = binary.LittleEndian.Uint16(b[6:])
		}
		l.local = append(l.local, section)
	}
}

// versionSize is the size of an entry of __versions: a checksum in 8 bytes, and a name.
const versionSize = 64

// patchFields finds the fields of relocations: the place, the symbol, and the addend if the
// symbol is a section.
func (f *file) patchFields(fields []field, reg *region, off, from int64, b []byte) []field {
	to := from + int64(len(b))
	for p := align(from-23, reg.off, 24); p < to; p += 24 {
		if p >= from && p+8 <= to {
			fields = append(fields, field{off: uint32(p - off), kind: fieldPlace, section: reg.section})
		}
		if p+8 < from || p+16 > to {
			continue // its symbol is unknown
		}
		symbol := int64(binary.LittleEndian.Uint32(b[p+12-from:]))
		fields = append(fields, field{off: uint32(p + 12 - off), kind: fieldSym})
		if symbol < int64(len(f.local)) && f.local[symbol] != 0 && p+24 <= to {
			fields = append(fields, field{off: uint32(p + 16 - off), kind: fieldPlace, section: f.local[symbol]})
		}
	}
	return fields
}

// symbolFields finds the names and the values of symbols.
func (f *file) symbolFields(fields []field, reg *region, off, from int64, b []byte) []field {
	to := from + int64(len(b))
	for p := align(from-symSize+1, reg.off, symSize); p < to; p += symSize {
		if p >= from && p+4 <= to {
			fields = append(fields, field{off: uint32(p - off), kind: fieldName})
		}
		if p+6 < from || p+16 > to {
			continue
		}
		if section := binary.LittleEndian.Uint16(b[p+6-from:]); section != 0 && int(section) < len(f.sections) {
			fields = append(fields, field{off: uint32(p + 8 - off), kind: fieldPlace, section: section})
		}
	}
	return fields
}

// refer writes, for the search of matches, the name of what each relocation refers to in its
// place, where an object file has zeros.
func (f *file) refer(content, masked []byte) {
	for _, reg := range f.regions {
		if reg.kind != regionPatches || int(reg.section) >= len(f.sections) {
			continue
		}
		base := f.sections[reg.section].off
		for p := reg.off; p+24 <= reg.end; p += 24 {
			at := base + int64(binary.LittleEndian.Uint64(content[p:]))
			if at < base || at+4 > f.size {
				continue
			}
			symbol := int64(binary.LittleEndian.Uint32(content[p+12:]))
			binary.LittleEndian.PutUint32(masked[at:], crc32.ChecksumIEEE(f.symbolName(content, symbol)))
		}
	}
}

// symbolName returns the name of a symbol, or of the section that it is.
func (f *file) symbolName(content []byte, i int64) []byte {
	if i < int64(len(f.local)) && f.local[i] != 0 && int(f.local[i]) < len(f.sections) {
		return []byte(f.sections[f.local[i]].name)
	}
	at := f.syms + i*symSize
	if at < 0 || at+symSize > f.size {
		return nil
	}
	name := f.names + int64(binary.LittleEndian.Uint32(content[at:]))
	if name < 0 || name >= f.size {
		return nil
	}
	s, _, _ := bytes.Cut(content[name:min(name+256, f.size)], []byte{0})
	return s
}
