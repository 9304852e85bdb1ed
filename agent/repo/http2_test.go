package repo_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// TestHTTP2: over TLS, all requests use one connection, and those for several packages are
// concurrent.
func TestHTTP2(t *testing.T) {
	f := binnedFixture(t)
	files := http.FileServer(http.Dir(f.dir))
	var mu sync.Mutex // guards the variables below
	connections, protocols := map[string]bool{}, map[string]int{}
	waiting, together := 0, make(chan struct{})
	const most = 4
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		protocols[r.Proto]++
		if strings.HasPrefix(r.URL.Path, "/metadata/") && strings.Contains(r.URL.Path, "bin-") {
			if waiting++; waiting == most {
				close(together)
			}
			mu.Unlock()
			<-together // each waits for the others: sequential requests would not end
		} else {
			mu.Unlock()
		}
		files.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			defer mu.Unlock()
			connections[c.RemoteAddr().String()] = true
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	c := f.client(s.URL, t.TempDir())
	if err := c.Update(t.Context()); !errkind.Is(err, errkind.Unavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("a certificate that nothing vouches for: got %v, want an error of kind %v and %q in the error", err, errkind.Unavailable, "certificate")
	}
	mu.Lock()
	clear(connections)
	mu.Unlock()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c = f.client(s.URL, t.TempDir())
	c.TrustTLS(pool)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	var list []repo.Listing
	for i := range 20 {
		list = append(list, repo.Listing{Name: fmt.Sprintf("other%d", i), Channel: "stable"})
	}
	c.Prepare(t.Context(), list)
	if err := install(t.Context(), c); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(connections) != 1 || len(protocols) != 1 || protocols["HTTP/2.0"] == 0 {
		t.Errorf("got %d connections with requests by %v, want 1 connection with HTTP/2.0 alone", len(connections), protocols)
	}
	for _, l := range list {
		if !c.Lists(l.Name, l.Channel) {
			t.Errorf("%s is not known", l.Name)
		}
	}
}

// TestBodiesAreDrained: over HTTP/1.1, too, all requests use one connection, because the client
// reads the pages of errors that it does not use.
func TestBodiesAreDrained(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	h := &recorder{files: tagged(f.dir)}
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c := f.client(s.URL, t.TempDir())
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.age()
	page := strings.Repeat("no such file\n", 1000)
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusServiceUnavailable} {
		h.set(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/timestamp.json") && status != http.StatusServiceUnavailable {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, page)
			return true
		})
		for range 3 {
			if err := c.Update(t.Context()); err != nil && (status != http.StatusServiceUnavailable || !errkind.Is(err, errkind.Unavailable)) {
				t.Errorf("with answers %d: got %v, want no error unless all of them are 503", status, err)
			}
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d requests used %d connections, want 1", len(h.take()), n)
	}
}
