package offers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/cost"
)

// mostDelay is how long a bad repository may delay another one.
const mostDelay = time.Second

// The files of a repository that a client reads, by the beginning and a part of their paths.
var readings = []struct{ name, prefix, part string }{
	{"root", "/metadata/", ".root."}, {"timestamp", "/metadata/timestamp", ""}, {"snapshot", "/metadata/", ".snapshot."},
	{"targets", "/metadata/", ".targets."}, {"bin", "/metadata/", ".bin"}, {"pointer", "/channels/", ""}, {"blob", "/blobs/", ""},
}

// The faults of a server's answers.
var answers = map[string]func(w http.ResponseWriter, r *http.Request){
	"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"a slow drip": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		}
	},
	"an endless body": func(w http.ResponseWriter, r *http.Request) {
		for more := make([]byte, 64<<10); r.Context().Err() == nil; {
			if _, err := w.Write(more); err != nil {
				return
			}
		}
	},
	"404": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "fault", http.StatusNotFound) },
	"500": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "fault", http.StatusInternalServerError) },
	"Retry-After": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		http.Error(w, "fault", http.StatusServiceUnavailable)
	},
	// By HTTP/2 it resets the stream, else the connection.
	"a reset in the body": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x00\xffgarbage\x01")) },
}

// The faults of connections, before there is a request. The dialer of the agent waits 15
// seconds for one.
var connections = map[string]func(ctx context.Context, accept func(net.Conn)) (net.Conn, error){
	"refused": func(context.Context, func(net.Conn)) (net.Conn, error) { return nil, errors.New("connection refused") },
	"not accepted": func(ctx context.Context, _ func(net.Conn)) (net.Conn, error) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(15 * time.Second):
			return nil, os.ErrDeadlineExceeded
		}
	},
	"accepted, and silent": func(context.Context, func(net.Conn)) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // also where a TLS handshake is expected
		return ours, nil
	},
	"closed": func(context.Context, func(net.Conn)) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Read(make([]byte, 1)); theirs.Close() }()
		return ours, nil
	},
	"garbage in place of the protocol": func(context.Context, func(net.Conn)) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() { _, _ = theirs.Write([]byte(strings.Repeat("garbage\n", 1000))); theirs.Close() }()
		return ours, nil
	},
}

// certify makes a certificate for the names, and trusts it if path is not "".
func certify(t *testing.T, path string, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err == nil && path != "" {
		err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// pair is a good repository and a bad one, and how they are reached.
type pair struct {
	scheme    string
	cert, bad tls.Certificate
	good, dir string // the directories
	root      string // of the agent
	db        *state.DB
	installed *state.DB // of a machine that has a package of each
	store     *store.Store
	// Of the bad one: the answer to requests that match, or the connection.
	match  func(path string) bool
	answer func(http.ResponseWriter, *http.Request)
	dial   func(context.Context, func(net.Conn)) (net.Conn, error)
	hit    atomic.Bool  // the fault has happened
	others atomic.Int64 // requests over TLS and not by HTTP/2
}

// listener has the connections of one server.
type listener struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (listener) Close() error   { return nil }
func (listener) Addr() net.Addr { return &net.UnixAddr{Name: "server", Net: "unix"} }

// serve starts a server of a directory, and returns what connects to it.
func (p *pair) serve(ctx context.Context, dir string, cert tls.Certificate, bad bool) func(net.Conn) {
	files := http.FileServer(http.Dir(dir))
	s := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p.scheme == "https" && r.ProtoMajor != 2 {
				p.others.Add(1)
			}
			if bad && p.answer != nil && p.match(r.URL.Path) {
				p.hit.Store(true)
				p.answer(w, r)
				return
			}
			files.ServeHTTP(w, r)
		})}
	l := listener{make(chan net.Conn), ctx.Done()}
	context.AfterFunc(ctx, func() { s.Close() })
	go func() {
		if p.scheme == "https" {
			_ = s.ServeTLS(l, "", "") // ends with the listener
		} else {
			_ = s.Serve(l)
		}
	}()
	return func(c net.Conn) {
		select {
		case l.conns <- c:
		case <-ctx.Done():
			c.Close()
		}
	}
}

// run reads both repositories as the agent does in a check, in an installation and for lists,
// and reports how long the good one took each time, and the error of the bad one.
func (p *pair) run(t *testing.T) (took map[string]time.Duration, failed error) {
	took = map[string]time.Duration{}
	ctx, cancel := context.WithCancel(t.Context())
	defer synctest.Wait() // what is left of the servers
	defer cancel()
	good := p.serve(ctx, p.good, p.cert, false)
	badly := p.serve(ctx, p.dir, p.bad, true)
	set := repositories.New(repositories.Config{Root: p.root, Dir: filepath.Join(p.root, "repos.d"), Log: slog.New(slog.DiscardHandler), Changed: func() {},
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			accept := good
			if strings.HasPrefix(address, "bad.") {
				if p.dial != nil {
					return p.dial(ctx, badly)
				}
				accept = badly
			}
			ours, theirs := net.Pipe()
			accept(theirs)
			return ours, nil
		}})
	if err := set.Load(); err != nil {
		t.Fatal(err)
	}
	o := New(ctx, Config{Root: p.root, Repositories: set, State: p.db, Log: slog.New(slog.DiscardHandler)})
	defer o.Wait()

	// A check reads each, the newest offer and its content.
	began := time.Now()
	bad := make(chan error, 1)
	go func() { bad <- read(ctx, set, "bad", "bad") }()
	if err := read(ctx, set, "good", "good"); err != nil {
		t.Errorf("the good one: %v", err)
	}
	took["check"] = time.Since(began)
	failed = <-bad
	if spent := time.Since(began); spent > 30*time.Minute {
		t.Errorf("the bad one was given up after %v, want at most half an hour", spent)
	}
	// An installation without a repository asks all of them.
	began = time.Now()
	from, err := o.Choose(ctx, "good", "", "stable")
	took["choose"] = time.Since(began)
	if from != "good" || err != nil {
		t.Errorf("chosen %q: %v, want good", from, err)
	}
	o.Wait() // what goes on of the bad one has an end, too

	began = time.Now()
	available, _, err := o.Available(ctx, "", true)
	took["list what is available"] = time.Since(began)
	if err != nil || !slices.ContainsFunc(available, func(a Available) bool { return a.Repository == "good" && a.Name == "good" }) {
		t.Errorf("available: %+v, %v; want good", available, err)
	}
	o.Wait()

	o.State, o.Links, o.Costs = p.installed, p.links(t), cost.New(p.store)
	o.Installed = func(name string) (state.Instance, string, error) {
		i, err := p.installed.Instance(name)
		return i, "0", err
	}
	o.UnderWay = func(string) *plan.Refresh { return nil }
	began = time.Now()
	updates, _, err := o.Updates(ctx, nil, true)
	took["list updates"] = time.Since(began)
	if err != nil || !slices.ContainsFunc(updates, func(u AvailableUpdate) bool { return u.Instance == "good" && u.Cost != nil }) {
		t.Errorf("updates: %+v, %v; want one of good with its cost", updates, err)
	}
	o.Wait()
	for _, name := range []string{"good", "bad"} {
		if c, err := set.Client(name); err == nil {
			c.Close()
		}
	}
	return took, failed
}

// links makes the links of a machine that has an older package of each.
func (p *pair) links(t *testing.T) current.Links {
	l, err := current.Open(p.root)
	for _, name := range []string{"good", "bad"} {
		if err == nil {
			err = l.Add(name, 1, digest.Of([]byte(name)), 0)
		}
		if err == nil {
			err = l.Swap(name, 1)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read reads a repository, an offer of it and the content of its package.
func read(ctx context.Context, set *repositories.Set, repository, name string) error {
	c, err := set.Read(ctx, repository, true)
	if err != nil {
		return err
	}
	c.Prepare(ctx, []repo.Listing{{Name: name, Channel: "stable"}})
	p, err := c.Channel(ctx, name, "stable")
	if err != nil {
		return err
	}
	r, err := c.Blob(ctx, p.Package, 0)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err == nil {
		_, err = manifest.Parse(b)
	}
	return err
}

// TestBadNeighbour: whatever a repository does wrong, at whichever of its requests, another one
// is read and installed from without a delay of more than a second. Time is virtual, and the
// network takes none, so that all of the measured time is waiting for the bad one.
func TestBadNeighbour(t *testing.T) {
	trust := filepath.Join(t.TempDir(), "ca.pem")
	cert := certify(t, trust, "good.test", "bad.test")
	if err := os.Setenv("SSL_CERT_FILE", trust); err != nil { // read once by a process
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Unsetenv("SSL_CERT_FILE") })
	wrong := certify(t, "", "bad.test")
	dirs := map[string]string{}
	for _, name := range []string{"good", "bad"} {
		dir, src := filepath.Join(t.TempDir(), "repo"), t.TempDir()
		err := errors.Join(publish.Init(t.Context(), dir, publish.InitOptions{}), os.WriteFile(filepath.Join(src, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: \"1\"\n", name), 0o644))
		if err == nil {
			_, err = publish.Publish(t.Context(), dir, src, publish.Options{})
		}
		if err == nil {
			err = publish.Resign(t.Context(), dir, publish.ResignOptions{Bins: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		dirs[name] = dir
	}
	open := func() *state.DB {
		db, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return db
	}
	db, has := open(), open()
	content, err := store.Open(t.TempDir())
	for name := range dirs {
		if err == nil {
			err = has.UpdateInstance(name, func(i *state.Instance) error {
				i.Repository, i.Channel = name, "stable"
				return nil
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	try := func(t *testing.T, scheme string, faulty func(*pair)) {
		t.Parallel() // they wait for the disk
		p := &pair{scheme: scheme, cert: cert, bad: cert, good: dirs["good"], dir: dirs["bad"], root: t.TempDir(), db: db, installed: has, store: content}
		faulty(p)
		if err := os.Mkdir(filepath.Join(p.root, "repos.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, dir := range dirs {
			write(t, filepath.Join(p.root, "repos.d", name+".yaml"), fmt.Sprintf("url: %s://%s.test\nroot: %s/root.json\n", scheme, name, dir))
		}
		synctest.Test(t, func(t *testing.T) {
			took, failed := p.run(t)
			for what, spent := range took {
				if spent > mostDelay {
					t.Errorf("%s: the good one takes %v, want at most %v", what, spent, mostDelay)
				}
			}
			if !p.hit.Load() && p.answer != nil {
				t.Error("the fault has not happened")
			}
			if n := p.others.Load(); n > 0 {
				t.Errorf("got %d requests by another protocol, want HTTP/2 only", n)
			}
			if failed == nil && !strings.HasSuffix(t.Name(), "root/404") { // the next root may be missing
				t.Error("the bad one works, want an error")
			}
		})
	}
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			for _, at := range readings {
				t.Run(at.name, func(t *testing.T) {
					for name, answer := range answers {
						t.Run(name, func(t *testing.T) {
							try(t, scheme, func(p *pair) {
								p.answer = answer
								p.match = func(path string) bool { return strings.HasPrefix(path, at.prefix) && strings.Contains(path, at.part) }
							})
						})
					}
				})
			}
			for name, dial := range connections {
				t.Run(name, func(t *testing.T) { try(t, scheme, func(p *pair) { p.dial = dial }) })
			}
			if scheme == "https" {
				t.Run("wrong certificate", func(t *testing.T) { try(t, scheme, func(p *pair) { p.bad = wrong }) })
			}
		})
	}
}
