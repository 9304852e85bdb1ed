package main

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// roundTrip is how long an answer of a server that is far away takes at least.
const roundTrip = 20 * time.Millisecond

// playToolchain installs the Go toolchain from a web server that is far away: its thousands of
// files are in one pack.
func playToolchain(tb rig.TB) results {
	myTurn(tb)
	s := setStage(tb, rig.Options{})
	tree := s.Path("go")
	s.command("cp", "-a", strings.TrimSpace(s.command("go", "env", "GOROOT")), tree)
	s.publishTree(toolchain, "1", tree, "--whole-pack")
	far := serveFar(s)
	s.warm(s.Repo)
	var requests, bytes []float64
	took := inTurns(1, 5, func() float64 {
		// Each time another agent, and nothing is deleted: see outwaitDeletions.
		client := setStage(tb, rig.Options{})
		client.MustLull("repo", "add", "far", far.url, "--trust", filepath.Join(s.Repo, "root.json"))
		far.requests.Store(0)
		far.bytes.Store(0)
		ms := s.timed(func() { client.MustLull("install", toolchain) })
		requests, bytes = append(requests, float64(far.requests.Load())), append(bytes, float64(far.bytes.Load()))
		return ms
	})
	return results{
		"toolchain-requests": {Ours: requests[1:], Notes: []string{
			fmt.Sprintf("%.1f MB, with the metadata of the package", median(bytes[1:])/1e6)}},
		"toolchain-rtt": {Ours: took[0], Notes: []string{
			fmt.Sprintf("each answer of the server begins %v late, on the same machine", roundTrip)}},
	}
}

// far is a web server that is far away.
type far struct {
	url             string
	requests, bytes atomic.Int64
}

// serveFar serves the repository until the scene ends.
func serveFar(s *stage) *far {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatalf("cannot serve the repository: %v", err)
	}
	f := &far{url: "http://" + l.Addr().String()}
	files := http.FileServer(http.Dir(s.Repo))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		time.Sleep(roundTrip)
		files.ServeHTTP(&counter{w, &f.bytes}, r)
	})}
	s.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }() // until Close
	return f
}

// counter counts the bytes of answers.
type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}
