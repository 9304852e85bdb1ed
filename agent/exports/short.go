package exports

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/manifest"
)

// commandDirs have the commands of the system, which come before exported ones in PATH.
var commandDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/games", "/usr/games", "/snap/bin"}

// shortCommands returns the short names of the command that `lull run` starts: the last part
// of the package's name, and the name of the app if it contains that, as gnome-maps of
// org.gnome.Maps. A keyed instance, and a package whose name is short already, has none.
func shortCommands(instance string, m *manifest.Launch) []string {
	_, key := manifest.SplitInstance(instance)
	dot := strings.LastIndexByte(m.Name, '.')
	app := m.DefaultApp()
	if key != "" || dot < 0 || app == "" {
		return nil
	}
	last, plain := m.Name[dot+1:], strings.NewReplacer("-", "", "_", "", ".", "")
	if app == last || !strings.Contains(strings.ToLower(plain.Replace(app)), strings.ToLower(plain.Replace(last))) {
		return []string{last}
	}
	return []string{last, app}
}

// isShort reports whether a wrapper of an instance has a short name.
func isShort(name, instance string) bool {
	base, ok := strings.CutPrefix(name, binDir+"/")
	return ok && base != instance && !strings.HasPrefix(base, instance+".")
}

// short adds the wrappers of short names that no program of the system has: that would come
// first in PATH. The first instance that wants a short name keeps it, but a package that has
// it as its whole name gets it.
func (p *planner) short() {
	for _, name := range shortCommands(p.instance, p.m) {
		f := file{name: filepath.Join(binDir, name), content: p.wrapper(p.m.DefaultApp()), perm: 0o755, optional: true}
		switch {
		case !fileName().MatchString(name), slices.ContainsFunc(p.files, func(o file) bool { return o.name == f.name }):
		case p.isCommand(name):
			p.leave(path.Join(binDir, name), errors.New("the system has a program of that name"))
		default:
			p.files = append(p.files, f)
		}
	}
}

// isCommand reports whether the system has a program of a name.
func (e *Exports) isCommand(name string) bool {
	return slices.ContainsFunc(e.commands, func(dir string) bool {
		fi, err := os.Stat(filepath.Join(dir, name))
		return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
	})
}

// yieldLocked takes short names from other instances that are whole names of files, and returns
// the instances that had them.
func (e *Exports) yieldLocked(instance string, files []file) map[string][]string {
	from := map[string][]string{}
	for _, f := range files {
		if owner, taken := e.owners[f.name]; taken && owner != instance && !f.optional && isShort(f.name, owner) {
			delete(e.owners, f.name)
			from[owner] = append(from[owner], f.name)
		}
	}
	return from
}

// removeYielded removes the wrappers that were taken, so that an installation which is undone
// leaves none of them behind.
func (e *Exports) removeYielded(from map[string][]string) error {
	var errs []error
	for owner, names := range from {
		errs = append(errs, e.record(owner))
		for _, name := range names {
			if err := durable.Remove(e.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
