package derive

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/manifest"
)

// commandDirs are the directories of a package's programs, relative to its root or to its
// only top directory.
var commandDirs = []string{"usr/bin", "bin", "usr/local/bin", "usr/games"}

// appName matches the names of apps that a manifest accepts.
var appName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$`)

// desktops makes an app from each desktop file whose program is in the package.
func (d *deriver) desktops() {
	paths := slices.DeleteFunc(d.tree.Paths(), func(p string) bool { return !strings.HasSuffix(p, ".desktop") })
	// Of several desktop files for one program, the one of the AppStream component
	// counts, else the one in the menus with the shortest name: the others start a part of
	// it.
	slices.SortStableFunc(paths, func(a, b string) int {
		return cmp.Or(cmp.Compare(d.rank(a), d.rank(b)), cmp.Compare(len(a), len(b)))
	})
	for _, p := range paths {
		if strings.HasSuffix(path.Dir(p), "xdg/autostart") || d.tree.App != nil && p != d.tree.Chosen || d.tree.App == nil && path.Dir(p) == "." {
			continue
		}
		n := d.tree.Resolve(p)
		if n == nil || n.Kept == nil {
			continue
		}
		app, file, err := d.desktopApp(n)
		if err != nil {
			d.tree.Remark("%s: this menu entry is left out: %s", p, err)
			continue
		}
		if d.hasApp(app.Name) {
			if d.tree.App != nil || !slices.Contains(menuDirs, path.Dir(p)) {
				d.tree.Remark("%s: this menu entry is left out: another one starts %s", p, app.Name)
			}
			continue // exported from its usual place
		}
		app.Desktop = n.Path
		d.list = append(d.list, &desktop{n.Path, file})
		d.apps = append(d.apps, app)
	}
}

// menuDirs are the directories whose desktop files are exported without an app of their own.
var menuDirs = []string{"usr/share/applications", "share/applications", "usr/local/share/applications"}

// rank orders desktop files: 0 for that of the AppStream component, 1 for one in the menus, 2
// for others.
func (d *deriver) rank(p string) int {
	if d.stream != nil && strings.TrimSuffix(path.Base(p), ".desktop") == strings.TrimSuffix(d.stream.ID, ".desktop") {
		return 0
	}
	if n := d.tree.Resolve(p); n != nil && n.Kept != nil {
		if f, err := desktopentry.Parse(n.Kept, desktopentry.Main); err == nil && f.Value(desktopentry.Main, "NoDisplay") == "true" {
			return 2
		}
	}
	return 1
}

// desktopApp is the app of one desktop file.
func (d *deriver) desktopApp(n *unpack.Node) (a manifest.App, f *desktopentry.File, err error) {
	if f, err = desktopentry.Parse(n.Kept, desktopentry.Main); err != nil {
		return a, nil, err
	}
	if err := f.CheckApplication(); err != nil {
		return a, nil, err
	}
	first := ""
	var programs []string
	try, err := desktopentry.Parse(n.Kept, desktopentry.Main) // RewriteExec changes it
	if err == nil {
		err = try.RewriteExec(desktopentry.Programs{Find: func(program string) (string, error) {
			if first == "" {
				first = program
			}
			if d.tree.App != nil || d.find(program) != "" {
				programs = append(programs, d.find(program))
				return program, nil
			}
			return "", fmt.Errorf("%.200q is not in the package", program)
		}, Named: func(busName string) (string, error) {
			program, err := d.named(busName)
			if first == "" && err == nil {
				first = "/" + program
			}
			return program, err
		}})
	}
	switch {
	case err != nil:
		return a, nil, err
	case first == "":
		return a, nil, errors.New("it has no Exec")
	}
	a.Name = path.Base(first)
	a.Command = []string{d.find(first)}
	if d.tree.App != nil {
		a.Command = []string{"AppRun"}
	}
	if !appName.MatchString(a.Name) {
		return a, nil, fmt.Errorf("its program %.80q cannot be the name of a command", a.Name)
	}
	if d.tree.App == nil {
		d.others = append(d.others, programs...)
	}
	return a, f, nil
}

// find returns the path in the package of a program that an Exec line names, or "".
func (d *deriver) find(program string) string {
	if inside, ok := strings.CutPrefix(program, "/"); ok {
		return d.executable(inside)
	}
	if strings.Contains(program, "/") {
		return ""
	}
	for _, dir := range d.commandDirs() {
		if p := d.executable(path.Join(dir, program)); p != "" {
			return p
		}
	}
	return ""
}

// executable returns p if it is a program of the package, or a symlink to one.
func (d *deriver) executable(p string) string {
	if n := d.tree.Resolve(p); n == nil || !n.Exec || n.Type == manifest.TypeDir {
		return ""
	}
	return path.Clean(p)
}

// commandDirs returns the existing directories of commands in the package.
func (d *deriver) commandDirs() []string {
	prefixes := []string{""}
	if top := d.top(); top != "" {
		prefixes = append(prefixes, top)
	}
	var dirs []string
	for _, prefix := range prefixes {
		for _, dir := range commandDirs {
			if p := path.Join(prefix, dir); d.tree.Nodes[p] != nil {
				dirs = append(dirs, p)
			}
		}
	}
	return dirs
}

// top returns the only entry of the root if that is a directory, or "".
func (d *deriver) top() string {
	top := ""
	for p, n := range d.tree.Nodes {
		if strings.Contains(p, "/") {
			continue
		}
		if top != "" || n.Type != manifest.TypeDir {
			return ""
		}
		top = p
	}
	return top
}

// programs makes an app from each command without a desktop file: from those in the
// directories of commands, else from those at the top.
func (d *deriver) programs() {
	if d.tree.App != nil {
		if len(d.apps) == 0 {
			d.apps = append(d.apps, manifest.App{Name: "AppRun", Command: []string{"AppRun"}})
		}
		return
	}
	dirs := d.commandDirs()
	if len(dirs) == 0 && len(d.apps) == 0 {
		dirs = []string{"."}
		if top := d.top(); top != "" {
			dirs = []string{top}
		}
	}
	var found []string
	for _, p := range d.tree.Paths() {
		if slices.Contains(dirs, path.Dir(p)) && d.executable(p) != "" {
			found = append(found, p)
		}
	}
	for _, p := range append(found, d.others...) {
		base := path.Base(p)
		switch {
		case d.hasApp(base) || d.started(p):
		case !appName.MatchString(base):
			d.tree.Remark("%s: it cannot be the name of a command", p)
		case len(d.apps) == maxApps:
			d.tree.Remark("%s: the package has more than %d commands; this one is left out", p, maxApps)
		default:
			d.apps = append(d.apps, manifest.App{Name: base, Command: []string{p}})
		}
	}
}

// started reports whether an app has that program.
func (d *deriver) started(p string) bool {
	return slices.ContainsFunc(d.apps, func(a manifest.App) bool { return a.Command[0] == p })
}

// iconDirs are the directories of icons, the best first: themes' sizes, then pixmaps.
var iconDirs = func() (dirs []string) {
	for _, d := range []string{"scalable", "512x512", "256x256", "128x128", "96x96", "64x64", "48x48", "pixmaps", ".", "32x32"} {
		for _, share := range []string{"usr/share", "share"} {
			switch d {
			case ".":
				dirs = append(dirs, d)
			case "pixmaps":
				dirs = append(dirs, share+"/pixmaps")
			default:
				dirs = append(dirs, share+"/icons/hicolor/"+d+"/apps")
			}
		}
	}
	return dirs
}()

// icon returns the icon of a desktop file: a path in the package, else the theme's name.
func (d *deriver) icon(icon string) string {
	if inside, ok := strings.CutPrefix(icon, "/"); ok {
		if n := d.tree.Resolve(inside); n != nil && n.Content != 0 {
			return n.Path
		}
		return ""
	}
	for _, dir := range iconDirs {
		for _, ext := range []string{".svg", ".png", ".xpm"} {
			if n := d.tree.Resolve(path.Join(dir, strings.TrimSuffix(icon, ext)+ext)); n != nil && n.Content != 0 && n.Size <= 4<<20 && path.Ext(n.Path) == ext {
				return n.Path
			}
		}
	}
	if strings.Contains(icon, "/") {
		return ""
	}
	return icon
}
