package delta

import "encoding/binary"

// Code for ARM64 has instructions of 32 bits, of which an address is a part. ADRP loads the
// address of a page of 4 KiB, and a later instruction adds the offset in it. See the Arm
// Architecture Reference Manual, C4.1.

// A value of these fields is all bits of the instruction, in another order: the address is in the
// low bits, and above it are the bits that are no address, 20 at most. So instructions that differ
// in more than the address come back, too.
const (
	addressBits = 43
	addressMask = 1<<addressBits - 1
	pageBits    = 12
	pageMask    = 1<<pageBits - 1

	branchMask = 1<<26 - 1            // of the words to a target
	adrpMask   = 3<<29 | (1<<19-1)<<5 // of the pages to a target
	lowMask    = 1<<12 - 1            // of the offset in a page, after a shift by lowShift
	lowShift   = 10
)

// isARM reports whether a field is in an instruction for ARM64.
func (k fieldKind) isARM() bool { return k >= fieldBranch && k <= fieldLow }

// address returns the bits of an instruction that are an address.
func (k fieldKind) address() uint32 {
	switch k {
	case fieldBranch:
		return branchMask
	case fieldPage:
		return adrpMask
	}
	return lowMask << lowShift
}

// rest returns the bits that are no address, without gaps.
func (k fieldKind) rest(w uint32) uint64 {
	switch k {
	case fieldBranch:
		return uint64(w >> 26)
	case fieldPage:
		return uint64(w>>31<<10 | w>>24&0x1f<<5 | w&0x1f)
	}
	return uint64(w>>22<<10 | w&(1<<lowShift-1))
}

// withRest is the inverse of rest.
func (k fieldKind) withRest(rest uint64) uint32 {
	r := uint32(rest)
	switch k {
	case fieldBranch:
		return r << 26
	case fieldPage:
		return r>>10<<31 | r>>5&0x1f<<24 | r&0x1f
	}
	return r>>10<<22 | r&(1<<lowShift-1)
}

// scale returns by how many bits the offset of an instruction is shifted.
func scale(w uint32) uint {
	const loadStore, vector, wide = 1 << 27, 1 << 26, 1 << 23
	switch {
	case w&loadStore == 0:
		return 0
	case w&vector != 0 && w&wide != 0:
		return 4
	}
	return uint(w >> 30)
}

// armTarget is target of a field of ARM64. Base is, of a fieldPage, the offset in the page that
// a later instruction adds, and of a fieldLow the page.
func (k fieldKind) armTarget(w uint32, at, base int64) int64 {
	var to int64
	switch k {
	case fieldBranch:
		to = at + int64(int32(w<<6))>>4
	case fieldPage:
		to = (at&^pageMask + int64(int32((w>>5<<2&^3|w>>29&3)<<11))>>11<<12) | base
	default:
		to = base + int64(w>>lowShift&lowMask)<<scale(w)
	}
	return int64(k.rest(w)<<addressBits) | to&addressMask
}

// armPut is put of a field of ARM64.
func (k fieldKind) armPut(b []byte, target, at int64) {
	w := k.withRest(uint64(target) >> addressBits)
	switch k {
	case fieldBranch:
		w |= uint32((target-at)>>2) & branchMask
	case fieldPage:
		pages := uint32((target&^pageMask - at&^pageMask) >> 12)
		w |= pages&3<<29 | pages>>2&(1<<19-1)<<5
	default:
		w |= uint32(target>>scale(w)) & lowMask << lowShift
	}
	binary.LittleEndian.PutUint32(b, w)
}

// The instructions of which fields are found.
func isBranch(w uint32) bool { return w&0x7c000000 == 0x14000000 } // B, BL
func isADRP(w uint32) bool   { return w&0x9f000000 == 0x90000000 } // of a page
func isAdd(w uint32) bool    { return w&0xffc00000 == 0x91000000 } // ADD of an immediate, 64 bits
func isAccess(w uint32) bool { return w&0x3b000000 == 0x39000000 } // load or store with an offset
func isBL(w uint32) bool     { return w>>31 == 1 && isBranch(w) }

// armReach is how many instructions after an ADRP its page is remembered.
const armReach = 16

// armFields finds the addresses in code for ARM64. What is not decoded may change a register
// that is taken to have a page: a wrong field costs little, since its prediction is corrected as
// any other.
func (f *file) armFields(fields []field, off, at int64, b []byte) []field {
	var pages [32]struct {
		page  int64
		index int // of the field of the ADRP
		until int // in b; 0 if the register has no page
	}
	for i := int(-at & 3); i+4 <= len(b); i += 4 {
		w, p := binary.LittleEndian.Uint32(b[i:]), uint32(off+int64(i))
		switch {
		case isBranch(w):
			if to := fieldBranch.armTarget(w, at+int64(i), 0) & addressMask; to >= f.codeLo && to < f.code {
				fields = append(fields, field{off: p, kind: fieldBranch})
			}
			if isBL(w) {
				clear(pages[:19]) // X0 to X18 are the callee's
			}
		case isADRP(w):
			page := fieldPage.armTarget(w, at+int64(i), 0) & addressMask
			if !f.mapped(page) && !f.mapped(page|pageMask) {
				continue
			}
			r := &pages[w&31]
			r.page, r.index, r.until = page, len(fields), i+4*armReach
			fields = append(fields, field{off: p, kind: fieldPage})
		case isAdd(w), isAccess(w):
			r := &pages[w>>5&31]
			if r.until >= i && r.until > 0 {
				low := int64(w>>lowShift&lowMask) << scale(w)
				if x := &fields[r.index]; x.section == 0 && low <= pageMask {
					x.section = uint16(low)
				}
				fields = append(fields, field{off: p, kind: fieldLow, page: uint32(r.page >> pageBits)})
			}
			if isAdd(w) {
				pages[w&31].until = 0
			}
		}
	}
	return fields
}

// armFilter is filter for ARM64: of code whose first instruction begins after skip bytes.
func armFilter(b []byte, at uint32, skip int, sign int32) {
	for i := skip; i+4 <= len(b); i += 4 {
		if w := binary.LittleEndian.Uint32(b[i:]); isBL(w) {
			to := w&branchMask + uint32(sign)*((at+uint32(i))>>2)
			binary.LittleEndian.PutUint32(b[i:], w&^branchMask|to&branchMask)
		}
	}
}
