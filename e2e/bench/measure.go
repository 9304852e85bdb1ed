package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// measure plays the scenes, all or that of one row, and reports what they measure.
func measure(ctx context.Context, id, out string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("cannot measure: it takes root to boot containers and to own cgroups")
	}
	if _, _, ok := find(id); id != "" && !ok {
		return fmt.Errorf("cannot measure %q: there is no such row", id)
	}
	rep, err := loadReport(filepath.Join(out, "bench.json"))
	if err != nil {
		return err
	}
	for _, s := range scenes {
		if id != "" && id != s.name && !slices.ContainsFunc(s.rows, func(r row) bool { return r.id == id }) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", s.name)
		var got results
		err := rig.Run(ctx, os.Stderr, func(tb rig.TB) {
			if s.systemd {
				got = playInContainer(tb, s)
			} else {
				got = s.play(tb)
			}
			if s.beside != nil {
				s.beside(tb, got)
			}
		})
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", s.name, err)
		}
		for _, r := range s.rows {
			rep.put(r, got[r.id])
		}
	}
	rep.describe()
	return rep.publish(out)
}

// redraw reports what was measured before.
func redraw(out string) error {
	rep, err := loadReport(filepath.Join(out, "bench.json"))
	if err != nil {
		return err
	}
	return rep.publish(out)
}

// sceneLimit is how long a scene in a container may take.
const sceneLimit = 10 * time.Minute

// playInContainer boots systemd and has this program play the scene in it, in a
// session of an ordinary user.
func playInContainer(tb rig.TB, s scene) results {
	for _, program := range []string{"systemd-nspawn", "debootstrap", "nsenter"} {
		if _, err := require.Find(program); err != nil {
			tb.Fatalf("it needs %s: %v", program, err)
		}
	}
	dir := tempDir(tb)
	rig.GoBuild(tb, "./e2e/bench", filepath.Join(dir, "bench"), nil)
	compile(tb, dir)
	rig.GoBuild(tb, "./e2e/bench/programs/scope", filepath.Join(dir, goScope), nil)
	c := rig.Boot(tb, true, rig.Binaries(tb, "")+":/opt/lull", dir+":/opt/bench")
	inside := []string{"/opt/bench/bench", "-inside=" + s.name}
	if s.shared {
		inside = append([]string{"systemd-run", "--user", "--scope", "--quiet", "--"}, inside...)
	}
	r := c.Login(sceneLimit, []string{"LULL_BIN=/opt/lull", programsEnv + "=/opt/bench"}, inside...)
	var got results
	line := r.Stdout[strings.LastIndex(strings.TrimSpace(r.Stdout), "\n")+1:]
	if r.Code != 0 || json.Unmarshal([]byte(line), &got) != nil {
		tb.Fatalf("it failed in the container: %v", r)
	}
	fmt.Fprint(os.Stderr, r.Stderr)
	return got
}

// playInside is the other end of playInContainer.
func playInside(ctx context.Context, name string) error {
	i := slices.IndexFunc(scenes, func(s scene) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("cannot play %q: there is no such scene", name)
	}
	var got results
	if err := rig.Run(ctx, os.Stderr, func(tb rig.TB) { got = scenes[i].play(tb) }); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}
