package exports

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/manifest"
)

// Files at usual places are exported without being named in lull.yaml: further desktop files,
// icons of the theme hicolor, MIME types, completions, manual pages, AppStream metadata, search providers and
// thumbnailers. A file that cannot be exported is left out and refuses nothing: its name
// belongs to another instance or to the system, it is not the package's, or the file is
// damaged.

// shareDirs are the directories of a package with usual places.
var shareDirs = []string{"share", "usr/share", "usr/local/share"}

// The bounds of the files at usual places of a package.
const (
	maxUsual      = 1000
	maxUsualBytes = 32 << 20
	maxDirectory  = 5000 // entries that are read of a directory
)

// systemDirs have the shared files of the system, which win over exported ones.
var systemDirs = []string{"/usr/local/share", "/usr/share"}

var (
	fileName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_+@][A-Za-z0-9_.+@-]{0,199}$`) })
	iconSize = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(scalable|symbolic|[0-9]{1,4}x[0-9]{1,4}(@[0-9])?)$`)
	})
	section  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^man[1-9]$`) })
	language = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z]{2,3}([_@.][A-Za-z0-9_@.-]{1,20})?$`) })
	manPage  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(.+)\.([1-9][a-z0-9]*)(\.gz)?$`) })
)

// usual is a file at a usual place.
type usual struct{ dir, name string } // of the package; a base name

func (u usual) path() string { return u.dir + "/" + u.name }

// list returns the files with a suffix in a directory of the package, sorted. Hidden files and
// names of unusual characters are left out.
func (p *planner) list(dir string, suffixes ...string) (files []usual) {
	for _, name := range p.names(dir) {
		if fileName().MatchString(name) && slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }) {
			files = append(files, usual{dir, name})
		}
	}
	return files
}

// names returns the sorted names in a directory of the package, at most maxDirectory.
func (p *planner) names(dir string) []string {
	d, err := p.pkg.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(maxDirectory)
	if err != nil && !errors.Is(err, io.EOF) {
		p.leave(dir, err)
	}
	slices.Sort(names)
	return names
}

// leave records a file that is left out.
func (p *planner) leave(file string, err error) {
	p.left = append(p.left, LeftOut{file, err})
}

// put adds a file at a usual place to the files to export.
func (p *planner) put(name string, u usual, change func([]byte) ([]byte, error)) {
	content, err := readInside(p.pkg, u.path())
	if err == nil {
		content, err = change(content)
	}
	switch {
	case err != nil:
	case p.usuals == maxUsual || p.bytes+len(content) > maxUsualBytes:
		err = fmt.Errorf("the package has more than %d such files, or %d bytes of them", maxUsual, maxUsualBytes)
	case slices.ContainsFunc(p.files, func(f file) bool { return f.name == name }):
		return // the first one counts
	}
	if err != nil {
		p.leave(u.path(), err)
		return
	}
	p.usuals, p.bytes = p.usuals+1, p.bytes+len(content)
	p.files = append(p.files, file{name: name, content: content, perm: 0o644, mimes: mimesOf(name, content), optional: true})
}

// usualFiles adds the files at usual places, those of the apps' desktop files excepted.
func (p *planner) usualFiles() {
	for _, share := range shareDirs {
		for _, u := range p.list(share+"/applications", ".desktop") {
			if !p.isDesktop(u.path()) {
				p.put(filepath.Join(appDir, p.stem(u.name, ".desktop")+".desktop"), u, func(b []byte) ([]byte, error) {
					return p.desktop(nil, p.stem(u.name, ".desktop"), b)
				})
			}
		}
	}
	for _, share := range shareDirs {
		p.manuals(share + "/man")
		p.completions(share)
		for _, dir := range []string{share + "/metainfo", share + "/appdata"} {
			for _, u := range p.list(dir, ".metainfo.xml", ".appdata.xml") {
				p.put(filepath.Join(metainfoDir, u.name), u, p.metainfo(u.name))
			}
		}
		for _, u := range p.list(share+"/gnome-shell/search-providers", ".ini") {
			p.put(filepath.Join(searchDir, u.name), u, p.searchProvider)
		}
		for _, u := range p.list(share+"/thumbnailers", ".thumbnailer") {
			p.put(filepath.Join(thumbnailDir, u.name), u, p.thumbnailer)
		}
	}
}

// isDesktop reports whether an app names a desktop file.
func (p *planner) isDesktop(file string) bool {
	return slices.ContainsFunc(p.m.Apps, func(a manifest.App) bool { return a.Desktop == file || a.Autostart == file })
}

// own reports whether a name is the package's: that of an app, a program, a desktop file, a bus
// name or the package, or one that continues it after '-' or '.'.
func (p *planner) own(name string) bool {
	is := func(id string) bool {
		rest, ok := strings.CutPrefix(name, id)
		return id != "" && ok && (rest == "" || rest[0] == '-' || rest[0] == '.')
	}
	return is(p.m.Name) || slices.ContainsFunc(p.m.Apps, func(a manifest.App) bool {
		return is(a.Name) || is(path.Base(programOf(&a))) || is(a.DBusName) || is(strings.TrimSuffix(path.Base(a.Desktop), ".desktop"))
	})
}

// icons adds the icons of the theme hicolor that belong to the package: their names are its
// own, or a desktop file has them.
func (p *planner) icons() {
	named := map[string]bool{}
	note := func(file string) {
		content, err := readInside(p.pkg, file)
		if err != nil {
			return
		}
		if f, err := desktopentry.Parse(content, desktopentry.Main); err == nil {
			icon := f.Value(desktopentry.Main, "Icon")
			named[icon], named[icon+"-symbolic"] = true, true
		}
	}
	for _, a := range p.m.Apps {
		note(a.Desktop)
		note(a.Autostart)
	}
	for _, share := range shareDirs {
		for _, u := range p.list(share+"/applications", ".desktop") {
			note(u.path())
		}
	}
	free := map[string]bool{}
	for _, share := range shareDirs {
		theme := share + "/icons/hicolor"
		for _, size := range p.names(theme) {
			if !iconSize().MatchString(size) {
				continue
			}
			for _, u := range append(p.list(theme+"/"+size+"/apps", iconExts...), p.list(theme+"/"+size+"/mimetypes", iconExts...)...) {
				context := path.Base(u.dir)
				icon := strings.TrimSuffix(u.name, path.Ext(u.name))
				if context == "apps" && !named[icon] && !p.own(icon) || context == "mimetypes" && !p.types[icon] {
					continue
				}
				if _, known := free[icon]; !known {
					free[icon] = p.iconIsFree(icon)
				}
				if !free[icon] {
					p.leave(u.path(), errors.New("the system or another application has an icon of that name"))
					continue
				}
				before := len(p.files)
				p.put(filepath.Join(themeDir, size, context, u.name), u, image(path.Ext(u.name)))
				p.themed[icon] = p.themed[icon] || len(p.files) > before
			}
		}
	}
}

// iconExts are the formats of the icon theme specification.
var iconExts = []string{".png", ".svg", ".xpm"}

// iconIsFree reports whether neither the system nor another instance has an icon of that name
// in the theme, in any size.
func (p *planner) iconIsFree(icon string) bool {
	for _, dir := range p.system {
		for _, ext := range iconExts {
			if found, err := filepath.Glob(filepath.Join(dir, "icons/hicolor/*/*", icon+ext)); err != nil || found != nil {
				return false
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, owner := range p.owners {
		if owner != p.instance && strings.HasPrefix(name, themeDir+"/") && strings.TrimSuffix(path.Base(name), path.Ext(name)) == icon {
			return false
		}
	}
	return true
}

// image accepts the content of an icon with a file name extension.
func image(ext string) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		ok := bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n"))
		switch ext {
		case ".svg":
			ok = bytes.Contains(b, []byte("<svg"))
		case ".xpm":
			ok = bytes.HasPrefix(b, []byte("/* XPM */"))
		}
		if !ok {
			return nil, fmt.Errorf("it is no image of the type %s", ext)
		}
		return b, nil
	}
}

// manuals adds the manual pages below a directory, also translated ones. man(1) finds them
// because the directory of the wrappers is in PATH.
func (p *planner) manuals(dir string) {
	for _, name := range p.names(dir) {
		switch {
		case section().MatchString(name):
			p.section(dir, name)
		case language().MatchString(name):
			for _, sub := range p.names(dir + "/" + name) {
				if section().MatchString(sub) {
					p.section(dir, name+"/"+sub)
				}
			}
		}
	}
}

func (p *planner) section(dir, sub string) {
	for _, u := range p.list(dir+"/"+sub, "") {
		m := manPage().FindStringSubmatch(u.name)
		if m == nil || m[2][0] != sub[len(sub)-1] {
			continue
		}
		if !p.own(m[1]) {
			p.leave(u.path(), errors.New("its name is not the package's"))
			continue
		}
		p.put(filepath.Join(manDir, sub, u.name), u, func(b []byte) ([]byte, error) { return b, nil })
	}
}

// metainfo checks AppStream metadata: the id of the component has to be the package's.
func (p *planner) metainfo(name string) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		var c struct {
			XMLName xml.Name `xml:"component"`
			ID      string   `xml:"id"`
		}
		if err := xml.Unmarshal(b, &c); err != nil {
			return nil, err
		}
		if id := strings.TrimSuffix(strings.TrimSpace(c.ID), ".desktop"); !p.own(id) {
			return nil, fmt.Errorf("its component %.80q is not the package's", id)
		}
		if p.systemHas("metainfo/" + name) {
			return nil, errors.New("the system has a file of that name")
		}
		return b, nil
	}
}

// searchProvider checks a search provider of GNOME Shell: its desktop file and its bus name
// have to be exported ones of the package.
func (p *planner) searchProvider(b []byte) ([]byte, error) {
	const group = "Shell Search Provider"
	f, err := desktopentry.Parse(b, group)
	if err != nil {
		return nil, err
	}
	id, name := f.Value(group, "DesktopId"), f.Value(group, "BusName")
	if !slices.ContainsFunc(p.files, func(f file) bool { return f.name == filepath.Join(appDir, id) }) {
		return nil, fmt.Errorf("its DesktopId %.80q is no desktop file of the package", id)
	}
	if !slices.ContainsFunc(p.m.Apps, func(a manifest.App) bool { return a.DBusName == name && p.hasBusName(&a) }) {
		return nil, fmt.Errorf("its BusName %.80q is started by no dbus-service of the package", name)
	}
	return b, nil
}

// thumbnailer rewrites a thumbnailer.
func (p *planner) thumbnailer(b []byte) ([]byte, error) {
	f, err := desktopentry.Parse(b, desktopentry.Thumbnailer)
	if err != nil {
		return nil, err
	}
	if f.Value(desktopentry.Thumbnailer, "Exec") == "" || f.Value(desktopentry.Thumbnailer, "MimeType") == "" {
		return nil, errors.New("it has no Exec or no MimeType")
	}
	if err := f.RewriteExec(p.programs(nil)); err != nil {
		return nil, err
	}
	p.tryExec(nil, f, desktopentry.Thumbnailer)
	return f.Bytes(), nil
}
