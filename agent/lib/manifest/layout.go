package manifest

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// MaxLayout bounds the number of paths in a layout. Each is a mount for each launch.
const MaxLayout = 32

// layoutParents are the directories in which packages can have a place of their own. The
// directory around that place is read-only for the program, so it must be one that programs do
// not write to: /var is not among them.
var layoutParents = []string{
	"/opt", "/etc", "/usr/games", "/usr/lib", "/usr/lib/*-linux-gnu*", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/share",
	"/usr/share/games", "/usr/local/etc", "/usr/local/games", "/usr/local/lib", "/usr/local/libexec", "/usr/local/share",
}

// layoutCommon are directories there that many packages share: to hide one breaks programs.
var layoutCommon = []string{
	"/etc/X11", "/etc/alternatives", "/etc/apparmor.d", "/etc/ca-certificates", "/etc/cron*", "/etc/cups", "/etc/dbus-1", "/etc/dconf",
	"/etc/default", "/etc/fonts", "/etc/init.d", "/etc/ld.so.conf.d", "/etc/logrotate.d", "/etc/pam.d", "/etc/polkit-1", "/etc/profile.d",
	"/etc/rc*.d", "/etc/security", "/etc/skel", "/etc/ssl", "/etc/sudoers.d", "/etc/systemd", "/etc/udev", "/etc/xdg",
	"/usr/lib/*-linux-gnu*", "/usr/lib/firmware", "/usr/lib/locale", "/usr/lib/modules", "/usr/lib/python3*", "/usr/lib/ssl",
	"/usr/lib/systemd", "/usr/lib/tmpfiles.d", "/usr/lib/udev", "/usr/share/X11", "/usr/share/applications", "/usr/share/ca-certificates",
	"/usr/share/dbus-1", "/usr/share/dconf", "/usr/share/fontconfig", "/usr/share/fonts", "/usr/share/games", "/usr/share/glib-2.0",
	"/usr/share/glvnd", "/usr/share/icons", "/usr/share/locale", "/usr/share/mime", "/usr/share/perl5", "/usr/share/pixmaps",
	"/usr/share/polkit-1", "/usr/share/sounds", "/usr/share/terminfo", "/usr/share/themes", "/usr/share/vulkan",
	"/usr/share/wayland-sessions", "/usr/share/xml", "/usr/share/xsessions", "/usr/share/zoneinfo",
	"/usr/lib/*-linux-gnu*/dri", "/usr/lib/*-linux-gnu*/gio", "/usr/lib/*-linux-gnu*/girepository-1.0", "/usr/lib/*-linux-gnu*/gconv",
	"/usr/lib/*-linux-gnu*/gtk-*", "/usr/lib/*-linux-gnu*/gdk-pixbuf-2.0", "/usr/lib/*-linux-gnu*/qt[56]",
}

// mergedLayout are directories whose entries are added to those of the host. Programs have no
// other way to find their translations (bindtextdomain(3)), and no common one for libraries of
// Java.
var mergedLayout = []string{"/usr/share/java", "/usr/share/locale"}

// MergesLayout reports whether a path of a layout shows the entries of the host, too.
func MergesLayout(at string) bool { return slices.Contains(mergedLayout, at) }

// AddsLayout reports whether a path of a layout shows what the host lacks there, and nothing
// else: the administrator's configuration counts.
func AddsLayout(at string) bool { return strings.HasPrefix(at, "/etc/") }

// CheckLayout checks one path of a layout: a path of the host, and the part of the package
// that a program finds there.
func CheckLayout(at, part string) error {
	if err := checkText(at, maxPath, ""); err != nil {
		return err
	}
	switch {
	case !strings.HasPrefix(at, "/"), path.Clean(at) != at:
		return errkind.Errorf("%.300q: want an absolute path without '.', '..' and a '/' at its end", at)
	case strings.ContainsAny(at, `,:\`):
		return errkind.Errorf("%.300q: a path with ',', ':' or '\\' cannot be mounted", at)
	case slices.ContainsFunc(strings.Split(at, "/"), func(c string) bool { return len(c) > maxComponent }):
		return errkind.Errorf("%.300q: a component has more than %d bytes", at, maxComponent)
	case !MergesLayout(at) && slices.ContainsFunc(layoutCommon, func(pattern string) bool { return matches(pattern, at) }):
		return errkind.Errorf("%s: other programs' files are there, too; name a directory in it", at)
	}
	// With a common directory as a parent, any name in it will do: the package has it alone.
	own := false
	for dir := path.Dir(at); dir != "/"; dir = path.Dir(dir) {
		own = own || slices.ContainsFunc(layoutParents, func(pattern string) bool { return matches(pattern, dir) })
	}
	if !own {
		return errkind.Errorf("%s: a package can have a place in %s", at, strings.Join(layoutParents, ", "))
	}
	if err := checkPath(part); err != nil {
		return errkind.Errorf("%s: part %q: %w", at, part, err)
	}
	return nil
}

func matches(pattern, p string) bool { ok, _ := path.Match(pattern, p); return ok }

func checkLayout(layout map[string]string) error {
	if len(layout) > MaxLayout {
		return errkind.Errorf("layout: %d paths, where %d are allowed", len(layout), MaxLayout)
	}
	sorted := slices.Sorted(maps.Keys(layout))
	for _, at := range sorted {
		if err := CheckLayout(at, layout[at]); err != nil {
			return errkind.Errorf("layout: %w", err)
		}
		for dir := path.Dir(at); dir != "/"; dir = path.Dir(dir) {
			if _, both := layout[dir]; both {
				return errkind.Errorf("layout: %s is below %s", at, dir)
			}
		}
	}
	return nil
}

// has reports whether a file, directory or symlink of the package has that path.
func (t tree) has(path string) bool {
	_, found := slices.BinarySearchFunc(t, path, func(e Entry, p string) int { return strings.Compare(e.Path, p) })
	if found || t.throughSymlink(path) {
		return true
	}
	// Directories have no entry of their own unless they are empty. Names that sort between
	// a directory and its entries, as "a-b", are skipped.
	i, _ := slices.BinarySearchFunc(t, path+"/", func(e Entry, p string) int { return strings.Compare(e.Path, p) })
	return i < len(t) && strings.HasPrefix(t[i].Path, path+"/")
}
