// Package suite makes root file systems of Debian's suites, for containers and
// machines.
//
// Words:
//
//   - a Suite is a release of Debian by its code name; Default is the one that
//     tests use unless they need something else
//   - a Set is the packages of a root beyond the base, such as a desktop
//   - a root is a directory with a root file system. It is made once, kept in
//     the user's cache directory under a name with the hash of its
//     ingredients, and only read from then on
//
// Packages come from the mirror that the host's apt uses, over the host's
// settings of apt. Making a root needs root, debootstrap and apt; every function
// may be called from several processes at a time, which take turns.
package suite

import (
	"fmt"
	"os"
	"time"
)

// Suite is a release of Debian, or an archive of its updates such as trixie-security.
type Suite string

// The suites. Bookworm (systemd 252) is the last one with cgroup v1; Trixie has
// systemd 257, and Sid the newest one.
const (
	Bookworm Suite = "bookworm"
	Trixie   Suite = "trixie"
	Sid      Suite = "sid"
)

// All are the suites, oldest first.
var All = []Suite{Bookworm, Trixie, Sid}

// Default is the suite of tests that need no other: what LULL_SUITE names, or
// Trixie.
func Default() Suite {
	if s := Suite(os.Getenv("LULL_SUITE")); s != "" {
		return s
	}
	return Trixie
}

// For returns the suite for a machine with cgroup v2 alone, or else for one that
// has v1, which only Bookworm's systemd uses without being forced to.
func For(unified bool) Suite {
	if !unified {
		return Bookworm
	}
	return Default()
}

// V1 reports whether the suite's systemd runs on cgroup v1 and on both at once.
func (s Suite) V1() bool { return s == Bookworm }

// edition is a part of a root's name: a root of a suite that changes every day
// is re-made every week.
func (s Suite) edition(now time.Time) string {
	if s != Sid {
		return string(s)
	}
	year, week := now.UTC().ISOWeek()
	return fmt.Sprintf("%s-%dw%02d", s, year, week)
}

// Tester is the ordinary user of every root. His systemd manager runs from boot
// on.
const Tester = "tester"

// Set is what a root has beyond the base.
type Set struct {
	Name     string
	Packages []string
	Setup    string // a shell script that is run in the root at the end, as root
}

// Base is a system with sessions, and a desktop small enough to show notices on.
var Base = Set{Name: "base"}

// basePackages are what every root has beyond Debian's minimum.
var basePackages = []string{
	"systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "polkitd", "udev", "procps",
	"xvfb", "dunst", "imagemagick", "xdotool", "librsvg2-common", "fonts-dejavu-core", "libglib2.0-bin", "bsdutils", "util-linux",
}

// baseSetup is run in every new root.
const baseSetup = `set -e
useradd --create-home --uid 1000 --shell /bin/bash ` + Tester + `
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/` + Tester + `
systemctl mask getty.target console-getty.service systemd-udevd.service systemd-networkd.service systemd-timesyncd.service >/dev/null 2>&1
`

// lastSetup is run at the end of all.
const lastSetup = `set -e
apt-get clean
rm -rf /var/lib/apt/lists/*
`

// RPM has the tools of the other kind of package.
var RPM = Set{Name: "rpm", Packages: []string{"rpm"}}

// Everyday has programs that start others later or elsewhere, and some that read all
// files: those of desktops, and of a command line.
var Everyday = Set{Name: "everyday", Packages: []string{"cron", "at", "tmux", "screen", "plocate", "localsearch", "baloo6"}}

// NFS has the kernel's server and client of the network file system.
var NFS = Set{Name: "nfs", Packages: []string{"nfs-kernel-server", "nfs-common", "kmod"}}

// Xfce is Xfce's session manager, on an X server that has no screen.
var Xfce = Set{Name: "xfce", Packages: []string{"xfce4-session", "xfwm4", "dbus-x11"}}

// GNOME is GNOME Shell without a display manager.
var GNOME = Set{Name: "gnome", Packages: []string{
	"gnome-shell", "mutter", "gsettings-desktop-schemas", "gnome-settings-daemon-common", "adwaita-icon-theme", "dbus-x11", "fonts-dejavu-core", "librsvg2-common",
	"libgtk-3-bin", "xdg-desktop-portal", "shared-mime-info", "desktop-file-utils", "xdg-utils",
}}

// Plasma is Plasma without a display manager, on an X server that has no screen.
var Plasma = Set{Name: "plasma", Packages: []string{
	"plasma-desktop", "plasma-workspace", "kwin-wayland", "kde-cli-tools", "qt6-wayland", "breeze", "breeze-icon-theme", "xwayland", "dbus-x11",
	"fonts-dejavu-core", "libgl1-mesa-dri", "openbox", "xterm", "xdotool", "imagemagick", "shared-mime-info", "desktop-file-utils", "xdg-utils",
}}

// Sway is sway with two notification servers and a program that takes pictures.
var Sway = Set{Name: "sway", Packages: []string{
	"sway", "mako-notifier", "sway-notification-center", "grim", "dbus-x11", "fonts-dejavu-core", "libgl1-mesa-dri", "adwaita-icon-theme", "foot",
	"libgtk-3-bin", "shared-mime-info", "desktop-file-utils", "xdg-utils",
}}

// Sets are all of them.
var Sets = []Set{Base, RPM, Everyday, NFS, Xfce, GNOME, Plasma, Sway}
