// Package debian converts programs of GNOME and KDE as Debian packages them, exports them, and
// checks the exports by the programs of desktops. Nothing of the packages runs.
package debian
