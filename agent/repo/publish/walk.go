package publish

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Omission is a path of the source that is left out of the package.
type Omission struct {
	Path string // relative, with slashes
	Why  string // "a repository", "a subpackage", or "" for a path that an ignore file or the default list names
}

// lister walks a package source.
type lister struct {
	src    string
	keys   keyFolder // of the repository that is published to
	allow  []string  // private keys that may be published
	ignore ignoreRules
	nested []string // directories that are subpackages, relative, with slashes

	entries []manifest.Entry // without blob and size for files
	dirs    []string         // all directories that were entered, parents first
	omitted []Omission
	secrets []string
}

// walk lists the files of the source. Directories are listed only if they are empty. Error
// Invalid: a file that no package may have, or a private key.
func (l *lister) walk() (err error) {
	if l.ignore, err = loadIgnores(l.src); err != nil {
		return err
	}
	if isRepository(l.src) {
		return errkind.New(errkind.Invalid, "cannot publish %s: it is a repository", l.src).
			WithHint("keep the package source and the repository in directories of their own")
	}
	if err := filepath.WalkDir(l.src, l.visit); err != nil {
		return err
	}
	for _, path := range l.allow {
		if !slices.ContainsFunc(l.entries, func(e manifest.Entry) bool { return e.Path == path }) {
			return errkind.New(errkind.Invalid, "cannot publish %s: there is no file %.200q, whose key is allowed", l.src, path)
		}
	}
	if len(l.secrets) > 0 {
		return refuseSecrets(l.src, l.secrets)
	}
	l.addEmptyDirs()
	return nil
}

func (l *lister) visit(full string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(l.src, full)
	if err != nil || rel == "." || rel == SourceFile || rel == IgnoreFile {
		return err
	}
	rel = filepath.ToSlash(rel)
	omit := func(why string) error {
		l.omitted = append(l.omitted, Omission{rel, why})
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	}
	switch {
	case l.ignore.ignores(rel, d.IsDir()):
		return omit("")
	case d.IsDir() && l.keys.holds(full):
		l.secrets = append(l.secrets, rel)
		return filepath.SkipDir
	case d.IsDir() && isRepository(full):
		return omit("a repository")
	case d.IsDir() && slices.Contains(l.nested, rel):
		return omit("a subpackage")
	}
	e, err := entryOf(full, rel, d)
	if err != nil {
		return err
	}
	if e.Type == manifest.TypeDir {
		l.dirs = append(l.dirs, rel)
		return nil
	}
	if e.IsFile() && !slices.Contains(l.allow, rel) {
		secret, err := fileHasSecret(full)
		if err != nil {
			return err
		}
		if secret {
			l.secrets = append(l.secrets, rel)
		}
	}
	l.entries = append(l.entries, e)
	return nil
}

// addEmptyDirs lists the directories without any published file below them.
func (l *lister) addEmptyDirs() {
	full := map[string]bool{}
	parents := func(p string) {
		for p = path.Dir(p); p != "." && !full[p]; p = path.Dir(p) {
			full[p] = true
		}
	}
	for _, e := range l.entries {
		parents(e.Path)
	}
	for _, d := range slices.Backward(l.dirs) { // children before their parents
		if !full[d] {
			l.entries = append(l.entries, manifest.Entry{Path: d, Type: manifest.TypeDir})
			parents(d)
		}
	}
}

func entryOf(full, rel string, d fs.DirEntry) (e manifest.Entry, err error) {
	refuse := func(why string) (manifest.Entry, error) {
		return e, errkind.New(errkind.Invalid, "cannot publish %s: it is %s", full, why)
	}
	info, err := d.Info()
	if err != nil {
		return e, err
	}
	e.Path = rel
	switch mode := info.Mode(); {
	case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 && mode.IsRegular():
		return refuse("set-user-id or set-group-id, which no package may have")
	case mode.IsRegular():
		e.Exec, e.Size = mode&0o111 != 0, info.Size()
		return e, nil
	case mode.IsDir():
		e.Type = manifest.TypeDir
		return e, nil
	case mode&fs.ModeSymlink != 0:
		e.Type = manifest.TypeSymlink
		if e.Symlink, err = os.Readlink(full); err != nil {
			return e, err
		}
		if path.IsAbs(e.Symlink) {
			return refuse("a symlink to the absolute path " + e.Symlink)
		}
		if !filepath.IsLocal(path.Join(path.Dir(rel), e.Symlink)) {
			return refuse("a symlink that leaves the package, to " + e.Symlink)
		}
		return e, nil
	case mode&fs.ModeNamedPipe != 0:
		return refuse("a fifo")
	case mode&fs.ModeSocket != 0:
		return refuse("a socket")
	case mode&fs.ModeDevice != 0:
		return refuse("a device")
	}
	return refuse("neither file nor folder nor symlink")
}

// openFile opens a file that was regular when the source was listed.
func openFile(full string) (*os.File, int64, error) {
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = changed(full)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func changed(full string) error {
	return errkind.New(errkind.Failed, "cannot publish %s: it has changed meanwhile", full)
}
