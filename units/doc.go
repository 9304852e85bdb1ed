// Package units has no code: the directory has the files that are installed
// beside the programs. The end of a file's name determines its destination
// (see install); package/ has the scripts that turn an installed tree into
// packages for dpkg and rpm.
package units
