package launch

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
)

// Caches that a distribution makes of the files of all its packages are made at the first
// launch of a package, as the user, below a directory of the user's common data. So the
// package's hash does not depend on the programs that make them, and no code of a package
// runs as root. A failure is a message: the program may not need them.

// cacheTimeout bounds the programs that make one cache.
const cacheTimeout = 10 * time.Second

// withCaches returns the package's variables with those that lead to its caches. set are the
// variables of this launch.
func (l *launch) withCaches(ctx context.Context, common string, set []string) map[string]manifest.Variable {
	return l.withLoaders(ctx, common, set, l.withSchemas(ctx, common))
}

// cache is the path of a kind of cache, for the package of the launched program.
func (l *launch) cache(common, kind string) string {
	path := filepath.Join(common, ".lull", kind+"-"+l.pkg.Short())
	if l.ran != l.pkg {
		path += "-" + l.ran.Short()
	}
	return path
}

// makeCache makes the file or directory of a cache, which appears when it is complete; a file
// replaces the one before. fill makes it at another path. Caches of the same kind of other
// packages are removed: a program that has read them keeps them open.
func (l *launch) makeCache(cache string, fill func(path string) error) error {
	above := filepath.Dir(cache)
	if err := os.MkdirAll(above, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(above, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "made")
	if err := fill(made); err != nil {
		return err
	}
	kind, _, _ := strings.Cut(filepath.Base(cache), "-")
	mine := filepath.Join(above, kind+"-"+l.pkg.Short())
	old, err := filepath.Glob(filepath.Join(above, kind+"-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if path == mine || strings.HasPrefix(path, mine+"-") {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Rename(made, cache); err != nil && !errors.Is(err, os.ErrExist) { // another launch was faster
		return err
	}
	return nil
}

// toolOfHost finds a program of the host: in PATH, or in the directory beside a library.
func toolOfHost(name, beside string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, lib := range []string{"/usr/lib/*", "/usr/lib64", "/usr/lib"} {
		if found, _ := filepath.Glob(filepath.Join(lib, beside, name)); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", err
}
