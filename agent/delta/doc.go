// Package delta codes a set of files as their differences from another set.
//
// Words: old and new files are two lists. Each list is one range of offsets, its files one
// after the other. A match is a range of the new files that resembles a range of the old
// ones. A field is a reference inside an ELF file for x86-64 or ARM64: a displacement of an
// instruction, an address in a table. A literal is a byte of the new files that no match
// covers. A group is a part of the lists that is coded by itself, so that memory is bounded.
//
// When code moves, all references to it change. So fields are masked while matches are
// searched. For each field of a match, the address that it referred to in the old file is
// looked up in the list of matches: the place of the referenced bytes in the new file gives
// the predicted value. Only wrong predictions are coded, each by its difference, and a wrong
// one corrects later predictions of the same address.
//
// Kernels and their modules have more of them. An object file has no addresses: its references
// are relative to sections, whose places in the new file are coded as fields. Types have numbers
// that are the same in a kernel and in all modules: how they have changed is coded once, as runs.
//
// The format of a pack:
//
//	"LULLDLT5"            magic and version
//	length of the header  32 bits, little-endian
//	header                zstd, see header
//	streams               zstd or LZMA, in the order of the groups; see the constants of streams
//
// All numbers inside are variable-length integers of encoding/binary.
//
// A decoder reads old files in blocks by ReadAt. Its memory is the matches of one group that
// predict (12 bytes each), a cache of blocks, and a window for each stream: less than 32 MiB. Of
// groups without old files, two are decoded at once, each in about 11 MiB; a block of LZ4 takes
// 8 MiB more, an archive 1 MiB. It does not trust a pack: all lengths are bounded before they are used, and each
// operation produces output, whose size is bounded by the header. Its caller verifies the
// hash of each file.
//
// Encode and Decode are safe for concurrent use, since they share nothing.
package delta
