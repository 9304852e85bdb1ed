package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
)

// system: what <root>/system leads to is one whole set, whose packages are all of
// the version of the set. They are hashed already.
func (x *reader) system() error {
	sets, err := os.ReadDir(filepath.Join(x.root, "systems"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range sets {
		if strings.HasPrefix(e.Name(), ".") {
			x.left("systems/%s", e.Name())
		}
	}
	link, err := os.Readlink(filepath.Join(x.root, "system"))
	if err != nil {
		return err // perhaps because there is none: the factory set
	}
	dir := filepath.Join(x.root, "systems", filepath.Base(link))
	b, err := os.ReadFile(filepath.Join(dir, "system.json"))
	var set struct {
		Version     string
		Base, Cache []digest.Digest
	}
	if err == nil {
		err = json.Unmarshal(b, &set)
	}
	if err != nil {
		x.lost("the link to the system leads to %s: %v", link, err)
		return nil
	}
	x.r.System = set.Version
	for part, list := range map[string][]digest.Digest{"base": set.Base, "cache": set.Cache} {
		if err := x.part(filepath.Join(dir, part), set.Version, list); err != nil {
			x.lost("system %s, %s: %v", set.Version, part, err)
		}
	}
	return nil
}

// part checks the links to the packages of a set.
func (x *reader) part(dir, version string, want []digest.Digest) error {
	links, err := os.ReadDir(dir)
	if err == nil && len(links) != len(want) {
		err = fmt.Errorf("%d packages are there, want %d", len(links), len(want))
	}
	if err != nil {
		return err
	}
	have := map[*manifest.Meta]bool{}
	for _, e := range links {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m := x.trees[filepath.Base(to)]
		if m == nil {
			return fmt.Errorf("%s leads to %s, where no package is", e.Name(), to)
		}
		if m.Version != version {
			return fmt.Errorf("%s is of version %s", e.Name(), m.Version)
		}
		have[m] = true
	}
	for _, d := range want {
		if m := x.trees[d.String()]; m == nil || !have[m] {
			return fmt.Errorf("package %s is not there", d)
		}
	}
	return nil
}
