package derive

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// library matches the triplet of a directory of libraries, which depends on the machine.
const library = "*-linux-gnu*"

// listed are the lists of directories in which programs look for parts, and the directories of
// a package of Debian that belong to them. A directory counts if it has an entry that
// matches contents.
var listed = []struct{ name, dir, contents string }{
	{"PATH", "usr/bin", "*"},
	{"PATH", "usr/games", "*"},
	{"LD_LIBRARY_PATH", "usr/lib/" + library, "*.so*"},
	{"LD_LIBRARY_PATH", "usr/lib", "*.so*"},
	{"LD_LIBRARY_PATH", "usr/lib64", "*.so*"},
	{"LD_LIBRARY_PATH", "lib/" + library, "*.so*"},
	{"LD_LIBRARY_PATH", "usr/local/lib", "*.so*"},
	{"XDG_DATA_DIRS", "usr/share", "*"},
	{"XDG_DATA_DIRS", "usr/local/share", "*"},
	{"XDG_CONFIG_DIRS", "etc/xdg", "*"},
	{"GI_TYPELIB_PATH", "usr/lib/" + library + "/girepository-1.0", "*.typelib"},
	{"GST_PLUGIN_PATH", "usr/lib/" + library + "/gstreamer-1.0", "*.so"},
	{"QT_PLUGIN_PATH", "usr/lib/" + library + "/qt5/plugins", "*"},
	{"QT_PLUGIN_PATH", "usr/lib/" + library + "/qt6/plugins", "*"},
	{"QML2_IMPORT_PATH", "usr/lib/" + library + "/qt5/qml", "*"},
	{"QML_IMPORT_PATH", "usr/lib/" + library + "/qt6/qml", "*"},
	{"BABL_PATH", "usr/lib/" + library + "/babl-*", "*.so"},
	{"GEGL_PATH", "usr/lib/" + library + "/gegl-*", "*.so"},
	{"PYTHONPATH", "usr/lib/python3/dist-packages", "*"},
	{"PERL5LIB", "usr/share/perl5", "*"},
}

// imageLoaders is the directory of gdk-pixbuf's loaders. The launcher lists them for it.
const imageLoaders = "usr/lib/" + library + "/gdk-pixbuf-2.0/*/loaders"

// silent are entries of usr/share that no program looks for by XDG_DATA_DIRS.
var silent = []string{"bug", "doc", "doc-base", "info", "lintian", "man", "menu", "perl5"}

// places derives the environment and the layout by which programs find the parts of their
// package. An AppImage has a program for that.
func (d *deriver) places(l *manifest.Launch) {
	if d.tree.App != nil {
		return
	}
	found := map[string]bool{} // dir and contents
	var layout []string
	loaders := ""
	for _, p := range d.tree.Paths() {
		dir := path.Dir(p)
		for _, e := range listed {
			if matches(e.dir, dir) && matches(e.contents, path.Base(p)) && (dir != "usr/share" || !slices.Contains(silent, path.Base(p))) {
				found[e.name+" "+dir] = true
			}
		}
		if matches(imageLoaders, dir) && path.Ext(p) == ".so" {
			loaders = dir
		}
		if n := d.tree.Nodes[p]; n.Type == manifest.TypeDir && (d.mentioned(p) || d.configures(p) || manifest.MergesLayout("/"+p) && d.names(p)) {
			layout = append(layout, p)
		}
	}
	for _, e := range listed {
		for _, key := range slices.Sorted(maps.Keys(found)) {
			name, dir, _ := strings.Cut(key, " ")
			if name != e.name || !matches(e.dir, dir) {
				continue
			}
			if l.Environment == nil {
				l.Environment = map[string]manifest.Variable{}
			}
			v := l.Environment[name]
			v.Prepend = append(v.Prepend, "${package}/"+dir)
			l.Environment[name] = v
			delete(found, key)
		}
	}
	if loaders != "" {
		if l.Environment == nil {
			l.Environment = map[string]manifest.Variable{}
		}
		l.Environment["GDK_PIXBUF_MODULEDIR"] = manifest.Variable{Value: "${package}/" + loaders}
	}
	for _, p := range d.closed(layout) {
		if len(l.Layout) == manifest.MaxLayout {
			d.tree.Remark("%s: programs look for it at /%s, and the layout has %d paths already", p, p, manifest.MaxLayout)
			continue
		}
		if l.Layout == nil {
			l.Layout = map[string]string{}
		}
		l.Layout["/"+p] = p
	}
}

// placesOfPackages are the directories in which packages of Debian have a directory of their own.
var placesOfPackages = []string{"opt", "usr/lib", "usr/lib/" + library, "usr/libexec", "usr/share", "usr/share/games", "usr/local/lib", "usr/local/libexec", "usr/local/share"}

// translations is the directory of gettext's catalogs, a path that is compiled into programs.
const translations = "usr/share/locale"

// mentioned reports whether a directory is the package's own one and a program of the package
// has its absolute path, or a part of it and the name.
func (d *deriver) mentioned(dir string) bool {
	if !slices.ContainsFunc(placesOfPackages, func(pattern string) bool { return matches(pattern, path.Dir(dir)) }) ||
		path.Dir(dir) == "usr/share" && slices.Contains(silent, path.Base(dir)) || manifest.MergesLayout("/"+dir) || manifest.CheckLayout("/"+dir, dir) != nil {
		return false
	}
	if d.names(dir) {
		return true
	}
	// Many programs put the directory of all data, or their prefix, which the compiler may have
	// made a number, and their own name together. If they have the path of translations, they
	// were compiled for fixed places.
	parent := path.Dir(dir)
	fixed := d.tree.Mentions["/"+parent] || parent == path.Dir(translations) && d.tree.Mentions["/"+translations] || strings.HasPrefix(parent, "usr/") && d.tree.Mentions["/usr"]
	return fixed && d.hasProgram(path.Base(dir))
}

// configures reports whether a directory has configuration of the package's own, which a program
// of it reads by its path.
func (d *deriver) configures(dir string) bool {
	return path.Dir(dir) == "etc" && manifest.CheckLayout("/"+dir, dir) == nil && d.names(dir)
}

// names reports whether a program of the package has the absolute path of a directory, or of
// something in it.
func (d *deriver) names(dir string) bool {
	for m := range d.tree.Mentions {
		if rest, ok := strings.CutPrefix(m, "/"+dir); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// closed returns a layout in which symlinks lead to parts of the package. A symlink from a
// directory of the layout to another part of the package is resolved where the directory is
// shown. So that part is added to the layout, or else copied in place of the symlink.
func (d *deriver) closed(layout []string) []string {
	for i := 0; i < len(layout); i++ {
		for _, p := range d.tree.Paths() {
			n := d.tree.Nodes[p]
			if n.Type != manifest.TypeSymlink || !strings.HasPrefix(p, layout[i]+"/") {
				continue
			}
			to := path.Join(path.Dir(p), n.Symlink)
			if d.tree.Resolve(to) == nil || slices.ContainsFunc(layout, func(dir string) bool { return to == dir || strings.HasPrefix(to, dir+"/") }) {
				continue
			}
			if own := d.own(to); own != "" && len(layout) < manifest.MaxLayout {
				layout = append(layout, own)
			} else if !d.tree.Inline(p) {
				d.tree.Remark("%s: it leads to %s, where the package is not shown", p, to)
			}
		}
	}
	slices.Sort(layout)
	return layout
}

// own returns the directory of the package's own with a path in it, or "" if that is in a
// directory of many packages.
func (d *deriver) own(p string) string {
	for dir := p; dir != "."; dir = path.Dir(dir) {
		n := d.tree.Nodes[dir]
		if n != nil && n.Type == manifest.TypeDir && !slices.Contains(silent, path.Base(dir)) && manifest.CheckLayout("/"+dir, dir) == nil &&
			slices.ContainsFunc(placesOfPackages, func(pattern string) bool { return matches(pattern, path.Dir(dir)) }) {
			return dir
		}
	}
	return ""
}

// hasProgram reports whether a directory has the name of a program of the package, or the beginning
// of it before a '-', as qalculate of qalculate-gtk, or that of a desktop file or on the bus.
func (d *deriver) hasProgram(dir string) bool {
	return slices.ContainsFunc(d.apps, func(a manifest.App) bool {
		rest, ok := strings.CutPrefix(path.Base(a.Command[0]), dir)
		return ok && (rest == "" || rest[0] == '-') || a.DBusName == dir || a.Desktop != "" && path.Base(a.Desktop) == dir+".desktop"
	})
}

func matches(pattern, p string) bool { ok, _ := path.Match(pattern, p); return ok }
