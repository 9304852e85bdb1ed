// Package desktops tests lull on real desktops in containers: GNOME Shell, Plasma
// and sway, when LULL_DESKTOPS=1 asks for them.
//
// The oracle about an application is not lull's: the program itself (marks)
// writes a line when it starts and when it ends. The desktop is queried for
// what it shows, with a screenshot in the directory that LULL_PICTURES
// names.
package desktops
