package exports

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// file is a file to export.
type file struct {
	name     string // relative to exports/
	content  []byte
	perm     os.FileMode
	mimes    []string // of a desktop file
	optional bool     // left out if another instance has it
}

func (e *Exports) write(f file) error {
	if old, err := os.ReadFile(e.path(f.name)); err == nil && bytes.Equal(old, f.content) {
		return nil
	}
	e.dirs.RLock() // no directory is removed meanwhile
	defer e.dirs.RUnlock()
	if err := durable.MkdirAll(filepath.Dir(e.path(f.name)), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(e.path(f.name), f.content, f.perm)
}

// Wrapper returns the name of an application's wrapper. It is the instance itself for the
// application that `lull run` starts, so that it keeps its name when the package gains
// another one. Otherwise it is <instance>.<application>.
func Wrapper(instance string, m *manifest.Launch, app string) string {
	if app == m.DefaultApp() {
		return instance
	}
	return instance + "." + app
}

// WrapperPath returns the path of the wrapper of an application.
func (e *Exports) WrapperPath(instance string, m *manifest.Launch, app string) string {
	return e.path(filepath.Join(binDir, Wrapper(instance, m, app)))
}

// DesktopID returns the exported name of an application's desktop file, without ".desktop",
// or "" if it has none. It is the package's own name of it. Portals, startup notification and
// D-Bus activation depend on that name. A keyed instance appends its key, and has no bus
// names.
func DesktopID(instance string, a *manifest.App) string {
	if a == nil || a.Desktop == "" {
		return ""
	}
	return stem(instance, a.Desktop, ".desktop")
}

// stem returns the name of a package's file without ext, and with the key of the instance.
func stem(instance, file, ext string) string {
	name := strings.TrimSuffix(path.Base(file), ext)
	if _, key := manifest.SplitInstance(instance); key != "" {
		name += "_" + key
	}
	return name
}

// plan returns the exports of a package as an instance. Problems are those of the files that
// lull.yaml names, of kind Invalid; files with a problem are left out of files. An err is a
// read error.
func (e *Exports) plan(instance string, m *manifest.Launch, dir string) (files []file, problems, err error) {
	p, err := e.planned(instance, m, dir)
	if err != nil {
		return nil, nil, err
	}
	return p.files, errors.Join(p.problems...), errors.Join(p.errs...)
}

func (e *Exports) planned(instance string, m *manifest.Launch, dir string) (*planner, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	p := &planner{Exports: e, instance: instance, m: m, pkg: root, themed: map[string]bool{}, types: map[string]bool{}}
	p.mimeTypes()
	p.icons()
	for i := range m.Apps {
		p.app(&m.Apps[i])
	}
	p.short()
	if isFile(m.Icon) {
		p.add(iconDir+"/"+filepath.Base(e.IconPath(instance, m)), "the icon", m.Icon, func(b []byte) ([]byte, error) { return b, nil })
	}
	p.usualFiles()
	return p, nil
}

type planner struct {
	*Exports
	instance string
	m        *manifest.Launch
	pkg      *os.Root // of the package

	files    []file
	themed   map[string]bool // names of exported icons of the theme
	types    map[string]bool // names of the icons of its MIME types
	usuals   int             // files at usual places
	bytes    int             // of these
	problems []error
	errs     []error
	left     []LeftOut
}

func (p *planner) app(a *manifest.App) {
	p.files = append(p.files, file{name: filepath.Join(binDir, Wrapper(p.instance, p.m, a.Name)), content: p.wrapper(a.Name), perm: 0o755})
	before := len(p.files)
	defer func() { p.help(a, p.files[before:]) }()
	if a.Desktop != "" {
		name := filepath.Join(appDir, DesktopID(p.instance, a)+".desktop")
		p.add(name, "the desktop file", a.Desktop, func(b []byte) ([]byte, error) { return p.desktop(a, DesktopID(p.instance, a), b) })
	}
	if a.Autostart != "" {
		name := filepath.Join(autostartDir, stem(p.instance, a.Autostart, ".desktop")+".desktop")
		p.add(name, "the autostart file", a.Autostart, func(b []byte) ([]byte, error) { return p.desktop(a, "", b) })
	}
	if p.hasBusName(a) {
		p.add(filepath.Join(dbusDir, a.DBusName+".service"), "the D-Bus service file", a.DBusService, func(b []byte) ([]byte, error) { return p.busService(a, b) })
	}
}

// help makes files of an app optional that no user opens: hidden menu entries and, of an app
// that has no visible one and that `lull run` does not start, its other files, too. Such apps
// belong to libraries, as kded6 of KDE's. Each package that was made with those libraries has
// them, and they would keep all but the first from being installed.
func (p *planner) help(a *manifest.App, files []file) {
	hidden := func(f file) bool { return filepath.Dir(f.name) == appDir && isHidden(f.content) }
	helper := a.Name != p.m.DefaultApp() && !slices.ContainsFunc(files, func(f file) bool { return filepath.Dir(f.name) == appDir && !isHidden(f.content) })
	for i, f := range files {
		files[i].optional = helper || hidden(f)
	}
}

// isHidden reports whether menus leave a desktop file out.
func isHidden(content []byte) bool {
	d, err := desktopentry.Parse(content, desktopentry.Main)
	return err == nil && (d.Value(desktopentry.Main, "NoDisplay") == "true" || d.Value(desktopentry.Main, "Hidden") == "true")
}

// hasBusName reports whether the application is started by its name on the session bus. A
// name has one owner, so keyed instances have none.
func (p *planner) hasBusName(a *manifest.App) bool {
	_, key := manifest.SplitInstance(p.instance)
	return a.DBusService != "" && key == ""
}

// activatable reports whether the session bus starts an application under a name.
func (p *planner) activatable(name string) bool {
	return slices.ContainsFunc(p.m.Apps, func(a manifest.App) bool { return a.DBusName == name && p.hasBusName(&a) })
}

// stem returns the exported name of a file of the package without ext.
func (p *planner) stem(file, ext string) string { return stem(p.instance, file, ext) }

// add adds a file of the package, changed, to the files to export.
func (p *planner) add(name, what, from string, change func([]byte) ([]byte, error)) {
	content, err := readInside(p.pkg, from)
	var refused *refusedError
	switch {
	case errors.As(err, &refused), errors.Is(err, fs.ErrNotExist):
	case err != nil:
		p.errs = append(p.errs, fmt.Errorf("cannot export %s of %s: %w", what, p.instance, err))
		return
	default:
		content, err = change(content)
	}
	if err != nil {
		p.problems = append(p.problems, errkind.New(errkind.Invalid, "cannot export %s of %s: %s: %w", what, p.instance, from, err))
		return
	}
	p.files = append(p.files, file{name: name, content: content, perm: 0o644, mimes: mimesOf(name, content)})
}

// mimesOf returns the MIME types of an exported desktop file.
func mimesOf(name string, content []byte) []string {
	if !isDesktopFile(name) {
		return nil
	}
	d, err := desktopentry.Parse(content, desktopentry.Main)
	if err != nil {
		return nil
	}
	return desktopentry.List(d.Value(desktopentry.Main, "MimeType"))
}

func (p *planner) wrapper(app string) []byte {
	return fmt.Appendf(nil, "#!%s --wrapper\ninstance=%s\napp=%s\nroot=%s\nrun-dir=%s\n",
		p.launcher, p.instance, app, p.root, p.runDir)
}

// desktop rewrites a package's desktop file. Exec and TryExec lead to the wrappers, Icon to the
// exported icon, and Path to the package. DBusActivatable is dropped if the bus cannot start
// the name id. A is the app that names the file, or nil.
func (p *planner) desktop(a *manifest.App, id string, content []byte) ([]byte, error) {
	f, err := desktopentry.Parse(content, desktopentry.Main)
	if err == nil {
		err = f.CheckApplication()
	}
	if err == nil {
		err = f.RewriteExec(p.programs(a))
	}
	if err != nil {
		return nil, err
	}
	if icon := p.IconPath(p.instance, p.m); icon != "" && !p.themed[f.Value(desktopentry.Main, "Icon")] {
		f.DropLocalised(desktopentry.Main, "Icon")
		f.Set(desktopentry.Main, "Icon", icon)
	}
	p.tryExec(a, f, desktopentry.Main)
	p.workDir(f)
	if f.Value(desktopentry.Main, "DBusActivatable") != "" && !p.activatable(id) {
		f.Drop(desktopentry.Main, "DBusActivatable")
		if f.Value(desktopentry.Main, "Exec") == "" {
			return nil, errors.New("it has DBusActivatable without Exec, and the app has no dbus-service of that name")
		}
	}
	f.Set(desktopentry.Main, "X-Lull-Instance", p.instance)
	return f.Bytes(), nil
}

// busService rewrites a package's D-Bus service file. SystemdService would name a missing
// unit.
func (p *planner) busService(a *manifest.App, content []byte) ([]byte, error) {
	f, err := desktopentry.Parse(content, desktopentry.DBusService)
	if err != nil {
		return nil, err
	}
	if name := f.Value(desktopentry.DBusService, "Name"); name != a.DBusName {
		return nil, fmt.Errorf("its Name is %.255q, and the app's dbus-name %q", name, a.DBusName)
	}
	if f.Value(desktopentry.DBusService, "Exec") == "" {
		return nil, errors.New("it has no Exec")
	}
	if err := f.RewriteExec(p.programs(a)); err != nil {
		return nil, err
	}
	for _, key := range []string{"SystemdService", "User", "AssumedAppArmorLabel"} {
		f.Drop(desktopentry.DBusService, key)
	}
	return f.Bytes(), nil
}

// isFile reports whether an icon is a file of the package, not the name of one in a theme.
func isFile(icon string) bool {
	switch path.Ext(icon) {
	case ".png", ".svg", ".xpm": // the formats of the icon theme specification
		return true
	}
	return strings.Contains(icon, "/")
}

// IconPath returns the path of the exported icon, or the name in the theme, or "" for a
// package without one.
func (e *Exports) IconPath(instance string, m *manifest.Launch) string {
	if !isFile(m.Icon) {
		return m.Icon
	}
	ext := path.Ext(m.Icon)
	if ext == "" {
		ext = ".png"
	}
	return e.path(filepath.Join(iconDir, instance+ext))
}

// maxExported bounds an icon, in bytes; desktopentry.MaxFile bounds the other files.
const maxExported = 4 << 20

// refusedError means a file that cannot be exported, independent of the disk's state.
type refusedError struct{ text string }

func (r *refusedError) Error() string { return r.text }

// readInside reads a file of a package without leaving it.
func readInside(r *os.Root, name string) ([]byte, error) {
	fi, err := r.Stat(name)
	if err != nil {
		if errno := syscall.Errno(0); !errors.As(err, &errno) {
			return nil, &refusedError{"it leads out of the package"} // an error of os.Root, not of the kernel
		}
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxExported {
		return nil, &refusedError{fmt.Sprintf("it is not a regular file of at most %d bytes", maxExported)}
	}
	return r.ReadFile(name)
}
