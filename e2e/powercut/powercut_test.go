package powercut_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// TestMain prints the counts last.
func TestMain(m *testing.M) {
	rig.Main(func() int {
		code := m.Run()
		for _, text := range []string{counts, systemCounts} {
			if text != "" {
				fmt.Println(text)
			}
		}
		return code
	})
}

var counts string // of TestPowerCuts, for people

var seedFlag = flag.Uint64("seed", 0, "repeat what an earlier run has chosen by chance (its moments are still the machine's)")

// shapes are the machines; two run at a time, and each has its share of the cuts.
var shapes = []struct {
	cgroupV1 bool
	data     string
	web      bool // the repository is on a web server, and refreshes come as deltas
}{{true, "ext4", true}, {false, "btrfs", true}, {false, "ext4", false}, {true, "xfs", false}}

// tally counts what has happened, over all machines.
type tally struct {
	mu            sync.Mutex
	cuts          int
	lost, unclean []string
	where         map[string]int // step or operation → cuts
	how           map[string]int // kind of cut → cuts
	pending       int            // cuts at which something was not flushed
	seen          map[string]int // fault points → how often it is passed in one life of an agent, at most
	tried         map[string]int // fault points at which there was a cut
}

func newTally() *tally {
	return &tally{where: map[string]int{}, how: map[string]int{}, seen: map[string]int{}, tried: map[string]int{}}
}

// TestPowerCuts makes 8 cuts, or LULL_POWERCUT; `make powercut` makes 60.
func TestPowerCuts(t *testing.T) {
	require.QEMU(t)
	require.NotShort(t)
	require.Program(t, "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "cc")
	t.Parallel()
	n := 8
	if s := os.Getenv("LULL_POWERCUT"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("powercut: -seed=%d", seed)
	y := newTally()
	t.Run("machines", func(t *testing.T) {
		for i, s := range shapes {
			share := (n + len(shapes) - 1 - i) / len(shapes)
			t.Run(fmt.Sprintf("%s-v%d", s.data, map[bool]int{true: 1, false: 2}[s.cgroupV1]), func(t *testing.T) {
				t.Parallel()
				if share > 0 {
					cutPower(t, y, rig.VMOptions{CgroupV1: s.cgroupV1, Data: s.data}, s.web, share, rand.New(rand.NewPCG(seed, uint64(i))))
				}
			})
		}
	})
	for _, m := range []map[string]int{y.where, y.how} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			t.Logf("%4d %s", m[k], k)
		}
	}
	t.Logf("%d cuts with unflushed writes; %d different fault points: %s", y.pending, len(y.tried), strings.Join(slices.Sorted(maps.Keys(y.tried)), ", "))
	if n >= 16 && y.pending == 0 {
		t.Error("there was nothing to lose at any cut")
	}
	counts = fmt.Sprintf("powercut: %d cuts, %d lost, %d unclean", y.cuts, len(y.lost), len(y.unclean))
}

// cutPower makes a machine and cuts its power n times.
func cutPower(t *testing.T, y *tally, o rig.VMOptions, web bool, n int, rng *rand.Rand) {
	guest := filepath.Join(t.TempDir(), "guest")
	rig.GoBuild(t, "./e2e/powercut/guest", guest, nil)
	m := &machine{t: t, rng: rng, tally: y, steps: map[string]int{}, data: o.Data, web: web, collects: rng.IntN(2) == 0,
		repo: newRepository(t, rig.Binaries(t, "faultpoint"), guest)}
	conf := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, policy, m.collects), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Minimal, o.Tags = true, "faultpoint"
	o.Files = map[string]string{"usr/local/bin/powercut-guest": guest, "etc/lull/policy.yaml": conf, "opt/repo": m.repo.path("repo")}
	for i, name := range []string{keeper, bulk, extra, ""} {
		m.lanes = append(m.lanes, &lane{m: m, name: name, rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))), done: map[string]int{}, may: []string{""}})
	}
	m.vm = rig.StartVM(t, o)
	m.start("")
	if web {
		m.must("lull", "repo", "add", "local", "http://127.0.0.1", "--trust", "/opt/repo/root.json")
	} else {
		m.must("lull", "repo", "add", "local", "/opt/repo")
	}
	where := m.work(m.plan())
	for i := 1; i <= n; i++ {
		began := time.Now()
		p := m.plan()
		if i == n {
			p = cutPlan{} // the last boot is in peace
		}
		m.vm.Boot()
		rested := m.check(p.fault)
		t.Logf("%3d of %d: cut %s; checked in %v", i, n, where, time.Since(began).Round(100*time.Millisecond))
		if t.Failed() {
			return
		}
		switch {
		case i == n:
			m.goOn()
		case rested:
			where = m.work(p)
		default:
			where = m.cut(p)
		}
	}
}

// cutPlan is how the power is cut.
type cutPlan struct {
	how     string
	fault   string
	flushes int
	writes  int
	after   time.Duration
	fate    disk.Fate
}

// plan chooses a cut.
func (m *machine) plan() cutPlan {
	p := cutPlan{fate: []disk.Fate{disk.LoseAll, disk.LoseAll, disk.LoseAll, disk.Scatter, disk.Scatter, disk.Scatter, disk.Prefix, disk.Prefix, disk.KeepAll}[m.rng.IntN(9)]}
	switch dice := m.rng.IntN(12); {
	case dice < 3:
		p.how, p.flushes = "before a flush", 1+m.rng.IntN(100)
	case dice < 4:
		p.how, p.writes = "at a write", 1+m.rng.IntN(500)
	case dice < 6:
		p.how, p.after = "at a moment", time.Duration(m.rng.IntN(8000))*time.Millisecond
	default:
		p.how = "at a fault point"
		if p.fault = m.tally.choose(m.rng); p.fault == "" {
			p.how, p.after = "at a moment", time.Duration(m.rng.IntN(8000))*time.Millisecond
		} else if m.rng.IntN(4) == 0 {
			p.how = "after the agent was killed at a fault point and started again"
			p.fault = strings.Replace(p.fault, ":stop", ":kill", 1)
		}
	}
	return p
}

// choose picks the fault point that was tried least.
func (y *tally) choose(rng *rand.Rand) string {
	y.mu.Lock()
	defer y.mu.Unlock()
	names := slices.Sorted(maps.Keys(y.seen))
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if len(names) == 0 {
		return ""
	}
	name := slices.MinFunc(names, func(a, b string) int { return y.tried[a] - y.tried[b] })
	y.tried[name]++
	return fmt.Sprintf("%s#%d:stop", name, 1+rng.IntN((y.seen[name]+1)/2))
}

// saw remembers which points an agent has passed, and how often.
func (y *tally) saw(x *points) {
	x.mu.Lock()
	defer x.mu.Unlock()
	y.mu.Lock()
	defer y.mu.Unlock()
	for name, n := range x.counts {
		if !strings.HasPrefix(name, "launch.") {
			y.seen[name] = max(y.seen[name], n)
		}
	}
}
