package launch

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/lib/environment"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/userd/userdata"
	"github.com/lull/lull/userd/xdg"
)

// baseDirs makes the base directories of a package that has its own, and copies an existing
// profile into them at the first launch.
func (l *launch) baseDirs(ctx context.Context, p userdata.Place, home, data, common string, hooks userdata.Hooks) error {
	own := xdg.Own(data, common)
	host := xdg.Host(home, filepath.Dir(p.Base), own, environment.OfHost(os.Environ()))
	if xdg.Ready(own, host) {
		return nil
	}
	unlock, err := p.Lock(ctx, hooks.Waits)
	if err != nil {
		if _, serr := os.Stat(own["config"]); serr == nil { // as on a read-only file system
			l.say(journal.PriWarning, errkind.Text("the data of %s can be used, but %v", l.Instance, err), "")
			return nil
		}
		return err
	}
	defer unlock()
	r, err := xdg.Prepare(ctx, own, host, l.data.Import, hooks.Progress)
	if err != nil {
		return err
	}
	if len(r.Imported) > 0 {
		l.say(journal.PriInfo, errkind.Text("the existing profile of %s was copied from %s; it stays there as it is", l.Instance, strings.Join(r.Imported, ", ")), "")
	}
	if len(r.Lost) > 0 {
		var list strings.Builder
		for _, lost := range r.Lost[:min(len(r.Lost), maxNamed)] {
			fmt.Fprintf(&list, " %s;", lost)
		}
		l.say(journal.PriWarning, errkind.Text("%d of the files of the existing profile of %s could not be copied:%s they stay there", len(r.Lost), l.Instance, list.String()), "")
	}
	if r.Note != nil {
		l.say(journal.PriWarning, errkind.Text("the data of %s can be used, but %v", l.Instance, r.Note), "")
	}
	return nil
}

// withBaseDirs returns the variables with those of the package's own base directories.
func (l *launch) withBaseDirs(vars map[string]manifest.Variable) map[string]manifest.Variable {
	if !l.data.XDG {
		return vars
	}
	with := map[string]manifest.Variable{}
	maps.Copy(with, vars)
	own := xdg.Own("${"+manifest.PlaceUserData+"}", "${"+manifest.PlaceUserCommon+"}")
	for base, variable := range manifest.BaseDirs {
		with[variable] = manifest.Variable{Value: own[base]}
	}
	return with
}

// baseDirsOf makes the base directories of a package that is not installed, without an
// existing profile.
func (l *launch) baseDirsOf(ctx context.Context, data, common string) error {
	home, _, err := userdata.Home()
	if err != nil {
		return within(err, errkind.Text("it has no place for its data"))
	}
	unlock, err := userdata.Place{Base: l.Folder}.Lock(ctx, nil)
	if err != nil {
		return err
	}
	defer unlock()
	own := xdg.Own(data, common)
	r, err := xdg.Prepare(ctx, own, xdg.Host(home, l.Folder, own, environment.OfHost(os.Environ())), nil, nil)
	if err == nil && r.Note != nil {
		l.say(journal.PriWarning, errkind.Text("the data of %s can be used, but %v", l.Instance, r.Note), "")
	}
	return err
}
