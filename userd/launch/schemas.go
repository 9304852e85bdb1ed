package launch

import (
	"context"
	"fmt"
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
	schemaVariable = "GSETTINGS_SCHEMA_DIR"
	schemaFile     = "gschemas.compiled"
)

// withSchemas returns the package's variables with the directories of its compiled GSettings
// schemas. Packages of distributions have the sources alone: the distribution compiles those
// of all packages together. A program without its schemas aborts. They are compiled at the
// first launch of a package, as the user, below a directory of the user's common data, so
// that the package's hash does not depend on the compiler. A failure is a message: the
// program may not need them.
func (l *launch) withSchemas(ctx context.Context, common string) map[string]manifest.Variable {
	sources := l.schemaSources()
	if len(sources) == 0 {
		return l.vars
	}
	cache := l.cache(common, "schemas")
	if _, err := os.Lstat(cache); err != nil {
		if err := l.compileSchemas(ctx, sources, cache); err != nil {
			l.say(journal.PriWarning, errkind.Text("the settings schemas of %s cannot be compiled: %v", l.Instance, err), "")
			return l.vars
		}
	}
	vars := maps.Clone(l.vars)
	v := vars[schemaVariable]
	for i := range sources {
		dir := filepath.Join(cache, fmt.Sprint(i))
		v.Prepend = append(slices.Clip(v.Prepend), strings.ReplaceAll(dir, "$", "$$"))
	}
	vars[schemaVariable] = v
	return vars
}

// schemaSources returns the directories of the package with schemas that are not compiled,
// by the directories that it adds to XDG_DATA_DIRS.
func (l *launch) schemaSources() (dirs []string) {
	v := l.vars["XDG_DATA_DIRS"]
	for _, text := range slices.Concat(v.Prepend, v.Append) {
		inside, ok := strings.CutPrefix(text, "${"+manifest.PlacePackage+"}/")
		if !ok {
			continue
		}
		dir := filepath.Join(l.dirOf(l.ran), inside, "glib-2.0", "schemas")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it has none
		}
		has := func(match func(string) bool) bool {
			return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return match(e.Name()) })
		}
		if !has(func(name string) bool { return name == schemaFile }) && has(func(name string) bool { return strings.HasSuffix(name, ".gschema.xml") }) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// compileSchemas compiles each source into a numbered directory of the cache.
func (l *launch) compileSchemas(ctx context.Context, sources []string, cache string) error {
	compiler, err := toolOfHost("glib-compile-schemas", "glib-2.0")
	if err != nil {
		return err
	}
	return l.makeCache(cache, func(path string) error {
		ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
		defer cancel()
		for i, source := range sources {
			to := filepath.Join(path, fmt.Sprint(i))
			if err := os.MkdirAll(to, 0o700); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, compiler, "--targetdir="+to, source)
			cmd.WaitDelay = time.Second
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %.300s", compiler, err, strings.TrimSpace(string(out)))
			}
			if _, err := os.Lstat(filepath.Join(to, schemaFile)); err != nil {
				return fmt.Errorf("%s: %w", compiler, err)
			}
		}
		return nil
	})
}
