package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// playRelease runs the release agent on real groups, by the same spawn as the
// peer. That of the kernel cannot be timed from outside.
func playRelease(tb rig.TB) results {
	bin, dir, run := rig.Binaries(tb, ""), programs(tb), tempDir(tb)
	instance := fmt.Sprintf("bench-%d", os.Getpid())
	must := func(err error) {
		if err != nil {
			tb.Fatalf("cannot set the scene: %v", err)
		}
	}
	const hierarchy = "/sys/fs/cgroup/freezer"
	must(os.Symlink(hierarchy, filepath.Join(run, "freezer")))
	must(os.Mkdir(filepath.Join(run, "runctl"), 0o755))
	must(os.WriteFile(filepath.Join(run, "runctl", "lull."+instance+".lock"), nil, 0o644))
	tb.Cleanup(func() { // of a run that was interrupted
		os.Remove(filepath.Join(hierarchy, "lull."+instance, "0123456789abcdef.01234567"))
		os.Remove(filepath.Join(hierarchy, "lull."+instance))
	})
	const turns, warm = 2000, 50
	out, err := exec.CommandContext(tb.Context(), filepath.Join(dir, "release"), fmt.Sprint(turns+warm),
		filepath.Join(bin, "lull-release-agent"), filepath.Join(dir, "empty"), run, instance).Output()
	must(err)
	var s samples
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var ours, theirs float64
		_, err := fmt.Sscan(line, &ours, &theirs)
		must(err)
		if i >= warm {
			s.Ours, s.Theirs = append(s.Ours, ours/1e6), append(s.Theirs, theirs/1e6)
		}
	}
	return results{"release-agent": s}
}
