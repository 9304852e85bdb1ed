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

// busName matches well-known names (D-Bus specification, "Bus names").
var busName = regexp.MustCompile(`^[A-Za-z_-][A-Za-z0-9_-]*(\.[A-Za-z_-][A-Za-z0-9_-]*)+$`)

// busNames gives apps the names by which the session bus starts them.
func (d *deriver) busNames() {
	paths := d.files("dbus-1/services", ".service")
	// An app has one name. The name of a desktop file comes first: it activates the app.
	slices.SortStableFunc(paths, func(a, b string) int {
		rank := func(p string) int {
			id := strings.TrimSuffix(path.Base(p), ".service")
			if slices.ContainsFunc(d.list, func(f *desktop) bool { return f.id() == id }) {
				return 0
			}
			return 1
		}
		return cmp.Compare(rank(a), rank(b))
	})
	for _, p := range paths {
		name, program, err := d.busService(d.tree.Resolve(p))
		if err == nil && path.Base(p) != name+".service" {
			err = fmt.Errorf("its Name is %.80q", name)
		}
		var a *manifest.App
		if err == nil {
			a, err = d.appOf(program, name, func(a *manifest.App) bool { return a.DBusName == "" })
		}
		if err != nil {
			d.tree.Remark("%s: this bus name is left out: %s", p, err)
			continue
		}
		a.DBusName, a.DBusService = name, d.tree.Resolve(p).Path
	}
}

// named returns the program that the session bus starts under a name, a path in the package.
func (d *deriver) named(name string) (string, error) {
	if d.unattended {
		return "", fmt.Errorf("the bus name %.255q has to be confirmed", name)
	}
	for _, p := range d.files("dbus-1/services", name+".service") {
		if found, program, err := d.busService(d.tree.Resolve(p)); err == nil && found == name {
			return program, nil
		}
	}
	return "", fmt.Errorf("no program with the bus name %.255q is in the package", name)
}

// busService returns the name and the program of a D-Bus service file.
func (d *deriver) busService(n *unpack.Node) (name, program string, err error) {
	f, err := desktopentry.Parse(n.Kept, desktopentry.DBusService)
	if err != nil {
		return "", "", err
	}
	name = f.Value(desktopentry.DBusService, "Name")
	switch {
	case !busName.MatchString(name) || len(name) > 255:
		return "", "", fmt.Errorf("its Name %.80q is no bus name", name)
	case f.Value(desktopentry.DBusService, "Exec") == "":
		return "", "", errors.New("it has no Exec")
	}
	err = f.RewriteExec(desktopentry.Programs{Find: func(p string) (string, error) {
		if program = d.find(p); program == "" {
			return "", fmt.Errorf("%.200q is not in the package", p)
		}
		return p, nil
	}})
	return name, program, err
}

// autostarts gives apps the desktop files that are started at log-in.
func (d *deriver) autostarts() {
	for _, p := range d.files("xdg/autostart", ".desktop") {
		n := d.tree.Resolve(p)
		found, _, err := d.desktopApp(n)
		var a *manifest.App
		if err == nil {
			a, err = d.appOf(found.Command[0], strings.TrimSuffix(path.Base(p), ".desktop"), func(a *manifest.App) bool { return a.Autostart == "" })
		}
		if err != nil {
			d.tree.Remark("%s: this autostart file is left out: %s", p, err)
			continue
		}
		a.Autostart = n.Path
	}
}

// files lists the kept files with a suffix in directories that end in dir, sorted.
func (d *deriver) files(dir, suffix string) (paths []string) {
	for _, p := range d.tree.Paths() {
		if strings.HasSuffix(path.Dir(p), dir) && strings.HasSuffix(p, suffix) {
			if n := d.tree.Resolve(p); n != nil && n.Kept != nil {
				paths = append(paths, p)
			}
		}
	}
	return paths
}

// appOf returns an app with the program that is free, or a new one. The new one has the name of
// the program, or other.
func (d *deriver) appOf(program, other string, free func(*manifest.App) bool) (*manifest.App, error) {
	target := d.tree.Resolve(program)
	for i := range d.apps {
		if a := &d.apps[i]; free(a) && d.tree.Resolve(a.Command[0]) == target {
			return a, nil
		}
	}
	name := path.Base(program)
	if d.hasApp(name) {
		name = other
	}
	switch {
	case d.hasApp(name) || !appName.MatchString(name):
		return nil, fmt.Errorf("%.80q cannot be the name of its app", name)
	case len(d.apps) == maxApps:
		return nil, fmt.Errorf("the package has more than %d commands", maxApps)
	}
	d.apps = append(d.apps, manifest.App{Name: name, Command: []string{program}})
	return &d.apps[len(d.apps)-1], nil
}
