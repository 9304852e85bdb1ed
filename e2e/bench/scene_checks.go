package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/e2e/rig"
)

// idle measures checks of a repository that has nothing new, behind nginx and in an object
// store.
func (r *shelf) idle(n *nginx, got results) {
	// In the second of its signature a timestamp has no ETag that a machine uses.
	ago := time.Now().Add(-time.Hour)
	r.must(os.Chtimes(filepath.Join(r.dir, "metadata", "timestamp.json"), ago, ago))
	before := heapInUse()
	c, installed := r.machine(n)
	kept := heapInUse() - before
	cpu := samples{Notes: []string{fmt.Sprintf("the client keeps %d KiB of the repository in memory", kept/1024)}}
	_, from := n.mark(r)
	for range deliveryChecks {
		before := cpuTime()
		r.must(c.Check(r.Context()))
		r.must(r.wants(c, installed))
		cpu.Ours = append(cpu.Ours, (cpuTime()-before).Seconds()*1000)
	}
	requests, bytes := n.logged(r, from)
	_, from = n.mark(r)
	for range deliveryChecks {
		r.must(c.Update(r.Context()))
		r.must(r.wants(c, installed))
	}
	rootRequests, rootBytes := n.logged(r, from)
	store, rootStore := r.inStore()

	mean := fmt.Sprintf("mean of %d checks, %d packages installed of %d", deliveryChecks, deliveryInstalled, r.size)
	per := func(total int64, notes ...string) samples {
		return samples{Ours: []float64{float64(total) / deliveryChecks}, Notes: append([]string{mean}, notes...)}
	}
	got["check-idle-requests"], got["check-idle-bytes"], got["check-idle-cpu"] = per(int64(requests)), per(bytes), cpu
	got["check-idle-bytes-s3"] = store
	got["check-root-requests"] = per(int64(rootRequests))
	got["check-root-bytes"] = per(rootBytes, "in the S3 object store: "+rootStore)
}

// inStore measures the same checks in an object store, and describes those that request the
// next root.
func (r *shelf) inStore() (checks samples, root string) {
	gateway, err := rig.Gateway()
	r.must(err)
	objects := tempDir(r.TB)
	address := rig.ObjectStore(r.TB, gateway, objects)
	r.intoStore(address)
	ago := time.Now().Add(-time.Hour) // as above
	r.must(os.Chtimes(filepath.Join(objects, rig.StoreBucket, "main", "metadata", "timestamp.json"), ago, ago))

	m := newRelay(r, address)
	data, err := os.ReadFile(filepath.Join(r.storeKeys(), "root.json"))
	r.must(err)
	c, err := repo.Open(repo.Config{Name: "store", URL: "http://" + m.address + "/" + rig.StoreBucket + "/main", Root: data}, tempDir(r.TB))
	r.must(err)
	defer c.Close()
	var installed []repo.Listing
	for i := range deliveryInstalled {
		installed = append(installed, repo.Listing{Name: shelfName(i), Channel: "stable"})
	}
	r.must(c.Update(r.Context()))
	r.must(r.wants(c, installed))
	mean := func(check func(context.Context) error) (sent, received float64) {
		s, v := m.sent.Load(), m.received.Load()
		for range deliveryChecks {
			r.must(check(r.Context()))
			r.must(r.wants(c, installed))
		}
		return float64(m.sent.Load()-s) / deliveryChecks, float64(m.received.Load()-v) / deliveryChecks
	}
	sent, received := mean(c.Check)
	checks = samples{Ours: []float64{sent + received}, Notes: []string{fmt.Sprintf("mean of %d checks, %d packages; request %.0f bytes, response %.0f; Versity S3 Gateway",
		deliveryChecks, deliveryInstalled, sent, received)}}
	sent, received = mean(c.Update)
	return checks, fmt.Sprintf("%.0f bytes", sent+received)
}

func (r *shelf) storeKeys() string { return filepath.Join(filepath.Dir(r.dir), "store.keys") }

// intoStore publishes as many packages as a machine has installed into an object store.
func (r *shelf) intoStore(address string) {
	lull := filepath.Join(rig.Binaries(r.TB, ""), "lull")
	run := func(arguments ...string) {
		cmd := exec.CommandContext(r.Context(), lull, append(arguments, "--keys", r.storeKeys())...)
		cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL=http://"+address, "AWS_ACCESS_KEY_ID="+rig.StoreOwner, "AWS_SECRET_ACCESS_KEY="+rig.StoreSecret)
		if out, err := cmd.CombinedOutput(); err != nil {
			r.Fatalf("cannot publish into the object store: %v: %s", err, out)
		}
	}
	const in = "s3://" + rig.StoreBucket + "/main"
	run("repo", "init", in)
	all := []string{"publish", "--repo", in}
	for i := range deliveryInstalled {
		all = append(all, r.source(i, "1.0"))
	}
	run(all...)
}

// relay passes connections on to a server and counts their bytes.
type relay struct {
	address        string
	sent, received atomic.Int64
}

func newRelay(r *shelf, to string) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	m := &relay{address: l.Addr().String()}
	var all sync.WaitGroup
	pass := func(from, to net.Conn, count *atomic.Int64) {
		_, _ = io.Copy(counting{to, count}, from) // ends with either connection
		to.Close()
		from.Close()
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			all.Go(func() { pass(c, s, &m.sent) })
			all.Go(func() { pass(s, c, &m.received) })
		}
	})
	r.Cleanup(func() { l.Close(); all.Wait() })
	return m
}

// counting counts before it writes, so that what a peer has received is counted.
type counting struct {
	io.Writer
	count *atomic.Int64
}

func (w counting) Write(b []byte) (int, error) {
	w.count.Add(int64(len(b)))
	return w.Writer.Write(b)
}
