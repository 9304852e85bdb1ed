package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/rig"
)

// Packages of a store come in sets: one that contains all the others of its set,
// whose trees are therefore flushed together.
const (
	setSize      = 100 // packages
	packageBlobs = 100 // with the meta
)

// playScale collects half of a store of a hundred thousand blobs, of one of a
// million, and of a second one of a hundred thousand.
func playScale(tb rig.TB) results {
	myTurn(tb)
	first := collectHalf(tb, 100_000)
	large := collectHalf(tb, 1_000_000)
	second := collectHalf(tb, 100_000)
	inside := resolveWhileCollecting(tb, 1_000_000)
	told := func(what string, took []float64) string {
		return fmt.Sprintf("%s: median %.2f ms, 99th percentile %.2f ms, longest %.1f ms, of %d", what, median(took), quantile(took, 0.99), quantile(took, 1), len(took))
	}
	notes := []string{fmt.Sprintf("10,000 packages, %d blobs collected in %.1f s, on %s", large.blobs, large.took.Seconds(), fileSystem(os.TempDir())),
		fmt.Sprintf("the agent's memory: %.0f MiB after the start, %.0f MiB at most during the collection", large.memory, large.peak)}
	return results{
		"gc-scale": {Ours: []float64{large.perBlob()}, Theirs: []float64{first.perBlob(), second.perBlob()}, Notes: notes},
		"gc-resolve-p99": {Ours: []float64{quantile(inside, 0.99)}, Notes: []string{told("without an agent and a bus", inside),
			told("Open over the bus, of an agent that collects", large.resolves), told("in turns with it, a call that the bus itself answers", large.pings)}},
		"agent-start": {Ours: large.starts, Notes: []string{fmt.Sprintf("with 100,000 blobs: %.0f ms", median(first.starts))}},
	}
}

// half is how a collection went.
type half struct {
	blobs        int
	took         time.Duration
	resolves     []float64 // milliseconds
	pings        []float64 // of the bus, the same
	starts       []float64
	memory, peak float64 // MiB
}

func (h half) perBlob() float64 { return float64(h.took.Microseconds()) / float64(h.blobs) }

// collectHalf makes a store whose every other set is protected, starts an
// agent three times, and has the last one collect.
func collectHalf(tb rig.TB, blobs int) (h half) {
	s := &stage{World: rig.New(tb, rig.Options{})}
	s.Configure("policy.yaml", quiet)
	s.start() // an agent that finds a store without its records protects all of it
	s.agent.Stop()
	s.agent = nil
	var kept []digest.Digest
	for i, pkg := range s.makeSets(blobs / packageBlobs / setSize) {
		if i%2 == 0 {
			kept = append(kept, pkg)
		}
	}
	var list strings.Builder
	for _, pkg := range kept {
		fmt.Fprintf(&list, "  - %s\n", pkg)
	}
	s.Configure("system.yaml", "cache:\n"+list.String())
	unix.Sync()
	for range 3 {
		if s.agent != nil {
			s.agent.Stop()
		}
		began := time.Now()
		s.start()
		h.starts = append(h.starts, ms(time.Since(began)))
	}
	h.memory = s.memory("VmRSS")
	space := bus.NewSpaceProxy(s.Bus.Connect(), bus.AgentPath)
	var done atomic.Bool
	var resolving sync.WaitGroup
	resolving.Go(func() { h.resolves, h.pings = s.openUntil(&done, kept) })
	began := time.Now()
	n, _, _, err := space.Collect(s.Context(), bus.CollectOptions{})
	h.took, h.blobs = time.Since(began), int(n)
	done.Store(true)
	resolving.Wait()
	if err != nil || h.blobs < blobs/2-setSize {
		s.Fatalf("%d blobs were collected: %v", h.blobs, err)
	}
	h.peak = s.memory("VmHWM")
	s.agent.Stop()
	if err := os.RemoveAll(s.Store); err != nil {
		s.Fatalf("%v", err)
	}
	return h
}

// memory is a line of the agent's /proc/PID/status, in MiB.
func (s *stage) memory(key string) float64 {
	var kib float64
	fmt.Sscan(valueIn(fmt.Sprintf("/proc/%d/status", s.agent.PID), key), &kib)
	return kib / 1024
}

// openUntil opens packages that are there, every other millisecond, and asks the bus
// for something between. It returns how long each took.
func (s *stage) openUntil(done *atomic.Bool, pkgs []digest.Digest) (took, pings []float64) {
	conn, err := bus.DialFDs(s.Context(), s.Bus.Address, false)
	if err != nil {
		s.Fatalf("%v", err)
	}
	defer conn.Close()
	manager := bus.NewManagerProxy(conn, bus.AgentPath)
	for i := 0; !done.Load(); i++ {
		began := time.Now()
		dir, lease, _, err := manager.Open(s.Context(), pkgs[i%len(pkgs)].String())
		took = append(took, ms(time.Since(began)))
		if err != nil {
			s.Fatalf("cannot open a package: %v", err)
		}
		dir.Close()
		lease.Close()
		time.Sleep(time.Millisecond)
		began = time.Now()
		if err := conn.BusObject().CallWithContext(s.Context(), "org.freedesktop.DBus.GetId", 0).Err; err != nil {
			s.Fatalf("cannot ask the bus: %v", err)
		}
		pings = append(pings, ms(time.Since(began)))
		time.Sleep(time.Millisecond)
	}
	return took, pings
}

// resolveWhileCollecting resolves packages that are there, every other millisecond,
// while half of a store is collected, as an agent would, without one: what the bus
// takes, and who is behind it, is not in it. It returns how long each took.
func resolveWhileCollecting(tb rig.TB, blobs int) (took []float64) {
	s := &stage{World: rig.New(tb, rig.Options{})}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(agent.Processors()))
	var roots []index.Root
	for i, pkg := range s.makeSets(blobs / packageBlobs / setSize) {
		if i%2 == 0 {
			roots = append(roots, index.Root{Package: pkg})
		}
	}
	unix.Sync()
	st, err := store.Open(s.Store)
	if err != nil {
		s.Fatalf("%v", err)
	}
	ix := index.New()
	ix.SetCache(roots)
	resolver := resolve.New(st, ix)
	var done atomic.Bool
	var resolving sync.WaitGroup
	resolving.Go(func() {
		for i := 0; !done.Load(); i++ {
			began := time.Now()
			err := resolver.Resolve(s.Context(), roots[i%len(roots)].Package, nil, "bench", nil)
			took = append(took, ms(time.Since(began)))
			if err != nil {
				s.Fatalf("cannot resolve: %v", err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	result, err := gc.Collect(s.Context(), st, ix, gc.Options{})
	done.Store(true)
	resolving.Wait()
	if err != nil || result.Blobs < blobs/2-setSize {
		s.Fatalf("%d blobs were collected: %v", result.Blobs, err)
	}
	if err := os.RemoveAll(s.Store); err != nil {
		s.Fatalf("%v", err)
	}
	return took
}

// makeSets fills the store, and returns the packages that contain the others.
// Blobs are written as an ingest would leave them, without its flush for each
// package.
func (s *stage) makeSets(sets int) []digest.Digest {
	st, err := store.Open(s.Store)
	if err != nil {
		s.Fatalf("%v", err)
	}
	tops := make([]digest.Digest, sets)
	var work sync.WaitGroup
	errs := make([]error, 2)
	for w := range errs {
		work.Go(func() {
			for i := w; i < sets && errs[w] == nil; i += len(errs) {
				tops[i], errs[w] = makeSet(st, i)
			}
		})
	}
	work.Wait()
	for _, err := range errs {
		if err != nil {
			s.Fatalf("cannot fill the store: %v", err)
		}
	}
	return tops
}

func makeSet(st *store.Store, n int) (top digest.Digest, err error) {
	subs := map[string]digest.Digest{}
	for i := range setSize {
		m := &manifest.Meta{Launch: manifest.Launch{Name: fmt.Sprintf("p%d-%d", n, i), Version: "1"}}
		if i == setSize-1 {
			m.Subpackages = subs
		}
		for k := range packageBlobs - 1 {
			content := binary.BigEndian.AppendUint64(nil, uint64((n*setSize+i)*packageBlobs+k))
			d, err := putBlob(st, content)
			if err != nil {
				return top, err
			}
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("d%d/f%d", k/10, k), Blob: d, Size: int64(len(content))})
		}
		b, err := m.Encode()
		if err != nil {
			return top, err
		}
		if top, err = putBlob(st, b); err != nil {
			return top, err
		}
		subs[fmt.Sprintf("s%d", i)] = top
	}
	return top, st.Materialise(top)
}

func putBlob(st *store.Store, content []byte) (digest.Digest, error) {
	d := digest.Of(content)
	path := st.BlobPath(store.Key{Digest: d})
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return d, err
	}
	return d, os.WriteFile(path, content, 0o444)
}
