package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Launch reads from a package's tree what is needed to run it. Unlike Meta it
// costs the same for a package of a hundred thousand files, and is not verified:
// the tree is root's own. Error NotFound: the package has no tree.
func (s *Store) Launch(pkg digest.Digest) (*manifest.Launch, error) {
	b, err := os.ReadFile(filepath.Join(s.PackageDir(pkg), manifest.Reserved, "launch.json"))
	kind := errkind.Failed
	if errors.Is(err, fs.ErrNotExist) {
		kind = errkind.NotFound
	}
	if err != nil {
		return nil, errkind.New(kind, "cannot read how to run package %s: %w", pkg.Short(), err)
	}
	return manifest.ParseLaunch(b)
}
