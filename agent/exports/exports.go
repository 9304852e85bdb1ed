// Package exports makes the files that an installed instance shows to the rest of the system,
// below <root>/exports:
//
//	bin/                        launch wrappers, some of them under a short name, too
//	share/applications/         desktop files, under the names that the packages give them
//	share/applications/mimeinfo.cache  which of them open which MIME type
//	share/dbus-1/services/      D-Bus session services
//	share/icons/                icons of packages
//	share/icons/hicolor/        icons of the theme, in all sizes
//	share/mime/                 MIME types, and mime.cache and types of all of them
//	share/man/                  manual pages
//	share/metainfo/             AppStream metadata
//	share/gnome-shell/search-providers/, share/thumbnailers/, share/bash-completion/completions/
//	etc/xdg/autostart/          desktop files that are started at log-in
//	owners/<instance>           the files that belong to an instance, one a line
//
// A wrapper is a script whose interpreter is the launcher: the kernel starts
// `lull-run --wrapper FILE ARGS…` without a shell in between. A wrapper leads to the
// instance, not to a revision. So it is the same before and after a refresh, and a launch
// during a refresh waits instead of failing.
//
// A file belongs to the first instance that has claimed it. The claims are in memory and in
// owners/, written before the file and removed after it, so that they cover at least the
// existing files. Owners are never derived from exported files. Claim refuses a second
// instance that wants the same file, before a refresh changes anything.
//
// Write replaces files by rename, one by one, and removes the files that the new revision
// lacks, and directories that are empty then, at the very end; it can be repeated. Each instance has one writer at a time.
// Instances do not wait for each other, except for the writing of mimeinfo.cache, mime.cache and types.
package exports

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// The directories below exports/.
const (
	binDir       = "bin"
	appDir       = "share/applications"
	dbusDir      = "share/dbus-1/services"
	iconDir      = "share/icons"
	autostartDir = "etc/xdg/autostart"
	themeDir     = "share/icons/hicolor"
	manDir       = "share/man"
	metainfoDir  = "share/metainfo"
	searchDir    = "share/gnome-shell/search-providers"
	thumbnailDir = "share/thumbnailers"

	completionDir = "share/bash-completion/completions"
	zshDir        = "share/zsh/site-functions"
	fishDir       = "share/fish/vendor_completions.d"
	ownersDir     = "owners"
)

// exported are the directories whose files have owners, also those in directories below them.
var exported = []string{binDir, appDir, dbusDir, iconDir, autostartDir, manDir, metainfoDir, searchDir, thumbnailDir, mimeDir, completionDir, zshDir, fishDir}

// Exports are the exports of one agent.
type Exports struct {
	root     string // the agent's root
	runDir   string
	launcher string // absolute path of lull-run
	system   []string
	commands []string

	dirs  sync.RWMutex // written while empty directories are removed, read while files are added
	cache sync.Mutex   // held while mimeinfo.cache is written, so that the newest content remains

	mu     sync.Mutex
	owners map[string]string    // file, relative to exports/ → instance
	known  map[string]bool      // instances with a file in owners/
	mimes  map[string][]string  // desktop file → MIME types
	shared map[string]*mimeType // file of a MIME type → its content
}

// Open makes missing directories, removes temporary files of a crash from them, and reads the
// claims.
func Open(root, runDir, launcher string) (*Exports, error) {
	e := &Exports{root: root, runDir: runDir, launcher: launcher, system: systemDirs, commands: commandDirs,
		owners: map[string]string{}, known: map[string]bool{}, mimes: map[string][]string{}, shared: map[string]*mimeType{}}
	for _, d := range append([]string{ownersDir}, exported...) {
		if err := errors.Join(durable.MkdirAll(e.path(d), 0o755), durable.Tidy(e.path(d))); err != nil {
			return nil, err
		}
	}
	return e, e.load()
}

// path returns the absolute path of a file below exports/.
func (e *Exports) path(file string) string { return filepath.Join(e.root, "exports", file) }

// Recorded reports whether the files of an instance are recorded. An instance that an earlier
// version has exported has no record until Write.
func (e *Exports) Recorded(instance string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known[instance]
}

// Check returns an error if a package cannot be exported as instance, with the file and line:
// it is no desktop file, or its Exec cannot be rewritten. Dir has the package's files.
func Check(instance string, m *manifest.Launch, dir string) error {
	e := &Exports{launcher: "/usr/libexec/lull/lull-run", system: systemDirs}
	_, problems, err := e.plan(instance, m, dir)
	return errors.Join(err, problems)
}

// LeftOut is a file at a usual place that is not exported.
type LeftOut struct {
	Path string // in the package
	Why  error
}

// Unexported lists the files at usual places of a package that are not exported as instance,
// on a machine without other packages.
func Unexported(instance string, m *manifest.Launch, dir string) ([]LeftOut, error) {
	e := &Exports{launcher: "/usr/libexec/lull/lull-run"}
	p, err := e.planned(instance, m, dir)
	if err != nil {
		return nil, err
	}
	return p.left, nil
}

// Claim reserves the files of a package for an instance, in addition to its present ones.
// Kind Invalid: the package cannot be exported. Kind Conflict: a file, or a name that differs
// from the instance's by case only, belongs to another instance. After an error no file is
// claimed.
func (e *Exports) Claim(instance string, m *manifest.Launch, dir string) error {
	files, problems, err := e.plan(instance, m, dir)
	if err = errors.Join(err, problems); err != nil {
		return err
	}
	e.mu.Lock()
	for other := range e.known {
		if other != instance && strings.EqualFold(other, instance) {
			e.mu.Unlock()
			return errkind.New(errkind.Conflict, "cannot export %s: %s is installed, whose name differs only by case", instance, other)
		}
	}
	for _, f := range files {
		if owner, ok := e.owners[f.name]; ok && owner != instance && !f.optional && !isShort(f.name, owner) {
			e.mu.Unlock()
			return errkind.New(errkind.Conflict, "cannot export the %s of %s: %s has it already", what(f.name), instance, owner).
				WithHint("remove %s first, or install the package beside it: lull install %s_KEY", owner, m.Name)
		}
	}
	yielded := e.yieldLocked(instance, files)
	e.ownLocked(instance, files)
	e.mu.Unlock()
	return errors.Join(e.record(instance), e.removeYielded(yielded))
}

// ownLocked claims the files that belong to no other instance, and returns them.
func (e *Exports) ownLocked(instance string, files []file) []file {
	files = slices.DeleteFunc(files, func(f file) bool {
		owner, taken := e.owners[f.name]
		return taken && owner != instance
	})
	for _, f := range files {
		e.owners[f.name] = instance
	}
	e.known[instance] = true
	return files
}

// what describes an exported file for people.
func what(name string) string {
	base := filepath.Base(name)
	switch filepath.Dir(name) {
	case binDir:
		return "command " + base
	case appDir:
		return "menu entry " + base
	case autostartDir:
		return "autostart file " + base
	case dbusDir:
		return "bus name " + strings.TrimSuffix(base, ".service")
	}
	return "file " + base
}

// Release removes the claims of an instance whose files were never written.
func (e *Exports) Release(instance string) error {
	var gone []string
	for _, name := range e.owned(instance) {
		if _, err := os.Lstat(e.path(name)); errors.Is(err, os.ErrNotExist) {
			gone = append(gone, name)
		} else if err != nil {
			return err
		}
	}
	if err := e.drop(instance, gone); err != nil || len(e.owned(instance)) > 0 {
		return err
	}
	return e.forget(instance)
}

// Write replaces the instance's exports by those of a package. A file is left out if it is no
// desktop file or belongs to another instance. Claim has already refused it, and files of
// another instance must not make a refresh fail after its commit.
func (e *Exports) Write(instance string, m *manifest.Launch, dir string) error {
	files, _, err := e.plan(instance, m, dir)
	if err != nil {
		return err
	}
	e.mu.Lock()
	yielded := e.yieldLocked(instance, files)
	files = e.ownLocked(instance, files)
	e.mu.Unlock()
	if err := errors.Join(e.record(instance), e.removeYielded(yielded)); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, f := range files {
		want[f.name] = true
		if err := e.write(f); err != nil {
			return err
		}
	}
	e.mu.Lock()
	for _, f := range files {
		e.setMimesLocked(f.name, f.mimes)
		e.setTypeLocked(f.name, f.content)
	}
	e.mu.Unlock()
	return e.prune(instance, want)
}

// Remove removes all exports of an instance.
func (e *Exports) Remove(instance string) error {
	if err := e.prune(instance, nil); err != nil {
		return err
	}
	return e.forget(instance)
}

// forget removes the record of an instance that owns no files.
func (e *Exports) forget(instance string) error {
	e.mu.Lock()
	delete(e.known, instance)
	e.mu.Unlock()
	err := durable.Remove(e.path(filepath.Join(ownersDir, instance)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// prune removes the unwanted files of an instance.
func (e *Exports) prune(instance string, want map[string]bool) error {
	var gone []string
	var errs []error
	for _, name := range e.owned(instance) {
		if want[name] {
			continue
		}
		// A claim without a file has been released.
		if err := durable.Remove(e.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		gone = append(gone, name)
	}
	e.mu.Lock()
	for _, name := range gone {
		e.setMimesLocked(name, nil)
		e.setTypeLocked(name, nil)
	}
	e.mu.Unlock()
	errs = append(errs, e.removeEmpty(gone), e.writeMimes(), e.drop(instance, gone))
	return errors.Join(errs...)
}

// removeEmpty removes the directories of removed files that have no files left. The
// directories in exported stay.
func (e *Exports) removeEmpty(gone []string) error {
	e.dirs.Lock()
	defer e.dirs.Unlock()
	var errs []error
	for _, name := range gone {
		for dir := filepath.Dir(name); !slices.Contains(exported, dir) && dir != "."; dir = filepath.Dir(dir) {
			err := durable.Remove(e.path(dir))
			if errors.Is(err, syscall.ENOTEMPTY) {
				break
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// owned lists the files of an instance, sorted.
func (e *Exports) owned(instance string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ownedLocked(instance)
}

func (e *Exports) ownedLocked(instance string) []string {
	var list []string
	for name, owner := range maps.All(e.owners) {
		if owner == instance {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
