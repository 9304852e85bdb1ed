// Package gnuzip unpacks gzip files, and packs their content again as GNU gzip does, with
// identical bytes.
//
// A decoder of DEFLATE (RFC 1951) accepts any choice of matches, blocks and codes, so other
// compressors make other bytes of the same content. This one searches matches, ends blocks and
// builds codes in the way of GNU gzip 1.3 to 1.14 at the levels 4 to 9, which Debian's packages
// are made with (gzip -9n). A file that another program has made comes out different, which the
// caller finds by comparing.
//
// All functions are safe for concurrent use. Files are not trusted: what they make of memory is
// bounded, and malformed ones are errors.
package gnuzip
