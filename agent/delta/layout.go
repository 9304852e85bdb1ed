package delta

import (
	"cmp"
	"encoding/binary"
	"io"
	"slices"
)

// The parts of ELF that are used: see elf(5) and the System V ABI, AMD64 supplement.
const (
	etExec      = 2
	emX8664     = 62
	ptLoad      = 1
	ptEhFrame   = 0x6474e550 // PT_GNU_EH_FRAME
	shtProgbits = 1
	shtRela     = 4
	shtDynsym   = 11
	shtInit     = 14         // and SHT_FINI_ARRAY
	shtUnwind   = 0x70000001 // SHT_X86_64_UNWIND
	shfWrite    = 1
	shfAlloc    = 2
	shfExec     = 4
	relocRel    = 8 // R_X86_64_RELATIVE

	maxHeaders = 1 << 16 // section and program headers
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
	regionCode   regionKind = iota
	regionUnwind            // .eh_frame
	regionSearch            // the table of .eh_frame_hdr
	regionRela              // Elf64_Rela entries
	regionSyms              // Elf64_Sym entries
	regionWords             // addresses at multiples of 8
)

// isTable reports whether a region consists of fields, mostly. Masked, it would resemble any
// other.
func (k regionKind) isTable() bool { return k >= regionSearch }

// region is a range of a file whose fields are found in one way.
type region struct {
	off, end int64
	kind     regionKind
}

// layout is the structure of one file that is relevant for fields. The zero value belongs to
// a file without fields.
type layout struct {
	size         int64
	loads        []load // sorted by off; also by addr
	search       int64  // address of .eh_frame_hdr, or 0
	names, syms  int64  // addresses of .dynstr and .dynsym, or 0
	regions      []region
	codeLo, code int64 // range of addresses with code
	codeOff      int64 // the same in the file, for literals; empty without sections
	codeEnd      int64
	wordLo       int64 // least address of a word in regionWords
	wordHi       int64 // words below it are addresses, too: those of the kernel are negative
}

// readLayout reads the layout of a file. A file that is not a well-formed ELF file for x86-64
// has no fields.
func readLayout(r io.ReaderAt, size int64) layout {
	l := layout{size: size}
	h := make([]byte, 64)
	if size < 64 || readFull(r, h, 0) != nil || string(h[:6]) != "\x7fELF\x02\x01" || binary.LittleEndian.Uint16(h[18:]) != emX8664 {
		return l
	}
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	ph, ok := readTable(r, size, u64(h[32:]), u16(h[54:]), u16(h[56:]), 56)
	if !ok {
		return l
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
	if !ok || len(l.loads) == 0 {
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
		l.addSection(u32(sh[4:]), u64(sh[8:]), int64(u64(sh[16:])), int64(u64(sh[24:])), int64(u64(sh[32:])), exec)
	}
	slices.SortFunc(l.regions, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	for i := range l.regions { // of overlapping ones, the first
		if i > 0 && l.regions[i].off < l.regions[i-1].end {
			l.regions = nil
			break
		}
	}
	return l
}

// inside is the range of a file that may be an ELF file: all of it, or the content of blocks.
type inside struct{ off, size int64 }

// layoutIn reads the layout of a file of size bytes.
func layoutIn(r io.ReaderAt, size int64, in inside) layout {
	l := readLayout(io.NewSectionReader(r, in.off, in.size), in.size)
	l.size = size
	for i := range l.loads {
		l.loads[i].off += in.off
	}
	for i := range l.regions {
		l.regions[i].off += in.off
		l.regions[i].end += in.off
	}
	l.codeOff, l.codeEnd = l.codeOff+in.off, l.codeEnd+in.off
	return l
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
		l.regions = append(l.regions, region{off, off + n, kind})
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
