package exports

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/manifest"
)

// programs finds the wrappers for the Exec lines of a, or of no app in particular if a is nil.
func (p *planner) programs(a *manifest.App) desktopentry.Programs {
	first := ""
	find := func(program string) (string, error) {
		first = cmp.Or(first, program)
		return p.find(a, program, program == first)
	}
	return desktopentry.Programs{Find: find, Named: p.named}
}

// programOf returns the path of an app's program, or "/" if the app has no command.
func programOf(a *manifest.App) string {
	if len(a.Command) == 0 {
		return "/"
	}
	return a.Command[0]
}

// find returns the wrapper of the application in an Exec line of a: by the path of its
// program, by its name, or by the name of its program. Another absolute path outside of the
// directories of commands means a itself: the place where the package is usually installed,
// or a program that the command of a starts. If the package has the program, that holds for
// the main one of the file alone, because an action may start a helper.
func (p *planner) find(a *manifest.App, program string, main bool) (string, error) {
	base, inside := path.Base(program), ""
	if path.IsAbs(program) {
		inside = path.Clean(program)[1:]
	}
	exact := func(o *manifest.App) bool { return inside != "" && programOf(o) == inside }
	names := func(o *manifest.App) bool { return o.Name == base || path.Base(programOf(o)) == base }
	for _, matches := range []func(*manifest.App) bool{exact, names} {
		if a != nil && matches(a) {
			return p.WrapperPath(p.instance, p.m, a.Name), nil
		}
		for i := range p.m.Apps {
			if o := &p.m.Apps[i]; matches(o) {
				return p.WrapperPath(p.instance, p.m, o.Name), nil
			}
		}
	}
	if inside == "" {
		return "", fmt.Errorf("%.200q is no application of the package", program)
	}
	if fi, err := p.pkg.Stat(inside); err == nil && fi.Mode().IsRegular() {
		for i := range p.m.Apps {
			if o, err := p.pkg.Stat(programOf(&p.m.Apps[i])); err == nil && os.SameFile(fi, o) {
				return p.WrapperPath(p.instance, p.m, p.m.Apps[i].Name), nil
			}
		}
		if !main {
			return "", fmt.Errorf("%.200q is a program of the package without an application", program)
		}
	}
	if dir := path.Base(path.Dir(program)); a != nil && dir != "bin" && dir != "sbin" {
		return p.WrapperPath(p.instance, p.m, a.Name), nil
	}
	return "", fmt.Errorf("%.200q is no application of the package", program)
}

// named returns the wrapper of the application that has a name on the session bus.
func (p *planner) named(busName string) (string, error) {
	for i := range p.m.Apps {
		if a := &p.m.Apps[i]; a.DBusName == busName && a.DBusService != "" {
			return p.WrapperPath(p.instance, p.m, a.Name), nil
		}
	}
	return "", fmt.Errorf("%.255q is the bus name of no application of the package", busName)
}

// tryExec makes TryExec name a wrapper, or drops it if it names a file of the package. A
// program of the system stays.
func (p *planner) tryExec(a *manifest.App, f *desktopentry.File, group string) {
	program := f.Value(group, "TryExec")
	if program == "" {
		return
	}
	_, err := p.pkg.Lstat(strings.TrimPrefix(path.Clean(program), "/"))
	if to, ferr := p.find(a, program, true); ferr == nil {
		f.Set(group, "TryExec", strings.ReplaceAll(to, `\`, `\\`))
	} else if !errors.Is(err, fs.ErrNotExist) {
		f.Drop(group, "TryExec")
	}
}

// workDir makes Path name the directory in the package that is in use, if the package has it.
func (p *planner) workDir(f *desktopentry.File) {
	dir := f.Value(desktopentry.Main, "Path")
	if !path.IsAbs(dir) || path.Clean(dir) == "/" {
		return
	}
	inside := path.Clean(dir)[1:]
	if fi, err := p.pkg.Stat(inside); err == nil && fi.IsDir() {
		to := filepath.Join(p.root, "current", p.instance, inside)
		f.Set(desktopentry.Main, "Path", strings.ReplaceAll(to, `\`, `\\`))
	}
}
