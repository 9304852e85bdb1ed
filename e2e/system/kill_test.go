package system_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// flow is a way through an update: staged, booted or not, committed or not.
type flow struct {
	name         string
	boots, keeps bool
	ownMB        float64 // of the update package
}

// In the last one the update package has to go before there is room for the set.
var flows = []flow{
	{name: "commit", boots: true, keeps: true}, {name: "rollback", boots: true}, {name: "drop"},
	{name: "tight", boots: true, keeps: true, ownMB: 2.1},
}

// shows selects the points of a flow: points that another flow also passes are
// checked there.
func (f flow) shows(armed int, point string) bool {
	switch f.name {
	case "rollback":
		return armed == 2 && !strings.HasPrefix(point, "system.boot.")
	case "drop":
		return armed == 1 && strings.HasPrefix(point, "system.rollback.")
	case "tight":
		return armed == 1 && strings.HasPrefix(point, "system.set.")
	}
	return true
}

// play is a machine of 6 MiB that is updated from system 1 to system 2.
type play struct {
	*scene
	flow
	one, two *update
}

func newPlay(t *testing.T, f flow) *play {
	t.Helper()
	p := &play{scene: set(t, 6, rig.Options{Tags: "faultpoint"}), flow: f}
	p.one = p.first(1.5, 0.5)
	p.two = p.update(update{version: "2", baseMB: 1.5, cacheMB: 0.5, imagesMB: 2.2 - f.ownMB, ownMB: f.ownMB})
	if free := p.free(); free < 2.3 || free > 4.1 {
		t.Fatalf("%.1f MiB are free, want 2.3 to 4.1: the test shows nothing", free)
	}
	p.StopAgent()
	return p
}

// lull runs a command that the agent may die in, and reports whether it lives.
func (p *play) lull(args ...string) bool {
	p.Helper()
	r := p.Lull(args...)
	if r.Code == 0 {
		return true
	}
	if _, err := p.Agent().Wait(p.Context(), limit); err != nil {
		p.Fatalf("%v\n%v", r, err)
	}
	return false
}

// run plays the flow with one of its agents armed.
func (p *play) run(armed int, env string) {
	p.Helper()
	envs := [3]string{}
	envs[armed] = env
	p.StartAgent(nonEmpty(envs[1])...)
	if !p.lull("system", "stage", osName) {
		return
	}
	if !p.boots {
		p.lull("system", "rollback")
		return
	}
	p.StopAgent()
	p.boot("of system 2")
	_, err := p.TryAgent(nonEmpty(envs[2])...)
	switch {
	case err != nil:
		if _, werr := p.Agent().Wait(p.Context(), limit); werr != nil {
			p.Fatalf("%v\n%v", err, werr)
		}
	case p.keeps:
		p.lull("system", "commit")
	default:
		p.lull("system", "rollback")
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// points lists the points that an agent of the flow passes: those of this
// package, and around its link and its directories.
func points(t *testing.T, f flow, armed int) (list []string) {
	t.Helper()
	t.Run("undisturbed", func(t *testing.T) {
		p := newPlay(t, f)
		file := p.Path("points")
		p.run(armed, "LULL_FAULT_LIST="+file)
		p.settled()
		b, err := os.ReadFile(file)
		p.NoError(err)
		counts := map[string]int{}
		for name := range strings.FieldsSeq(string(b)) {
			if counts[name]++; strings.HasPrefix(name, "system.") || armed == 2 && strings.HasPrefix(name, "durable.symlink.") {
				list = append(list, fmt.Sprintf("%s#%d", name, counts[name]))
			}
		}
	})
	return list
}

// TestKilledAtEveryPoint lets each flow run once and lists the points that its
// agents pass; then it dies at each of them, and repeats the flow to its end.
func TestKilledAtEveryPoint(t *testing.T) {
	for _, f := range flows {
		if testing.Short() && f.name != "tight" {
			continue
		}
		for _, armed := range []int{1, 2} {
			if !f.shows(armed, "system.rollback.recorded") && !f.shows(armed, "system.set.tight") {
				continue
			}
			t.Run(fmt.Sprintf("%s/boot %d", f.name, armed), func(t *testing.T) {
				all := points(t, f, armed)
				all = slices.DeleteFunc(all, func(p string) bool { return !f.shows(armed, p) })
				t.Logf("%d points: %s", len(all), strings.Join(all, " "))
				least := map[string]int{"commit1": 14, "commit2": 4, "rollback2": 2, "drop1": 2, "tight1": 7}
				if len(all) < least[fmt.Sprint(f.name, armed)] {
					t.Errorf("these are too few")
				}
				for _, point := range all {
					t.Run(point, func(t *testing.T) {
						p := newPlay(t, f)
						p.run(armed, "LULL_FAULT="+point+":kill")
						if !p.Agent().Ended() {
							t.Fatal("the agent has not died")
						}
						there := p.contents()
						p.StartAgent()
						p.finish()
						p.settled()
						// Content of the next system is not re-fetched.
						for hash, inode := range p.contents() {
							if before, ok := there[hash]; ok && before != inode {
								t.Errorf("package %.16s was fetched again: got inode %v, want %v as before", hash, inode, before)
							}
						}
					})
				}
			})
		}
	}
}

// contents are the packages that are there, each with its file of noise.
func (p *play) contents() map[string]uint64 {
	p.Helper()
	m := map[string]uint64{}
	for _, hash := range slices.Concat(p.one.base, p.one.cache, p.two.base, p.two.cache) {
		var st syscall.Stat_t
		if syscall.Stat(filepath.Join(p.Store, "packages", hash, "content"), &st) == nil {
			m[hash] = st.Ino
		}
	}
	return m
}

// finish does what an administrator does who finds the machine so, and no more.
func (p *play) finish() {
	p.Helper()
	var seen []string
	for range 6 {
		v := p.status()
		seen = append(seen, v.State)
		committed := ""
		if v.Committed != nil {
			committed = v.Committed.Version
		}
		switch {
		case v.State == "staging":
			p.Fatalf("something is under way that nobody has begun: %+v", v)
		case committed == "2", v.State == "idle" && !p.keeps:
			return
		case !p.keeps:
			p.MustLull("system", "rollback")
		case v.State == "interrupted":
			p.MustLull("system", "stage")
		case v.State == "idle":
			p.MustLull("system", "stage", osName)
		case v.State == "staged":
			p.reboot("of system 2 at last")
		case v.State == "booted":
			p.MustLull("system", "commit")
		}
	}
	p.Fatalf("there is no end: %q", seen)
}

// settled checks that all is as the flow wants it, and nothing is left over.
func (p *play) settled() {
	p.Helper()
	stays, goes, version := p.one, p.two, "1"
	if p.keeps {
		stays, goes, version = p.two, p.one, "2"
	}
	p.is("idle", version, "")
	if p.boots && !p.keeps {
		p.reboot("of system 1 again") // until then it runs what was rolled back
		p.is("idle", version, "")
	}
	p.MustLull("gc")
	p.has(true, slices.Concat(stays.base, stays.cache)...)
	p.has(false, slices.Concat(goes.base, goes.cache, p.two.images, []string{p.one.hash, p.two.hash})...)
	if list := fmt.Sprint(p.API.Property("", "Retained.Packages")); list != "[]" {
		p.Errorf("retained: got %s, want list %q", list, "[]")
	}
	entries, err := os.ReadDir(filepath.Join(p.Store, "systems"))
	if err != nil || len(entries) != 1 {
		p.Errorf("the directory systems has %v (error %v), want one entry", entries, err)
	}
	for _, e := range must(os.ReadDir(p.Store)) {
		if strings.HasPrefix(e.Name(), ".tmp-") {
			p.Errorf("%s was left", e.Name())
		}
	}
	if b, err := os.ReadFile(p.installed()); p.keeps && (err != nil || len(slices.Collect(maps.Keys(lines(string(b))))) != 1) {
		p.Errorf("the hook has installed %q (%v)", b, err)
	}
	if r := p.Lull("verify"); r.Code != 0 {
		p.Errorf("got %v, want exit status 0", r)
	}
}

// lines are the different ones of a text: a hook may have run twice.
func lines(text string) map[string]bool {
	m := map[string]bool{}
	for l := range strings.Lines(text) {
		m[l] = true
	}
	return m
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
