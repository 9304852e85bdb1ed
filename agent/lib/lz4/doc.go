// Package lz4 unpacks LZ4 frames of the legacy format (lz4 -l, as Linux images have them), and
// packs their content again with identical bytes.
//
// Words: a block is up to 8 MiB of content that is compressed by itself. A sequence is some
// literals and a match after them. A note is how the sequences of a block differ from those that
// the compressor of this package chooses.
//
// The compressor searches matches as lz4 -9 does (hash chains of 256 positions, three matches
// compared with each other), so notes are small for blocks that lz4 -9 has made. For other
// blocks they are larger, and still lead to the same bytes.
//
// All functions are safe for concurrent use. Content and notes are not trusted: lengths are
// checked, and malformed ones are errors.
package lz4
