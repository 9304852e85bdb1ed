package manifest

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// SubpackagePrefix begins the variables of SubpackageEnv.
const SubpackagePrefix = "LULL_SUBPACKAGE_"

// RootSelf is the root of a package whose programs find its own files at /.
const RootSelf = "."

// RootDir is the path in the tree of a package of what its programs find at /. "" means that
// they find the files of the host.
func (l *Launch) RootDir() string {
	if l.Root == "" || l.Root == RootSelf {
		return l.Root
	}
	return SubpackageDir(l.Root)
}

// SubpackageDir is the path of a subpackage in the tree of a package. It remains the same
// when the subpackage changes.
func SubpackageDir(name string) string { return path.Join(Reserved, "sub", name) }

// SubpackageEnv returns a variable for each subpackage of a package, in byte order:
// LULL_SUBPACKAGE_NAME with the subpackage's directory in dir, the package's tree.
func SubpackageEnv(dir string, l *Launch) (env []string) {
	for _, name := range slices.Sorted(maps.Keys(l.Subpackages)) {
		env = append(env, SubpackageVariable(name)+"="+path.Join(dir, SubpackageDir(name)))
	}
	return env
}

var variableLetters = strings.NewReplacer(".", "_", "-", "_")

// SubpackageVariable is the variable of a subpackage. In its name letters are in upper case,
// and '.' and '-' are '_'.
func SubpackageVariable(name string) string {
	return SubpackagePrefix + variableLetters.Replace(strings.ToUpper(name))
}
