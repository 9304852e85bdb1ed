package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
)

// maxNamedReaders bounds how many processes a line of the doctor names.
const maxNamedReaders = 8

// checkReaders names the processes that delay a refresh although they do not run the
// application: they have files of its package open, as a backup or an indexer does.
func (d *Doctor) checkReaders(r plan.Refresh, add func(name, state, seen, advice string)) {
	list := runs.StillThere(r.Readers)
	if len(list) == 0 {
		return
	}
	verb := "has files of its package open and does not run it"
	if len(list) > 1 {
		verb = "have files of its package open and do not run it"
	}
	add("refreshes", Warn, errkind.Text("the refresh of %s to %s waits for %s, which %s", r.Instance, r.ToVersion, named(list), verb),
		errkind.Text("it goes on when they are closed, and in any case at %s; exclude %s from backups and from indexing", r.Deadline.Local().Format(wallclock.Layout), d.Root))
}

// checkStrays names the processes outside any run that are the only reason why the last
// collection has kept packages, if they still exist.
func (d *Doctor) checkStrays(add func(name, state, seen, advice string)) {
	result := d.Collected()
	uses := map[int][]string{}
	var pids []int
	for _, u := range result.StrayUses {
		if u.PID == 0 || u.Package.IsZero() {
			continue
		}
		what := u.Package.Short()
		if l, err := d.Store.Launch(u.Package); err == nil {
			what = l.Name + " " + l.Version
		}
		if !slices.Contains(pids, u.PID) {
			pids = append(pids, u.PID)
		}
		uses[u.PID] = append(uses[u.PID], what)
	}
	for _, p := range runs.StillThere(runs.Describe(pids)) {
		list := uses[p.PID]
		add("space", Warn, errkind.Text("%s keeps what nothing else needs: %s", p, strings.Join(list[:min(len(list), maxNamedReaders)], ", ")),
			errkind.Text("it goes with the first collection after the process has closed its files, or ended (lull gc)"))
	}
}

func named(list []runs.Process) string {
	var names []string
	for _, p := range list[:min(len(list), maxNamedReaders)] {
		names = append(names, p.String())
	}
	text := strings.Join(names, ", ")
	if more := len(list) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
