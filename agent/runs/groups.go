package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/runname"
)

// group is the cgroup of one run.
type group struct {
	instance string
	prefix   string // of the package hash
	service  string
	isSvc    bool   // also if the service's name is unknown
	session  bool   // below the manager of a user that is not the agent's own
	uid      uint32 // that user
	branch   int    // with the scope tracker: the UID of the branch, see systemFor
	dir      string
	cgroup   string
}

// lister finds the groups of all runs. It returns cgroup errors as they are: a
// group that vanishes during the reading makes it start over.
type lister func() ([]group, error)

// rounds bounds how often groups are re-read because they change under the
// reader.
const rounds = 1000

var errRestless = errors.New("runs come and go too fast to be read")

// owned is where an owned tracker keeps groups: a directory with a group for each
// instance, with a group for each run.
type owned struct {
	top   string                       // of the hierarchy
	apps  func(instance string) string // path of an instance's group in the hierarchy
	svcs  func(instance string) string // that of its services
	scan  []string                     // directories below top that hold the instances' groups; "" for top itself
	parse func(parent, name string) (instance string, svc, ok bool)
}

func freezerGroups(top string) owned {
	return owned{
		top:  top,
		apps: func(i string) string { return runname.FreezerGroup(i, false) },
		svcs: func(i string) string { return runname.FreezerGroup(i, true) },
		scan: []string{""},
		parse: func(_, name string) (string, bool, bool) {
			return runname.ParseFreezerGroup(name)
		},
	}
}

func subtreeGroups(top string) owned {
	return owned{
		top:  top,
		apps: func(i string) string { return runname.SubtreeGroup(i, false) },
		svcs: func(i string) string { return runname.SubtreeGroup(i, true) },
		scan: []string{runname.SubtreeApp, runname.SubtreeSvc},
		parse: func(parent, name string) (string, bool, bool) {
			return name, parent == runname.SubtreeSvc, name != ""
		},
	}
}

// list returns the groups of all runs. A group that vanished below a directory
// that was being read is no concern: what is in the list was there, and what is
// not in it had ended or had not begun when its parent was read.
func (o owned) list() ([]group, error) {
	var all []group
	for _, parent := range o.scan {
		names, err := cgroup.Groups(filepath.Join(o.top, parent))
		if errors.Is(err, fs.ErrNotExist) && parent != "" {
			continue // no run yet
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list the runs: %w", err)
		}
		for _, name := range names {
			instance, svc, ok := o.parse(parent, name)
			if !ok {
				continue
			}
			groups, err := o.runsIn(instance, svc, filepath.Join(parent, name))
			if err != nil {
				return nil, err
			}
			all = append(all, groups...)
		}
	}
	return all, nil
}

// of returns the groups of one instance without reading those of others.
func (o owned) of(instance string, svc bool) ([]group, error) {
	path := o.apps(instance)
	if svc {
		path = o.svcs(instance)
	}
	return o.runsIn(instance, svc, path)
}

func (o owned) runsIn(instance string, svc bool, path string) ([]group, error) {
	var all []group
	dir := filepath.Join(o.top, path)
	for range rounds {
		names, err := cgroup.Groups(dir)
		if cgroup.Gone(err) {
			// Believed only when the parent does not list it any more.
			if _, serr := os.Lstat(dir); errors.Is(serr, fs.ErrNotExist) {
				return nil, nil
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list the runs of %s: %w", instance, err)
		}
		for _, name := range names {
			g := group{instance: instance, isSvc: svc, dir: filepath.Join(dir, name), cgroup: "/" + filepath.Join(path, name)}
			// A group that another process has made there counts all the same.
			g.prefix, g.service, _ = runname.ParseRun(name)
			all = append(all, g)
		}
		return all, nil
	}
	return nil, fmt.Errorf("cannot list the runs of %s: %w", instance, errRestless)
}

// find is a finder. Users have no groups here.
func (o owned) find(instance string, svc bool, match func(group) bool) (map[group][]Process, []Unread, error) {
	list := o.list
	if instance != "" {
		list = func() ([]group, error) { return o.of(instance, svc) }
	}
	found, err := processes(list, match)
	return found, nil, err
}

// processes reads the processes of the groups that match. If one of the groups
// has vanished, the list is re-read: its processes may be elsewhere.
func processes(list lister, match func(group) bool) (map[group][]Process, error) {
	var found map[group][]Process
	for range rounds {
		groups, err := list()
		if err != nil {
			return nil, err
		}
		found = map[group][]Process{}
		again := false
		for _, g := range groups {
			if !match(g) {
				continue
			}
			ps, gone, err := inGroup(g.dir)
			if err != nil {
				return nil, err
			}
			again = again || gone
			if len(ps) > 0 {
				found[g] = ps
			}
		}
		// Found processes are alive; only an empty result must be certain.
		if !again || len(found) > 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("cannot read the runs: %w", errRestless)
}

// inGroup reads the processes of one group. If one ends during that, the group
// is re-read, so that the last exit is not missed.
func inGroup(dir string) (ps []Process, gone bool, err error) {
	for range 10 {
		pids, gone, err := cgroup.Scan(dir)
		if err != nil || gone || len(pids) == 0 {
			return nil, gone, err
		}
		ps = ps[:0]
		ended := false
		for _, pid := range pids {
			p, err := describe(pid)
			ended = ended || err != nil
			ps = append(ps, p)
		}
		if !ended {
			return ps, false, nil
		}
	}
	return ps, false, nil
}
