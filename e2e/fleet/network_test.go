package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// network is in memory, between the machines and nginx.
type network struct {
	nginx  string
	server http.Server
	dialed chan net.Conn // of the machines

	// errands go to workers outside of the bubble. A machine that waits for one keeps the time
	// from going on.
	errands, idle chan *errand

	down   atomic.Bool  // no machine has a network
	busy   atomic.Int64 // Retry-After in seconds of each answer; 0 means that the server serves
	faults atomic.Int64 // requests of 1,000 with a fault

	mu       sync.Mutex
	rand     *rand.Rand
	requests []request
	traffic  map[string]*traffic // by machine
	broken   map[string]int
}

// traffic is what a machine has caused so far.
type traffic struct {
	requests, faults int
	bytes            int // in both directions, with headers
}

// request is one that reached the server.
type request struct {
	machine string
	at      time.Time
	path    string
	fault   string // "" means that it was answered by nginx
}

type errand struct {
	url    string
	header http.Header
	status int
	reply  http.Header
	body   []byte
	err    error
	done   chan struct{}
}

// newNetwork starts the workers. It is called outside of the bubble.
func newNetwork(nginx string, seed uint64) (n *network, stop func()) {
	n = &network{nginx: nginx, rand: rand.New(rand.NewPCG(seed, 0)), broken: map[string]int{}, traffic: map[string]*traffic{}}
	const workers = 8
	n.errands, n.idle = make(chan *errand), make(chan *errand, workers)
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: workers}}
	var wg sync.WaitGroup
	for range workers {
		n.idle <- &errand{done: make(chan struct{})}
		wg.Go(func() {
			for e := range n.errands {
				e.run(client)
				e.done <- struct{}{}
			}
		})
	}
	return n, func() { close(n.errands); wg.Wait(); client.CloseIdleConnections() }
}

func (e *errand) run(client *http.Client) {
	req, err := http.NewRequest(http.MethodGet, e.url, nil)
	if err != nil {
		e.err = err
		return
	}
	req.Header = e.header
	res, err := client.Do(req)
	if err != nil {
		e.err = err
		return
	}
	defer res.Body.Close()
	e.status, e.reply = res.StatusCode, res.Header
	e.body, e.err = io.ReadAll(res.Body)
}

// serve serves the machines until the context ends. It is called in the bubble.
func (n *network) serve(ctx context.Context) {
	n.dialed = make(chan net.Conn)
	n.server.Handler = n
	l := listener{n.dialed, ctx}
	go func() { _ = n.server.Serve(l) }() // ends with the listener
	context.AfterFunc(ctx, func() { n.server.Close() })
}

type listener struct {
	dialed chan net.Conn
	ctx    context.Context
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.dialed:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "fleet", Net: "unix"} }

var errNoRoute = errors.New("there is no route to the host")

// dial is the network of the machines.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if n.down.Load() {
		return nil, errNoRoute
	}
	ours, theirs := net.Pipe()
	select {
	case n.dialed <- theirs:
		machine, _, _ := strings.Cut(address, ".")
		return counted{ours, n, machine}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// counted counts the bytes of a connection.
type counted struct {
	net.Conn
	n       *network
	machine string
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.count(c.machine, traffic{bytes: n})
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.count(c.machine, traffic{bytes: n})
	return n, err
}

func (n *network) count(machine string, more traffic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.traffic[machine]
	if t == nil {
		t = &traffic{}
		n.traffic[machine] = t
	}
	t.requests += more.requests
	t.faults += more.faults
	t.bytes += more.bytes
}

// of returns what a machine has caused so far.
func (n *network) of(machine string) traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.traffic[machine]; t != nil {
		return *t
	}
	return traffic{}
}

// The faults of the network and the server.
var faults = []string{"cut", "stalled", "dripping", "flipped", "403", "404", "429", "500", "503", "wrong length", "web page", "redirect loop"}

// fault draws the fault of a request; "" means none.
func (n *network) fault() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rand.Int64N(1000) >= n.faults.Load() {
		return ""
	}
	f := faults[n.rand.IntN(len(faults))]
	n.broken[f]++
	return f
}

// asked is the value of Retry-After in the fault 429.
const asked = 2 * time.Hour

func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := request{machine: strings.TrimSuffix(r.Host, ".fleet"), at: time.Now(), path: r.URL.Path}
	after := n.busy.Load()
	if after > 0 {
		req.fault = "busy"
	} else {
		req.fault = n.fault()
	}
	n.mu.Lock()
	n.requests = append(n.requests, req)
	n.mu.Unlock()
	sent := traffic{requests: 1}
	if req.fault != "" {
		sent.faults = 1
	}
	n.count(req.machine, sent)
	switch req.fault {
	case "busy":
		w.Header().Set("Retry-After", fmt.Sprint(after))
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	case "429":
		w.Header().Set("Retry-After", fmt.Sprint(int(asked.Seconds())))
		http.Error(w, "too many", http.StatusTooManyRequests)
		return
	case "403", "404", "500", "503":
		var code int
		fmt.Sscan(req.fault, &code)
		http.Error(w, "fault", code)
		return
	case "web page":
		fmt.Fprint(w, "<!DOCTYPE html><html><title>Log in</title></html>")
		return
	case "redirect loop":
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return
	}
	status, header, body, err := n.fetch(r)
	if err != nil {
		panic(err) // nginx itself does not answer; the test sees the error in the server's log
	}
	for k, v := range header {
		w.Header()[k] = v
	}
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if req.fault == "flipped" && len(body) > 0 {
		body = bytes.Clone(body)
		body[len(body)/2] ^= 0x20
	}
	if req.fault == "wrong length" {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)+10))
	}
	w.WriteHeader(status)
	rest := body
	if req.fault == "cut" || req.fault == "stalled" || req.fault == "dripping" {
		rest = body[:len(body)/2]
	}
	_, _ = w.Write(rest) // the machine may have gone
	switch req.fault {
	case "cut":
		panic(http.ErrAbortHandler)
	case "stalled", "dripping":
		flush, _ := w.(http.Flusher)
		flush.Flush()
		for _, b := range body[len(rest):] {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Second):
			}
			if req.fault == "dripping" {
				_, _ = w.Write([]byte{b})
				flush.Flush()
			}
		}
	}
}

// fetch has nginx answer a request.
func (n *network) fetch(r *http.Request) (status int, header http.Header, body []byte, err error) {
	e := <-n.idle
	e.url, e.header, e.err = n.nginx+r.URL.Path, r.Header.Clone(), nil
	n.errands <- e
	<-e.done
	status, header, body, err = e.status, e.reply, e.body, e.err
	n.idle <- e
	return status, header, body, err
}
