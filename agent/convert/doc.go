// Package convert turns files of other packagers into package sources: a directory
// with a lull.yaml beside the package's files.
//
// Words: the converter is the program lull-convert. It has no privileges, reads files
// that it must not trust from descriptors, and writes one stream. Content means the bytes of
// a regular file. A description is the result that the converter derived: the launch part of
// a manifest, the entries, and remarks for people.
//
// The stream has the contents first, in the order of the input, and the description
// last, so that the converter reads each input once and keeps no file in memory:
//
//	lull-convert VERSION\n
//	content SIZE READ\n SIZE bytes   any number of times; after each 4 MiB of a content that
//	                                 has more: read READ\n
//	done SIZE\n         SIZE bytes   the description in JSON, once, at the end
//
// READ is how many bytes of the input the converter has read, for the display of progress, also
// within one large file.
//
// Contents have numbers, from 1, instead of paths: the receiver creates no path before
// it has checked the whole description with the rules of a manifest.
//
// A conversion blocks until the converter ends. The package keeps no state.
package convert
