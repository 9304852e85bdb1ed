package launch

import (
	"context"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/digest"
)

// userCommon is the name of the user's common data in Folder.
const userCommon = "user-common"

// fromPackage prepares a launch from a package that is not installed. There is
// no instance that a refresh could want vacant, so no marker and no run is
// involved; the lease of the caller protects the package. Data of all kinds is
// in Folder.
func (l *launch) fromPackage(ctx context.Context) (env []string, err error) {
	if l.pkg, err = digest.Parse(l.Package); err != nil {
		return nil, err
	}
	if err := l.read(); err != nil {
		return nil, err
	}
	set := []string{
		"LULL_INSTANCE=" + l.Instance,
		"LULL_REVISION=0",
		"LULL_PACKAGE_DIR=" + l.dirOf(l.ran),
	}
	for _, place := range [][2]string{{"LULL_DATA", "data"}, {"LULL_COMMON", "common"}, {"LULL_USER_DATA", "user-data"}, {"LULL_USER_COMMON", userCommon}} {
		dir := filepath.Join(l.Folder, place[1])
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, within(err, "it has no place for its data")
		}
		set = append(set, place[0]+"="+dir)
	}
	common := filepath.Join(l.Folder, userCommon)
	if l.data.XDG {
		if err := l.baseDirsOf(ctx, filepath.Join(l.Folder, "user-data"), common); err != nil {
			return nil, err
		}
	}
	return l.environment(set, l.withDrivers(l.withBaseDirs(l.withCaches(ctx, common, set)))), nil
}
