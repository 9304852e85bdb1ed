package fleet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const (
	day      = 24 * time.Hour
	packages = 10 // each machine has half of them
	usual    = 40 // machines without LULL_FLEET
)

// halted is the version whose rollout the publisher ends.
const halted = "3.0-bad"

// TestFleet: through a week with publications, rollouts, a halt, new keys, power cuts, an
// overloaded server and a bad network, every machine gets what it should, and nothing else; none
// asks more often than promised; and machines that were started together do not come together.
func TestFleet(t *testing.T) {
	require.Program(t, "nginx")
	number := usual
	if s := os.Getenv("LULL_FLEET"); s != "" {
		var err error
		if number, err = strconv.Atoi(s); err != nil {
			t.Fatalf("LULL_FLEET: %v", err)
		}
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	w := &week{T: t, dir: dir, repo: filepath.Join(dir, "repo"), current: map[string]digest.Digest{}}
	must(t, os.Mkdir(w.repo, 0o755))
	at := filepath.Join(dir, "nginx")
	must(t, os.Mkdir(at, 0o755))
	address := rig.Nginx(t, at, fmt.Sprintf("access_log off; types { application/json json; application/zstd zst; }\n"+
		"gzip on; gzip_types application/json; gzip_min_length 256; keepalive_requests 1000000;\nserver { listen ADDRESS; root %s; }\n", w.repo))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	n, stop := newNetwork("http://"+address, seed)
	defer stop()
	w.network = n
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(real.Truncate(day).Add(day))) // bubbles begin in the year 2000
		w.T, w.began = t, time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n.serve(ctx)
		w.run(ctx, number)
	})
	w.T = t
	w.judge()
	w.report(time.Since(real))
}

// week is the story.
type week struct {
	*testing.T
	dir, repo string
	network   *network
	machines  []*machine
	began     time.Time
	current   map[string]digest.Digest // what all machines should have at the end, by package
	bad       digest.Digest
	changes   []time.Time // of the repository
	outages   []span      // after which all machines may check
}

type span struct{ from, to time.Time }

func name(i int) string { return fmt.Sprintf("org.example.app%d", i) }

// run plays the week.
func (w *week) run(ctx context.Context, number int) {
	w.change(publish.Init(ctx, w.repo, publish.InitOptions{}))
	for i := range packages {
		w.publish(ctx, i, "1.0", publish.Options{})
	}
	var on sync.WaitGroup
	ctx, off := context.WithCancel(ctx)
	defer func() { off(); on.Wait() }()
	for i := range number {
		m := newMachine(w.T, w.network, w.dir, filepath.Join(w.repo, "root.json"), fmt.Sprintf("m%04d", i))
		m.office = i%4 == 0
		for j := range packages / 2 {
			m.wants = append(m.wants, repo.Listing{Name: name((i + j*3) % packages), Channel: "stable"})
		}
		slices.SortFunc(m.wants, func(a, b repo.Listing) int { return strings.Compare(a.Name, b.Name) })
		m.wants = slices.Compact(m.wants)
		w.machines = append(w.machines, m)
		on.Go(func() { w.live(ctx, m) })
	}
	w.network.faults.Store(20)
	for _, e := range w.events() {
		w.until(e.at)
		e.do(ctx)
	}
	w.until(8 * day)
}

// live switches a machine on and off. All are switched on at the beginning; those of an office
// go off in the evening and on again in the morning.
func (w *week) live(ctx context.Context, m *machine) {
	if !m.office {
		m.on(ctx)
		return
	}
	for d := range 8 {
		today, evening := context.WithCancel(ctx)
		at := w.began.Add(time.Duration(d)*day + 18*time.Hour)
		alarm := time.AfterFunc(time.Until(at), evening)
		m.on(today)
		alarm.Stop()
		evening()
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(w.began.Add(time.Duration(d+1)*day + 8*time.Hour))):
		}
	}
}

func (w *week) until(at time.Duration) { time.Sleep(time.Until(w.began.Add(at))) }

type event struct {
	at    time.Duration
	label string // for the chart, or ""
	do    func(ctx context.Context)
}

// events are the week, in order.
func (w *week) events() (list []event) {
	add := func(at time.Duration, label string, do func(context.Context)) {
		list = append(list, event{at, label, do})
	}
	for d := range 8 {
		add(time.Duration(d)*day+time.Minute, "", func(ctx context.Context) { w.change(publish.Resign(ctx, w.repo, publish.ResignOptions{})) })
		add(time.Duration(d)*day+10*time.Hour, "", func(ctx context.Context) {
			if d < 7 { // on the last day all should come to rest
				w.publish(ctx, d, fmt.Sprintf("2.%d", d), publish.Options{})
			}
		})
	}
	steps := []repo.Step{{Percent: 10}, {Percent: 50, After: 12 * 3600}, {Percent: 100, After: 24 * 3600}}
	add(1*day+9*time.Hour, "rollout by time", func(ctx context.Context) { w.publish(ctx, 7, "3.0", publish.Options{Steps: steps}) })
	add(2*day+9*time.Hour, "to 20 %", func(ctx context.Context) {
		twenty := 20
		before := w.current[name(8)]
		w.publish(ctx, 8, halted, publish.Options{Rollout: &twenty})
		w.bad, w.current[name(8)] = w.current[name(8)], before
	})
	add(2*day+21*time.Hour, "halted", func(ctx context.Context) {
		_, err := publish.Halt(ctx, w.repo, publish.HaltOptions{ChannelOptions: publish.ChannelOptions{Name: name(8)}, Reason: "it fails"})
		w.change(err)
	})
	add(3*day+12*time.Hour, "new keys", func(ctx context.Context) { w.change(publish.Rotate(ctx, w.repo, publish.RotateOptions{})) })
	add(4*day+8*time.Hour+30*time.Minute, "network down", func(context.Context) { w.network.down.Store(true) })
	add(4*day+11*time.Hour, "up again", func(context.Context) {
		w.network.down.Store(false)
		w.outages = append(w.outages, span{w.began.Add(4*day + 8*time.Hour + 30*time.Minute), time.Now()})
		for _, m := range w.machines {
			m.comesUp()
		}
	})
	add(5*day+13*time.Hour, "server overloaded", func(context.Context) { w.network.busy.Store(1800) })
	add(5*day+15*time.Hour, "", func(context.Context) { w.network.busy.Store(0) })
	add(6*day+12*time.Hour, "security", func(ctx context.Context) { w.publish(ctx, 9, "4.0", publish.Options{Urgency: repo.UrgencySecurity}) })
	add(7*day, "no more faults", func(context.Context) {
		w.network.faults.Store(0)
	})
	slices.SortStableFunc(list, func(a, b event) int { return int((a.at - b.at) / time.Second) })
	return list
}

// publish publishes a version of a package.
func (w *week) publish(ctx context.Context, i int, version string, o publish.Options) {
	src := filepath.Join(w.dir, "sources", name(i), version)
	must(w.T, os.MkdirAll(src, 0o755))
	must(w.T, os.WriteFile(filepath.Join(src, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\n", name(i), version), 0o644))
	must(w.T, os.WriteFile(filepath.Join(src, "content"), []byte(strings.Repeat(name(i)+version, 500)), 0o644))
	must(w.T, os.WriteFile(filepath.Join(src, "same"), []byte(strings.Repeat(name(i), 500)), 0o644))
	r, err := publish.Publish(ctx, w.repo, src, o)
	w.change(err)
	w.current[name(i)] = r.Package
}

// change ends a change of the repository. nginx has the time of the file from the kernel, whose
// time is not that of the story.
func (w *week) change(err error) {
	w.Helper()
	must(w.T, err)
	w.changes = append(w.changes, time.Now())
	must(w.T, os.Chtimes(filepath.Join(w.repo, "metadata", "timestamp.json"), time.Now(), time.Now()))
}
