// Package site makes the web page of a repository: static files that need no server and no
// script, and an AppStream catalogue beside them.
//
// Words: the site is a directory of this machine. An application is a package of the
// repository, by the newest version of one of its channels that is not halted. A picture is an
// icon or screenshot of a package.
//
// All content comes from signed metadata and from files of packages, whose hashes are verified.
// Texts of packages are hostile: they are bounded, and html/template writes them; addresses are
// links only if they are http or https. Pictures are decoded, reduced and encoded by this
// program; SVG pictures keep only elements and attributes that neither run nor load anything.
// A Content-Security-Policy in each page forbids scripts, frames and content of other servers.
// A file of a package that cannot be used is left out and reported; it does not stop the rest.
//
// Equal repositories and options make equal files. The site is written to a directory beside
// the old one, and the two are exchanged in one step. Applications are read a few at a time, so
// that memory does not grow with their pictures and texts.
//
// Make keeps no state between calls. Two that make the same site exclude each other by the
// repository's storage only if it is a directory; the last one to finish wins. Each blocks on
// the storage until its context ends.
package site
