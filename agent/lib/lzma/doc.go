// Package lzma codes streams in the format .lzma ("LZMA alone") of the LZMA SDK, which xz
// reads and writes with --format=lzma. Streams always have a known size and no end marker.
//
// Words: a literal is a byte that is coded by itself. A match is a range that repeats one at a
// distance before it. A repetition is a match at one of the last four distances. A price is the
// number of bits that a symbol takes, in sixteenths.
//
// Encode has all of its input in memory. It searches the cheapest sequence of symbols, which is
// slow (about 2 MB/s), for content that is compressed once and fetched often. A Reader needs the
// dictionary and a quarter more, and does not trust its input: each read is bounded, and a malformed
// stream is an error.
//
// Go libraries search no cheapest sequence: of 24 MB of Debian's shared libraries,
// github.com/ulikunitz/xz makes 4,260,960 bytes, zstd -19 3,987,550, xz -6 3,445,643 and
// Encode 3,431,929.
//
// Encode is safe for concurrent use, since calls share nothing. A Reader belongs to one goroutine.
package lzma
