package manifest

import (
	"path"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// Data is how the package's data is kept.
type Data struct {
	// Import are the places of an existing profile that the first run copies: paths below
	// the host's base directories, as "config/thing". Only with XDG.
	Import    []string `json:"import,omitempty" yaml:"import,omitempty"`
	Versioned bool     `json:"versioned,omitempty" yaml:"versioned,omitempty"` // one directory per revision
	XDG       bool     `json:"xdg,omitempty" yaml:"xdg,omitempty"`             // programs have base directories in the data
}

// IsZero reports whether a manifest has no key data.
func (d Data) IsZero() bool { return len(d.Import) == 0 && !d.Versioned && !d.XDG }

// BaseDirs are the base directories of the XDG Base Directory Specification that a package
// with XDG data gets: name → variable.
var BaseDirs = map[string]string{
	"cache": "XDG_CACHE_HOME", "config": "XDG_CONFIG_HOME", "data": "XDG_DATA_HOME", "state": "XDG_STATE_HOME",
}

// A Shared is a file or directory in a base directory that belongs to the desktop, not to one
// application.
type Shared struct {
	Path string // base directory and name, as "config/dconf"
	File bool
	// Make makes the directory where it is missing: applications write to it, and the desktop
	// reads it.
	Make bool
}

// DesktopOwn are the files and directories of the desktop. A package with XDG data finds the
// host's: its theme and fonts, its bookmarks and default applications, the database of
// settings, autostart and the trash. GTK's list of recent files is not among them: each program
// replaces that file as a whole.
var DesktopOwn = []Shared{
	{Path: "cache/fontconfig"}, {Path: "cache/thumbnails"},
	{Path: "config/autostart", Make: true}, {Path: "config/dconf", Make: true}, {Path: "config/fcitx"}, {Path: "config/fcitx5"},
	{Path: "config/fontconfig"}, {Path: "config/gtk-2.0"}, {Path: "config/gtk-3.0", Make: true}, {Path: "config/gtk-4.0", Make: true},
	{Path: "config/ibus"}, {Path: "config/kdedefaults"}, {Path: "config/Kvantum"}, {Path: "config/lxqt"}, {Path: "config/menus"},
	{Path: "config/pulse"}, {Path: "config/qt5ct"}, {Path: "config/qt6ct"}, {Path: "config/systemd"}, {Path: "config/xfce4"},
	{Path: "config/xsettingsd"},
	{Path: "config/QtProject.conf", File: true}, {Path: "config/Trolltech.conf", File: true}, {Path: "config/breezerc", File: true},
	{Path: "config/gnome-mimeapps.list", File: true}, {Path: "config/kcminputrc", File: true}, {Path: "config/kde-mimeapps.list", File: true},
	{Path: "config/kdeglobals", File: true}, {Path: "config/kioslaverc", File: true}, {Path: "config/kwalletrc", File: true},
	{Path: "config/mimeapps.list", File: true}, {Path: "config/plasma-localerc", File: true}, {Path: "config/user-dirs.dirs", File: true},
	{Path: "config/user-dirs.locale", File: true}, {Path: "config/xfce-mimeapps.list", File: true},
	{Path: "data/RecentDocuments"}, {Path: "data/Trash", Make: true}, {Path: "data/applications"}, {Path: "data/color-schemes"},
	{Path: "data/desktop-directories"}, {Path: "data/fonts"}, {Path: "data/gvfs-metadata"}, {Path: "data/icc"}, {Path: "data/icons"},
	{Path: "data/keyrings"}, {Path: "data/kwalletd"}, {Path: "data/mime"}, {Path: "data/plasma"}, {Path: "data/sounds"},
	{Path: "data/themes"},
	{Path: "data/user-places.xbel", File: true},
}

// MaxImport bounds the places of an existing profile.
const MaxImport = 64

// CheckImport checks one place of an existing profile.
func CheckImport(p string) error {
	if err := checkPath(p); err != nil {
		return errkind.Errorf("%.300q: %w", p, err)
	}
	base, rest, below := strings.Cut(p, "/")
	if base != "config" && base != "data" && base != "state" || !below {
		return errkind.Errorf("%.300q: want a path below config, data or state, as config/thing", p)
	}
	if base == "data" && within(rest, "lull") {
		return errkind.Errorf("%.300q: this is lull's own data", p)
	}
	for _, s := range DesktopOwn {
		if within(p, s.Path) {
			return errkind.Errorf("%.300q: %s belongs to the desktop; programs find the host's", p, s.Path)
		}
	}
	return nil
}

func checkData(l *Launch) error {
	d := l.Data
	if !d.XDG {
		if len(d.Import) > 0 {
			return errkind.Errorf("data: import needs xdg")
		}
		return nil
	}
	for _, variable := range BaseDirs {
		if _, both := l.Environment[variable]; both {
			return errkind.Errorf("environment: %s is set by data: xdg", variable)
		}
	}
	if len(d.Import) > MaxImport {
		return errkind.Errorf("data: import: %d places, where %d are allowed", len(d.Import), MaxImport)
	}
	for i, p := range d.Import {
		if err := CheckImport(p); err != nil {
			return errkind.Errorf("data: import: %w", err)
		}
		for _, other := range d.Import[:i] {
			if within(p, other) || within(other, p) {
				return errkind.Errorf("data: import: %s and %s are in each other", other, p)
			}
		}
	}
	return nil
}

// DefaultImport lists the places at which programs with the names of a package usually have
// their profile: a directory of that name, or a file as NAME.conf or NAMErc.
func DefaultImport(l *Launch) (list []string) {
	names := []string{l.Name}
	for _, a := range l.Apps {
		names = append(names, a.Name, path.Base(a.Command[0]), strings.TrimSuffix(path.Base(a.Desktop), ".desktop"), a.DBusName)
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, l.Title) }) {
		names = append(names, l.Title) // as Mousepad of mousepad
	}
	for _, n := range names {
		for _, p := range []string{"config/" + n, "config/" + n + ".conf", "config/" + n + "rc", "data/" + n, "state/" + n} {
			if n != "" && n != "." && len(list) < MaxImport && CheckImport(p) == nil && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}
