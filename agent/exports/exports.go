// Package exports makes what an installed instance shows to the rest of the
// system: launch wrappers in exports/bin, desktop files and icons in
// exports/share.
//
// A wrapper is a script whose interpreter is the launcher: the kernel starts
// `lull-run --wrapper FILE ARGS…`, no shell runs in between. A wrapper leads to
// the instance, not to a revision, so that it is the same before and after a
// refresh, and a launch during one waits instead of failing.
//
// Write replaces files by rename, one by one, and removes what the new revision
// no longer has at the very end; doing it again is harmless. One writer an
// instance at a time.
package exports

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/meta"
)

// Exports are those of one agent.
type Exports struct {
	root     string // the agent's root
	runDir   string
	launcher string // absolute path of lull-run
}

// Open makes the folders where they are missing, and removes what a crash has
// left in them.
func Open(root, runDir, launcher string) (*Exports, error) {
	e := &Exports{root, runDir, launcher}
	for _, d := range []string{e.bin(), e.applications(), e.icons()} {
		if err := errors.Join(durable.MkdirAll(d, 0o755), durable.Tidy(d)); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *Exports) bin() string { return filepath.Join(e.root, "exports", "bin") }
func (e *Exports) applications() string {
	return filepath.Join(e.root, "exports", "share", "applications")
}
func (e *Exports) icons() string { return filepath.Join(e.root, "exports", "share", "icons") }

// Wrapper names the wrapper of an application: the instance itself for the
// application that has the package's name or is the only one, else
// <instance>.<application>. An application's name has no dot, so that two
// instances cannot claim one wrapper.
func Wrapper(instance string, m *meta.Launch, app string) string {
	if app == m.Name || len(m.Apps) == 1 {
		return instance
	}
	return instance + "." + app
}

// WrapperPath is where the wrapper of an application lies.
func (e *Exports) WrapperPath(instance string, m *meta.Launch, app string) string {
	return filepath.Join(e.bin(), Wrapper(instance, m, app))
}

// Write exports a package as what the instance now is.
func (e *Exports) Write(instance string, m *meta.Launch, packageDir string) error {
	want := map[string]bool{}
	put := func(file string, content []byte, perm os.FileMode) error {
		want[file] = true
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content) {
			return nil
		}
		return durable.WriteFile(file, content, perm)
	}
	for _, a := range m.Apps {
		if err := put(e.WrapperPath(instance, m, a.Name), e.wrapper(instance, a.Name), 0o755); err != nil {
			return err
		}
		if a.Desktop == "" {
			continue
		}
		content, err := e.desktop(instance, m, a, packageDir)
		if err != nil {
			return err
		}
		if err := put(filepath.Join(e.applications(), Wrapper(instance, m, a.Name)+".desktop"), content, 0o644); err != nil {
			return err
		}
	}
	if isFile(m.Icon) {
		content, err := readInside(packageDir, m.Icon)
		if err != nil {
			return fmt.Errorf("cannot export the icon of %s: %w", instance, err)
		}
		if err := put(e.IconPath(instance, m), content, 0o644); err != nil {
			return err
		}
	}
	return e.prune(instance, want)
}

// isFile tells an icon that is a file of the package from the name of one in a theme.
func isFile(icon string) bool {
	switch path.Ext(icon) {
	case ".png", ".svg", ".xpm": // the formats of the icon theme specification
		return true
	}
	return strings.Contains(icon, "/")
}

// IconPath is the exported icon, or the name in the theme, or "" for a package without one.
func (e *Exports) IconPath(instance string, m *meta.Launch) string {
	if !isFile(m.Icon) {
		return m.Icon
	}
	ext := path.Ext(m.Icon)
	if ext == "" {
		ext = ".png" // owner cuts an extension off again
	}
	return filepath.Join(e.icons(), instance+ext)
}

// Remove takes back all that an instance exports.
func (e *Exports) Remove(instance string) error { return e.prune(instance, nil) }

// prune removes the files of an instance that are not wanted.
func (e *Exports) prune(instance string, want map[string]bool) error {
	var errs []error
	for _, dir := range []string{e.bin(), e.applications(), e.icons()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range entries {
			file := filepath.Join(dir, f.Name())
			if want[file] {
				continue
			}
			owner, err := e.owner(dir, f.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue // another instance's, removed or renamed just now
			}
			if err != nil || owner != instance {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, durable.Remove(file))
		}
	}
	return errors.Join(errs...)
}

// owner says which instance an exported file belongs to: wrappers and desktop
// files name it, icons are called by it.
func (e *Exports) owner(dir, name string) (string, error) {
	if dir == e.icons() {
		return strings.TrimSuffix(name, path.Ext(name)), nil
	}
	key := "instance="
	if dir == e.applications() {
		key = "X-Lull-Instance="
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), key); ok {
			return v, nil
		}
	}
	return "", lines.Err()
}

func (e *Exports) wrapper(instance, app string) []byte {
	return fmt.Appendf(nil, "#!%s --wrapper\ninstance=%s\napp=%s\nroot=%s\nrun-dir=%s\n",
		e.launcher, instance, app, e.root, e.runDir)
}

// desktop rewrites a package's desktop file: Exec leads to the wrapper, Icon to
// the exported icon, and TryExec, which would name a file inside the package, is dropped.
func (e *Exports) desktop(instance string, m *meta.Launch, a meta.App, packageDir string) ([]byte, error) {
	content, err := readInside(packageDir, a.Desktop)
	if err != nil {
		return nil, fmt.Errorf("cannot export the desktop file of %s: %w", instance, err)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\r\n")
		key, value, _ := strings.Cut(line, "=")
		switch strings.TrimSpace(key) {
		case "Exec":
			_, args, _ := strings.Cut(strings.TrimSpace(value), " ")
			line = strings.TrimSpace("Exec=" + e.WrapperPath(instance, m, a.Name) + " " + args)
		case "Icon":
			if icon := e.IconPath(instance, m); icon != "" {
				line = "Icon=" + icon
			}
		case "TryExec", "X-Lull-Instance":
			continue
		}
		out.WriteString(line + "\n")
		if line == "[Desktop Entry]" {
			out.WriteString("X-Lull-Instance=" + instance + "\n")
		}
	}
	return out.Bytes(), nil
}

// maxExported bounds a desktop file or icon, in bytes.
const maxExported = 4 << 20

// readInside reads a file of a package without leaving it.
func readInside(packageDir, name string) ([]byte, error) {
	r, err := os.OpenRoot(packageDir)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	fi, err := r.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxExported {
		return nil, &fs.PathError{Op: "export", Path: name, Err: fmt.Errorf("not a regular file of at most %d bytes", maxExported)}
	}
	return r.ReadFile(name)
}
