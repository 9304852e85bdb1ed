package launch

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

const (
	loadersVariable     = "GDK_PIXBUF_MODULEDIR"
	loadersFileVariable = "GDK_PIXBUF_MODULE_FILE"
	loadersTool         = "gdk-pixbuf-query-loaders"
)

// withLoaders replaces the directory of a package's image loaders by a file for gdk-pixbuf,
// which reads one file with the properties of all loaders: those of the host, and those of
// the package. It has the time of the host's file, and is made again when that has another.
func (l *launch) withLoaders(ctx context.Context, common string, set []string, vars map[string]manifest.Variable) map[string]manifest.Variable {
	inside, ok := strings.CutPrefix(vars[loadersVariable].Value, "${"+manifest.PlacePackage+"}/")
	if _, given := vars[loadersFileVariable]; !ok || given || l.root != "" { // a runtime has a file of its own
		return vars
	}
	vars = maps.Clone(vars)
	delete(vars, loadersVariable)
	cache := l.cache(common, "loaders")
	host, changed := loadersOfHost(inside)
	if fi, err := os.Stat(cache); err != nil || !fi.ModTime().Equal(changed) {
		if err := l.listLoaders(ctx, inside, host, changed, cache, l.environment(set, vars)); err != nil {
			l.say(journal.PriWarning, errkind.Text("the image loaders of %s cannot be listed: %v", l.Instance, err), "")
			return vars
		}
	}
	vars[loadersFileVariable] = manifest.Variable{Value: strings.ReplaceAll(cache, "$", "$$")}
	return vars
}

// loadersOfHost returns the host's file of loaders and the time of its change. Without one,
// the path is empty and the time a fixed one. inside is the package's directory of loaders.
func loadersOfHost(inside string) (path string, changed time.Time) {
	paths := []string{os.Getenv(loadersFileVariable)}
	// A version of loaders' interface is the name of a directory: …/gdk-pixbuf-2.0/2.10.0/loaders.
	version := filepath.Base(filepath.Dir(inside))
	for _, lib := range []string{"/" + filepath.Dir(filepath.Dir(filepath.Dir(inside))), "/usr/lib/*", "/usr/lib64", "/usr/lib"} {
		found, err := filepath.Glob(filepath.Join(lib, "gdk-pixbuf-2.0", version, "loaders.cache"))
		if err == nil { // a path with characters of a pattern is the package's alone
			paths = append(paths, found...)
		}
	}
	for _, path := range paths {
		if fi, err := os.Stat(path); err == nil {
			return path, fi.ModTime()
		}
	}
	return "", time.Unix(0, 0)
}

// listLoaders makes the file of loaders. The program that lists them loads them, so it has
// the environment of the package's programs; the package's own one comes first.
func (l *launch) listLoaders(ctx context.Context, inside, host string, changed time.Time, cache string, env []string) error {
	dir := filepath.Join(l.dirOf(l.ran), inside)
	loaders, err := filepath.Glob(filepath.Join(escaped(dir), "*.so"))
	if err != nil {
		return err
	}
	if len(loaders) == 0 {
		return fmt.Errorf("%s has none: %w", dir, fs.ErrNotExist)
	}
	tool := filepath.Join(filepath.Dir(filepath.Dir(dir)), loadersTool)
	if _, err := os.Stat(tool); err != nil {
		if tool, err = toolOfHost(loadersTool, "gdk-pixbuf-2.0"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	var all []byte
	if host != "" {
		if all, err = os.ReadFile(host); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, tool, loaders...)
	var out, complaints bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, &out, &complaints, time.Second
	// One loader that cannot be loaded gives it a status other than 0; the others are listed.
	if err := cmd.Run(); err != nil && !bytes.Contains(out.Bytes(), []byte(`"`+dir)) {
		return fmt.Errorf("%s: %w: %.300s", tool, err, strings.TrimSpace(complaints.String()))
	}
	return l.makeCache(cache, func(path string) error {
		if err := os.WriteFile(path, slices.Concat(all, []byte("\n"), out.Bytes()), 0o600); err != nil {
			return err
		}
		return os.Chtimes(path, changed, changed)
	})
}

// escaped is a path as a pattern that matches it alone (filepath.Match).
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
