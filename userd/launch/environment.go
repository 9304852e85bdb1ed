package launch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/environment"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
)

// placesOf are the variables with the directories of placeholders.
var placesOf = map[string]string{
	manifest.PlacePackage: "LULL_PACKAGE_DIR", manifest.PlaceData: "LULL_DATA", manifest.PlaceCommon: "LULL_COMMON",
	manifest.PlaceUserData: "LULL_USER_DATA", manifest.PlaceUserCommon: "LULL_USER_COMMON",
}

// prepare makes the user's directories and the environment.
func (l *launch) prepare(ctx context.Context) ([]string, error) {
	system := filepath.Join(l.Root, "data", l.Instance)
	data := filepath.Join(system, "common")
	if l.data.Versioned {
		data = filepath.Join(system, strconv.FormatUint(uint64(l.rev), 10))
	}
	set := []string{
		"LULL_INSTANCE=" + l.Instance,
		"LULL_REVISION=" + strconv.FormatUint(uint64(l.rev), 10),
		"LULL_PACKAGE_DIR=" + l.dirOf(l.ran),
		"LULL_DATA=" + data,
		"LULL_COMMON=" + filepath.Join(system, "common"),
	}
	if l.App != "" {
		set = append(set, "LULL_APP="+l.App)
	}
	if l.Bus != "system" { // where lull finds the agent
		set = append(set, "LULL_BUS="+l.Bus)
	}
	vars := l.vars
	if l.ofUser { // a service of the agent's has LULL_DATA, and perhaps no home
		userData, userCommon, err := l.userData(ctx)
		if err != nil {
			return nil, err
		}
		set = append(set, "LULL_USER_DATA="+userData, "LULL_USER_COMMON="+userCommon)
		vars = l.withBaseDirs(l.withCaches(ctx, userCommon, set))
	}
	return l.environment(set, l.withDrivers(vars)), nil
}

// environment is that of this process, with other places and these variables, and
// without those of another package whose program has started this launch.
func (l *launch) environment(set []string, vars map[string]manifest.Variable) []string {
	env := make([]string, 0, len(set)+64)
	for _, v := range environment.OfHost(os.Environ()) {
		name, _, _ := strings.Cut(v, "=")
		if !ours[name] && !strings.HasPrefix(name, manifest.SubpackagePrefix) && (l.Service == "" || l.notifies || name != "NOTIFY_SOCKET") {
			env = append(env, v)
		}
	}
	dirs := map[string]string{}
	for place, name := range placesOf {
		for _, v := range set {
			if dir, ok := strings.CutPrefix(v, name+"="); ok {
				dirs[place] = dir
			}
		}
	}
	return environment.Apply(slices.Concat(env, set, l.subs), vars, dirs)
}

// ours are the variables of this launch, which replace inherited ones.
var ours = map[string]bool{
	"LULL_INSTANCE": true, "LULL_REVISION": true, "LULL_PACKAGE_DIR": true, "LULL_DATA": true, "LULL_COMMON": true,
	"LULL_USER_DATA": true, "LULL_USER_COMMON": true, "LULL_APP": true, launchconf.ExecFDEnv: true,
}
