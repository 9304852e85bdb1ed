package main

import (
	"bufio"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/rig"
)

const (
	deliveryInstalled = 20
	deliveryChanged   = 200
	deliveryDraws     = 200
	deliveryRounds    = 5 // of draws, each after a change of its own
	deliveryChecks    = 200
	deliveryPublished = 20
)

// playDelivery has machines read a repository of 10,000 packages behind nginx, and a small one
// in an object store, and publishes into one of 100,000.
func playDelivery(tb rig.TB) results {
	r := newShelf(tb, 10_000, true)
	n := r.serve()
	got := results{}
	r.idle(n, got)
	r.changed(n, got)
	got["publish-100k"] = newShelf(tb, 100_000, true).publications()
	return got
}

// shelf is a repository whose packages were listed without being published: only those
// that are published again have blobs.
type shelf struct {
	rig.TB
	dir  string
	size int
}

func shelfName(i int) string { return fmt.Sprintf("org.example.package%06d", i) }

func (r *shelf) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("cannot set the scene: %v", err)
	}
}

// newShelf makes one, with its list in one file or in bins.
func newShelf(tb rig.TB, size int, bins bool) *shelf {
	r := &shelf{tb, filepath.Join(tempDir(tb), "repo"), size}
	r.must(publish.Init(tb.Context(), r.dir, publish.InitOptions{}))
	meta := func(name string) string { return filepath.Join(r.dir, "metadata", name) }
	targets, err := metadata.Targets().FromFile(meta("1.targets.json"))
	r.must(err)
	snapshot, err := metadata.Snapshot().FromFile(meta("1.snapshot.json"))
	r.must(err)
	timestamp, err := metadata.Timestamp().FromFile(meta("timestamp.json"))
	r.must(err)
	now := time.Now().UTC().Truncate(time.Second)
	for i := range size {
		p := repo.Pointer{Name: shelfName(i), Channel: "stable", Package: digest.Of([]byte(shelfName(i))), Version: "1.0", Urgency: repo.UrgencyMedium,
			Published: now, Size: 12_345_678, Notes: "Faster, and prettier.", Rollout: repo.Rollout{Percent: 100}}
		data, err := p.Encode()
		r.must(err)
		sum := digest.Of(data)
		t := metadata.TargetFile()
		t.Length, t.Hashes["sha256"] = int64(len(data)), sum[:]
		targets.Signed.Targets[repo.PointerPath(p.Name, p.Channel)] = t
		dir := filepath.Join(r.dir, "channels", p.Name)
		r.must(os.MkdirAll(dir, 0o755))
		r.must(os.WriteFile(filepath.Join(dir, sum.String()+".stable.json"), data, 0o644))
	}
	targets.Signed.Version, snapshot.Signed.Version, timestamp.Signed.Version = 2, 2, 2
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(2)
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
	signAs(r, metadata.TARGETS, targets, meta("2.targets.json"))
	signAs(r, metadata.SNAPSHOT, snapshot, meta("2.snapshot.json"))
	signAs(r, metadata.TIMESTAMP, timestamp, meta("timestamp.json"))
	r.must(publish.Resign(tb.Context(), r.dir, publish.ResignOptions{Bins: bins}))
	r.must(durable.SyncFS(r.dir)) // a publication must not wait for the scene
	return r
}

// signAs signs metadata with the key of a role, and writes it.
func signAs[T metadata.Roles](r *shelf, role string, m *metadata.Metadata[T], path string) {
	data, err := os.ReadFile(filepath.Join(r.dir+".keys", role+".pem"))
	r.must(err)
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	r.must(err)
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	r.must(err)
	m.ClearSignatures()
	_, err = m.Sign(signer)
	r.must(err)
	data, err = m.ToBytes(false)
	r.must(err)
	r.must(os.WriteFile(path, data, 0o644))
}

// source makes the source of a package of the shelf.
func (r *shelf) source(i int, version string) (dir string) {
	dir, err := os.MkdirTemp(filepath.Dir(r.dir), "source-")
	r.must(err)
	r.must(os.WriteFile(filepath.Join(dir, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\n", shelfName(i), version), 0o644))
	return dir
}

// publish publishes a package of the shelf in another version.
func (r *shelf) publish(i int, version string) time.Duration {
	src := r.source(i, version)
	begun := time.Now()
	_, err := publish.Publish(r.Context(), r.dir, src, publish.Options{})
	took := time.Since(begun)
	r.must(err)
	return took
}

// publications are the times of publications, in milliseconds.
func (r *shelf) publications() (s samples) {
	var cpu []float64
	for i := range deliveryPublished + 2 {
		before := cpuTime()
		took := r.publish(rand.IntN(r.size), fmt.Sprint("2.", i))
		if i >= 2 {
			s.Ours, cpu = append(s.Ours, took.Seconds()*1000), append(cpu, (cpuTime()-before).Seconds()*1000)
		}
	}
	s.Notes = []string{fmt.Sprintf("a package of one small file, %d packages in bins, all on stable storage; processor time %.1f ms", r.size, median(cpu))}
	return s
}

// nginx is a server that logs the bytes of each request.
type nginx struct {
	url, log string
	marks    int // requests of mark
}

func (r *shelf) serve() *nginx {
	dir := tempDir(r.TB)
	r.must(os.Chmod(filepath.Dir(r.dir), 0o755))
	n := &nginx{log: filepath.Join(dir, "access.log")}
	n.url = "http://" + rig.Nginx(r.TB, dir, fmt.Sprintf(`log_format bytes '$request_length $bytes_sent $uri';
access_log %s bytes;
types { application/json json; }
gzip on; gzip_types application/json; gzip_comp_level 6; gzip_min_length 256; keepalive_requests 100000;
server { listen ADDRESS; root %s; }
`, n.log, r.dir))
	return n
}

// logged returns the requests of the log from a byte on, until now, and their bytes.
func (n *nginx) logged(r *shelf, from int64) (requests int, bytes int64) {
	line, _ := n.mark(r)
	f, err := os.Open(n.log)
	r.must(err)
	defer f.Close()
	_, err = f.Seek(from, 0)
	r.must(err)
	for s := bufio.NewScanner(io.LimitReader(f, line-from)); s.Scan(); requests++ {
		var in, out int64
		if _, err := fmt.Sscan(s.Text(), &in, &out); err != nil {
			r.Fatalf("the log of nginx has %q", s.Text())
		}
		bytes += in + out
	}
	return requests, bytes
}

// mark makes a request of its own and returns where its line in the log begins and ends. The
// one worker writes the line of each request before it answers the next one, so that all
// requests before it are in the log.
func (n *nginx) mark(r *shelf) (begin, end int64) {
	n.marks++
	path := fmt.Sprintf("/mark-%d", n.marks)
	answer, err := http.Get(n.url + path)
	r.must(err)
	r.must(answer.Body.Close())
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // no event reports that nginx has written
		b, err := os.ReadFile(n.log)
		r.must(err)
		if before, _, found := strings.Cut(string(b), path+"\n"); found {
			return int64(strings.LastIndexByte(before, '\n') + 1), int64(len(before) + len(path) + 1)
		}
		if time.Now().After(limit) {
			r.Fatalf("nginx does not log %s", path)
		}
	}
}

// machine is one that has some packages installed and has read the repository.
func (r *shelf) machine(n *nginx) (*repo.Client, []repo.Listing) {
	root, err := os.ReadFile(filepath.Join(r.dir, "root.json"))
	r.must(err)
	state, err := os.MkdirTemp(filepath.Dir(r.dir), "machine-")
	r.must(err)
	c, err := repo.Open(repo.Config{Name: "main", URL: n.url, Root: root}, state)
	r.must(err)
	r.Cleanup(c.Close)
	var installed []repo.Listing
	for _, i := range rand.Perm(r.size)[:deliveryInstalled] {
		installed = append(installed, repo.Listing{Name: shelfName(i), Channel: "stable"})
	}
	r.must(c.Update(r.Context()))
	r.must(r.wants(c, installed))
	return c, installed
}

// wants reads what is offered for the installed packages.
func (r *shelf) wants(c *repo.Client, installed []repo.Listing) error {
	c.Prepare(r.Context(), installed)
	for _, l := range installed {
		if _, err := c.Offers(r.Context(), l.Name, l.Channel); err != nil {
			return err
		}
	}
	return nil
}

// heapInUse is the memory of this process that is in use after a collection.
func heapInUse() int64 {
	var m runtime.MemStats
	for range 3 { // finalizers free more
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpuTime is the processor time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for a wrong argument only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// changed measures the first check after some packages were published.
func (r *shelf) changed(n *nginx, got results) {
	var requests int
	var bytes int64
	for round := range deliveryRounds {
		req, b := r.round(n, fmt.Sprint("2.", round))
		requests, bytes = requests+req, bytes+b
	}
	const draws = deliveryDraws * deliveryRounds
	mean := func(total float64) samples {
		return samples{Ours: []float64{total / draws}, Notes: []string{
			fmt.Sprintf("mean of %d draws: %d of %d packages changed, %d installed", draws, deliveryChanged, r.size, deliveryInstalled)}}
	}
	got["check-changed"], got["check-changed-bytes"] = mean(float64(requests)), mean(float64(bytes)/1000)
}

// round has machines check after packages were published in a version.
func (r *shelf) round(n *nginx, version string) (requests int, bytes int64) {
	type machine struct {
		*repo.Client
		installed []repo.Listing
	}
	var machines []machine
	for range deliveryDraws {
		c, installed := r.machine(n)
		machines = append(machines, machine{c, installed})
	}
	for _, i := range rand.Perm(r.size)[:deliveryChanged] {
		r.publish(i, version)
	}
	_, from := n.mark(r)
	for _, m := range machines {
		r.must(m.Check(r.Context()))
		r.must(r.wants(m.Client, m.installed))
		m.Close()
	}
	return n.logged(r, from)
}
