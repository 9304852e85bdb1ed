// Package deflate unpacks gzip files and members of zip archives, and packs their content again
// with identical bytes.
//
// A decoder of DEFLATE (RFC 1951) accepts any choice of matches, blocks and codes, so compressors
// make different bytes of the same content. A Variant is a program and a level of it. This package
// searches matches, ends blocks and builds codes in the way of three programs, which have a common
// ancestor:
//
//   - GNU gzip 1.3 to 1.14 (Debian's packages have files of gzip -9n);
//   - zip 3.0 of Info-ZIP;
//   - zlib 1.2 and 1.3, which Python's zipfile, Java's jar and most other programs use, with its
//     default amount of memory (8) and with the largest one (9, of Perl's Archive::Zip).
//
// The output for the content of another compressor differs, which the caller finds by comparing.
//
// A Writer belongs to one goroutine. All functions are safe for concurrent use. Files are not
// trusted: their use of memory is bounded, and malformed ones are errors.
package deflate
