// Package unpack reads archives of other packagers: Debian packages, tarballs, zip
// files, AppImages of type 2 and container images. It runs in the converter alone, without
// privileges.
//
// Words: a tree is the union of the contents of all inputs; a later input replaces files of
// an earlier one. A remark is a line for people about content that was made harmless. A layer
// is a tar archive of a container image: files over those of the layers before it, and
// whiteouts, which remove files of the layers before it (OCI image specification).
//
// Refused, with the path: names that are absolute, have "..", are not UTF-8 or too
// long; entries below a symlink or below a file; more entries, bytes or depth than the
// bounds allow. Made harmless, with a remark: devices, fifos and sockets (left out),
// set-user-id bits, file capabilities (dropped), symlinks that leave the package (left
// out, or made relative where the target is in the package), two names that differ by
// case only (kept).
//
// A Tree belongs to one goroutine. Contents go to the stream while they are read; only
// small files that describe the package are kept in memory.
package unpack
