// Package apt reads apt repositories (sources.list(5), the Debian repository format): it
// finds the newest versions of packages and fetches them.
//
// Words: a source is one line of a sources.list. A release is a verified InRelease file.
// An index is a Packages file, which a release names with its hash. A package here is a
// .deb file of a source.
//
// Trust: the InRelease file is verified by OpenPGP (RFC 9580) against the keys of the source
// alone, before a field of it is read. Indices and packages are trusted by their SHA-256. The
// caller keeps the date of the release that was accepted last; an older one is refused. A
// release is used until its Valid-Until. Without that field, users have no protection from a
// server that withholds new releases.
//
// A hostile server can only make calls fail. Memory-safe code of bounded size reads the
// release and the keys before they are verified. A panic in it is an error. An index is
// decompressed after its hash is verified. The content of packages is not read here.
//
// All calls block on the network until their context ends. A Client keeps no state and may be
// used from any goroutine.
package apt
