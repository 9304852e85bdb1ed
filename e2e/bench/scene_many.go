package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/e2e/rig"
)

// playMany lists and refreshes a tiny package with one and with 200 packages installed, the
// latter beside 800 cgroups in the user's session. The tracker is scope, which finds runs by
// their names in the whole tree of a user. The repository is the same throughout.
func playMany(tb rig.TB) results {
	const name, installed, groups, refreshes = "org.lull.tiny", 200, 800, 20
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Rootless: true})
	s.publish(name, "0", program, "")
	var more []string // in the repository from the beginning: what is measured is what is installed
	for i := range installed - 1 {
		more = append(more, fmt.Sprintf("org.lull.more%03d", i))
		s.publish(more[i], "1", program, "")
	}
	s.install(name)
	list := s.starter("lull", "--user", "list")
	version := 0
	refresh := func() float64 {
		version++
		s.publish(name, fmt.Sprint(version), program, "")
		_, before := s.effort()
		s.MustLull("refresh", name)
		_, after := s.effort()
		return after - before
	}
	one := inTurns(5, 50, list)
	cpuOne := inTurns(3, refreshes, refresh)
	s.MustLull(append([]string{"install"}, more...)...)
	few := inTurns(5, 50, list)
	cpuFew := inTurns(3, refreshes, refresh)
	s.makeGroups(groups)
	many := inTurns(5, 50, list)
	cpuMany := inTurns(3, refreshes, refresh)
	return results{
		"list-200": samples{Ours: many[0], Theirs: one[0], Notes: []string{
			fmt.Sprintf("%d packages without the %d further cgroups: %.2f ms", installed, groups, median(few[0])),
		}},
		"refresh-tiny": samples{Ours: cpuMany[0], Theirs: cpuOne[0], Notes: []string{
			fmt.Sprintf("%d packages without the %d further cgroups: %.2f ms", installed, groups, median(cpuFew[0])),
			fmt.Sprintf("tracker %v", s.api.Property("", "Manager.Tracker")),
		}},
	}
}

// makeGroups makes empty cgroups as a busy session has them, in eight slices of the user's
// manager, which delegates its tree to the user.
func (s *stage) makeGroups(n int) {
	manager := fmt.Sprintf("/sys/fs/cgroup/user.slice/user-%[1]d.slice/user@%[1]d.service", s.User.UID)
	for i := range n {
		dir := filepath.Join(manager, fmt.Sprintf("bench%d.slice/bench-%d.scope", i%8, i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.Fatalf("cannot make a cgroup: %v", err)
		}
	}
}
