package delta

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"slices"
)

// The parts of ELF that are used: see elf(5) and the System V ABI, AMD64 supplement.
const (
	etRel       = 1
	etExec      = 2
	emX8664     = 62
	emARM64     = 183
	ptLoad      = 1
	ptEhFrame   = 0x6474e550 // PT_GNU_EH_FRAME
	shtProgbits = 1
	shtSymtab   = 2
	shtRela     = 4
	shtDynsym   = 11
	shtInit     = 14         // and SHT_FINI_ARRAY
	shtUnwind   = 0x70000001 // SHT_X86_64_UNWIND
	shfWrite    = 1
	shfAlloc    = 2
	shfExec     = 4
	relocRel    = 8    // R_X86_64_RELATIVE
	relocRelARM = 1027 // R_AARCH64_RELATIVE

	maxHeaders = 1 << 16 // section and program headers
	maxNames   = 1 << 16 // bytes of the names of sections
	maxLoads   = 64      // PT_LOAD segments
	maxUnwind  = 32 << 20
	leastWord  = 4096 // smaller words are numbers, not addresses
)

// load is a range of a file that is loaded at an address.
type load struct {
	off, addr, size int64 // size in the file
	mem             int64 // size in memory
}

// regionKind is the kind of the content of a region.
type regionKind uint8

const (
	regionCode     regionKind = iota
	regionUnwind              // .eh_frame
	regionTypes               // the types of .BTF; since version 3
	regionVersions            // __versions of a module; since version 3
	regionSearch              // the table of .eh_frame_hdr
	regionRela                // Elf64_Rela entries
	regionSyms                // Elf64_Sym entries
	regionWords               // addresses at multiples of 8
	regionEntries             // a table of a kernel, with references of 32 bits; since version 3
	regionPatches             // Elf64_Rela entries of an object file; since version 3
	regionSymbols             // Elf64_Sym entries of an object file; since version 3
)

// isTable reports whether a region consists of fields, mostly. Masked, it would resemble any
// other.
func (k regionKind) isTable() bool { return k >= regionSearch }

// region is a range of a file whose fields are found in one way.
type region struct {
	off, end int64
	kind     regionKind
	section  uint16 // of an object file, that relocations are for
}

func (r region) moved(by int64) region {
	r.off, r.end = r.off+by, r.end+by
	return r
}

// layout is the structure of one file that is relevant for fields. The zero value belongs to
// a file without fields.
type layout struct {
	size         int64
	arm          bool   // it is for ARM64
	loads        []load // sorted by off; also by addr
	search       int64  // address of .eh_frame_hdr, or 0
	names, syms  int64  // addresses of .dynstr and .dynsym, or 0
	regions      []region
	types, texts region    // of .BTF: its types and its strings
	sections     []section // of an object file
	local        []uint16  // of an object file: the sections that its first symbols are
	codeLo, code int64     // range of addresses with code
	codeOff      int64     // the same in the file, for literals; empty without sections
	codeEnd      int64
	wordLo       int64 // least address of a word in regionWords
	wordHi       int64 // words below it are addresses, too: those of the kernel are negative
}

// relative returns the type of a relocation whose addend is an address.
func (l *layout) relative() uint32 {
	if l.arm {
		return relocRelARM
	}
	return relocRel
}

// readLayout reads the layout of a file. A file that is not a well-formed ELF file for x86-64 or
// ARM64 has no fields.
func readLayout(r io.ReaderAt, size int64, version int) layout {
	l := layout{size: size}
	h := make([]byte, 64)
	if size < 64 || readFull(r, h, 0) != nil || string(h[:6]) != "\x7fELF\x02\x01" {
		return l
	}
	switch binary.LittleEndian.Uint16(h[18:]) {
	case emX8664:
	case emARM64:
		if l.arm = version > 3 && binary.LittleEndian.Uint16(h[16:]) != etRel; !l.arm {
			return l
		}
	default:
		return l
	}
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	ph, ok := readTable(r, size, u64(h[32:]), u16(h[54:]), u16(h[56:]), 56)
	if !ok {
		return l
	}
	if version > 2 && u16(h[16:]) == etRel {
		return readObject(r, size, h)
	}
	for ; len(ph) >= 56; ph = ph[56:] {
		off, addr, n, mem := int64(u64(ph[8:])), int64(u64(ph[16:])), int64(u64(ph[32:])), int64(u64(ph[40:]))
		switch u32(ph) {
		case ptLoad:
			if !validLoad(off, addr, n, mem, size) || len(l.loads) == maxLoads {
				return layout{size: size}
			}
			l.loads = append(l.loads, load{off, addr, n, mem})
		case ptEhFrame:
			l.search = addr
		}
	}
	if !sortLoads(l.loads) {
		return layout{size: size}
	}
	sh, ok := readTable(r, size, u64(h[40:]), u16(h[58:]), u16(h[60:]), 64)
	if !ok {
		return l
	}
	if version > 2 {
		l.findNamed(r, sh, int(u16(h[62:])))
	}
	if len(l.loads) == 0 {
		return l
	}
	exec := u16(h[16:]) == etExec
	l.wordLo = max(l.loads[0].addr, leastWord)
	for s := sh; len(s) >= 64; s = s[64:] {
		if link := int64(u32(s[40:])) * 64; u32(s[4:]) == shtDynsym && link <= int64(len(sh))-64 {
			l.syms, l.names = int64(u64(s[16:])), int64(u64(sh[link+16:]))
		}
	}
	for ; len(sh) >= 64; sh = sh[64:] {
		if l.isKnown(int64(u64(sh[24:])), int64(u64(sh[32:]))) {
			continue
		}
		l.addSection(u32(sh[4:]), u64(sh[8:]), int64(u64(sh[16:])), int64(u64(sh[24:])), int64(u64(sh[32:])), exec)
	}
	l.sortRegions()
	return l
}

// entryTables are the sections of a kernel that have references of 32 bits, relative to
// themselves.
var entryTables = map[string]bool{"__ksymtab": true, "__ksymtab_gpl": true, "__bug_table": true, "__ex_table": true,
	".altinstructions": true, ".orc_unwind_ip": true, ".retpoline_sites": true, ".return_sites": true, ".smp_locks": true}

// findNamed adds the types and the tables of a kernel, which have names only.
func (l *layout) findNamed(r io.ReaderAt, sh []byte, index int) {
	sectionNames(r, l.size, sh, index, func(_ int, name string, typ uint32, off, n int64) {
		switch {
		case isTypes(name, typ):
			l.addTypes(r, off, n)
		case entryTables[name] && typ == shtProgbits && n > 0:
			l.regions = append(l.regions, region{off: off, end: off + n/4*4, kind: regionEntries})
		}
	})
}

// isKnown reports whether a section has a region already.
func (l *layout) isKnown(off, n int64) bool {
	return slices.ContainsFunc(l.regions, func(r region) bool {
		return (r.kind == regionTypes || r.kind == regionEntries) && off <= r.off && r.off < off+n
	})
}

// sortRegions sorts the regions. If some overlap there are none.
func (l *layout) sortRegions() {
	slices.SortFunc(l.regions, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	for i := range l.regions {
		if i > 0 && l.regions[i].off < l.regions[i-1].end {
			l.regions = nil
			return
		}
	}
}

// inside is the range of a file that may be an ELF file: all of it, or the content of blocks.
type inside struct{ off, size int64 }

// layoutIn reads the layout of a file of size bytes.
func layoutIn(r io.ReaderAt, size int64, in inside, version int) layout {
	l := readLayout(io.NewSectionReader(r, in.off, in.size), in.size, version)
	l.size = size
	for i := range l.loads {
		l.loads[i].off += in.off
	}
	for i := range l.regions {
		l.regions[i] = l.regions[i].moved(in.off)
	}
	l.types, l.texts = l.types.moved(in.off), l.texts.moved(in.off)
	l.codeOff, l.codeEnd = l.codeOff+in.off, l.codeEnd+in.off
	return l
}

// sectionNames calls do with the name of each section of a table that is in the file. Section
// number index has the names.
func sectionNames(r io.ReaderAt, size int64, sh []byte, index int, do func(i int, name string, typ uint32, off, n int64)) {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	if index >= len(sh)/64 {
		return
	}
	off, n := int64(u64(sh[index*64+24:])), int64(u64(sh[index*64+32:]))
	if off < 0 || n < 0 || off > size || n > min(size-off, maxNames) {
		return
	}
	names := make([]byte, n)
	if readFull(r, names, off) != nil {
		return
	}
	for i := 0; len(sh) >= 64; i, sh = i+1, sh[64:] {
		off, n := int64(u64(sh[24:])), int64(u64(sh[32:]))
		if off < 0 || n < 0 || off > size || n > size-off || int64(u32(sh)) >= int64(len(names)) {
			continue
		}
		if name, _, ok := bytes.Cut(names[u32(sh):], []byte{0}); ok {
			do(i, string(name), u32(sh[4:]), off, n)
		}
	}
}

// isTypes reports whether a section describes types.
func isTypes(name string, typ uint32) bool { return name == ".BTF" && typ == shtProgbits }

// addTypes adds the types of a section .BTF, the first one.
func (l *layout) addTypes(r io.ReaderAt, off, n int64) {
	if l.types.end > 0 {
		return
	}
	if l.types, l.texts = btfTypes(r, off, n); l.types.end > l.types.off {
		l.regions = append(l.regions, l.types)
	}
}

func validLoad(off, addr, n, mem, size int64) bool {
	const most = 1 << 62
	return off >= 0 && n >= 0 && off <= size && n <= size-off && mem >= n && mem < most && addr > -most && addr < most
}

// sortLoads sorts segments, and reports whether they are disjoint in the file.
func sortLoads(loads []load) bool {
	slices.SortFunc(loads, func(a, b load) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(loads); i++ {
		if loads[i].off < loads[i-1].off+loads[i-1].size {
			return false
		}
	}
	return true
}

// readTable reads a table of headers. Its absence is no error.
func readTable(r io.ReaderAt, size int64, off uint64, entry, n uint16, want int) ([]byte, bool) {
	if n == 0 || off == 0 {
		return nil, true
	}
	length := int64(n) * int64(want)
	if int(entry) != want || off > uint64(size) || length > size-int64(off) {
		return nil, false
	}
	b := make([]byte, length)
	return b, readFull(r, b, int64(off)) == nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (l *layout) addSection(typ uint32, flags uint64, addr, off, n int64, exec bool) {
	if off < 0 || n <= 0 || off > l.size || n > l.size-off {
		return
	}
	kind := regionWords
	switch {
	case typ == shtDynsym:
		kind = regionSyms
	case flags&shfAlloc == 0:
		return
	case typ == shtRela:
		kind = regionRela
	case typ != shtProgbits && typ != shtUnwind && typ&^1 != shtInit:
		return
	case flags&shfExec != 0:
		kind = regionCode
		if l.code == 0 || addr < l.codeLo {
			l.codeLo = addr
		}
		if l.codeEnd == 0 || off < l.codeOff {
			l.codeOff = off
		}
		l.codeEnd = max(l.codeEnd, off+n)
		l.code = max(l.code, addr+n)
	case l.search != 0 && addr == l.search:
		// version, three encodings, pointer to .eh_frame, count: then pairs.
		if n < 12 {
			return
		}
		kind, off, n = regionSearch, off+12, (n-12)/8*8
	case l.search != 0 && off > 0 && typ == shtUnwind, typ == shtProgbits && l.follows(addr):
		kind = regionUnwind
		if n > maxUnwind || slices.ContainsFunc(l.regions, func(r region) bool { return r.kind == regionUnwind }) {
			return
		}
	case !exec && flags&shfWrite == 0:
		return
	}
	if n > 0 {
		l.regions = append(l.regions, region{off: off, end: off + n, kind: kind})
	}
}

// follows reports whether a section without a type of its own is .eh_frame: it begins right
// after the table that .eh_frame_hdr ends with, up to its alignment.
func (l *layout) follows(addr int64) bool {
	if l.search == 0 || len(l.regions) == 0 {
		return false
	}
	last := l.regions[len(l.regions)-1]
	if last.kind != regionSearch {
		return false
	}
	end, ok := l.addr(last.end - 1)
	return ok && addr > end && addr <= end+16
}

// addr returns the address at which an offset of the file is loaded.
func (l *layout) addr(off int64) (int64, bool) {
	for i := range l.loads {
		s := &l.loads[i]
		if off >= s.off && off < s.off+s.size {
			return s.addr + off - s.off, true
		}
	}
	return 0, false
}

// offset returns the offset of an address, or, of one that is in memory only, the end of its
// segment in the file.
func (l *layout) offset(addr int64) (int64, bool) {
	for i := range l.loads {
		s := &l.loads[i]
		if addr >= s.addr && addr < s.addr+s.mem {
			return s.off + min(addr-s.addr, max(s.size-1, 0)), true
		}
	}
	return 0, false
}

// mapped reports whether an address is loaded.
func (l *layout) mapped(addr int64) bool {
	for i := range l.loads {
		if s := &l.loads[i]; addr >= s.addr && addr < s.addr+s.mem {
			return true
		}
	}
	return false
}
