package repo

import (
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/policy/strictyaml"
)

// maxNames bounds the names and prefixes in the file of a repository.
const maxNames = 256

// maxPriority bounds the priority of a repository.
const maxPriority = 1000

// checkNames checks which packages a file takes from its repository, and before which other
// repositories.
func checkNames(doc *strictyaml.Document, f *configFile) error {
	if f.Priority < -maxPriority || f.Priority > maxPriority {
		return doc.Errorf("priority", "cannot use the priority %d: want -%d to %d", f.Priority, maxPriority, maxPriority)
	}
	if len(f.Names) > maxNames {
		return doc.Errorf("names", "cannot use %d names: at most %d are allowed", len(f.Names), maxNames)
	}
	for _, n := range f.Names {
		prefix, _ := strings.CutSuffix(n, "*")
		if manifest.ValidName(strings.TrimSuffix(prefix, ".")) != nil {
			return doc.Errorf("names", "cannot use the name %.80q: want the name of a package, or its beginning and '*'", n)
		}
	}
	return nil
}

// takes reports whether the file of the repository lets it offer a package.
func (c *Config) takes(name string) bool {
	return len(c.Names) == 0 || slices.ContainsFunc(c.Names, func(n string) bool {
		prefix, begins := strings.CutSuffix(n, "*")
		return n == name || begins && strings.HasPrefix(name, prefix)
	})
}
