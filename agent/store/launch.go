package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
)

// Launch reads from a package's tree what is needed to run it. Unlike Meta it
// costs the same for a package of a hundred thousand files, and is not verified:
// the tree is root's own. Error NotFound: the package has no tree.
func (s *Store) Launch(pkg digest.Digest) (*meta.Launch, error) {
	b, err := os.ReadFile(filepath.Join(s.PackageDir(pkg), meta.Reserved, "launch.json"))
	kind := problem.Failed
	if errors.Is(err, fs.ErrNotExist) {
		kind = problem.NotFound
	}
	if err != nil {
		return nil, problem.New(kind, "cannot read how to run package %s: %w", pkg.Short(), err)
	}
	return meta.ParseLaunch(b)
}
