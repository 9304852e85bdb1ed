// Package units has no code: the folder holds what is installed beside the
// programs. The end of a file's name says where it goes (see install); package/ has
// what turns an installed tree into packages for dpkg and rpm.
package units
