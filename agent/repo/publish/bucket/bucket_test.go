package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repo/publish/bucket"
)

const address = "s3://packages/lull/main"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an object store with a repository, and the keys of the repository.
type world struct {
	*testing.T
	server  *httptest.Server
	keys    string
	between atomic.Pointer[func(http.Handler, http.ResponseWriter, *http.Request)] // sees each request
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store := s3mem.New()
	must(t, store.CreateBucket("packages"))
	s3 := gofakes3.New(store, gofakes3.WithoutVersioning()).Server()
	w := &world{T: t, keys: t.TempDir()}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := w.between.Load(); f != nil {
			(*f)(s3, rw, r)
			return
		}
		s3.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.server.Close)
	t.Setenv("AWS_ENDPOINT_URL", w.server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	must(t, publish.Init(t.Context(), address, publish.InitOptions{Common: w.common()}))
	return w
}

// through makes f see each request instead of the server.
func (w *world) through(f func(s3 http.Handler, rw http.ResponseWriter, r *http.Request)) {
	if f == nil {
		w.between.Store(nil)
		return
	}
	w.between.Store(&f)
}

func (w *world) common() publish.Common {
	w.Helper()
	b, err := bucket.Open(address)
	must(w.T, err)
	return publish.Common{Storage: b, Keys: w.keys}
}

func (w *world) source(name, version string) string {
	w.Helper()
	dir := w.TempDir()
	for file, text := range map[string]string{"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\n", name, version), "own": name + version, "shared": "shared"} {
		must(w.T, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	return dir
}

func (w *world) publish(ctx context.Context, sources ...string) error {
	_, err := publish.PublishAll(ctx, address, sources, publish.Options{Common: w.common()})
	return err
}

// offered reads the repository as a machine does: by plain requests, with a new state.
func (w *world) offered() map[string]string {
	w.Helper()
	root, err := os.ReadFile(filepath.Join(w.keys, "root.json"))
	must(w.T, err)
	c, err := repo.Open(repo.Config{Name: "main", URL: w.server.URL + "/packages/lull/main", Root: root}, w.TempDir())
	must(w.T, err)
	defer c.Close()
	must(w.T, c.Update(w.Context()))
	list, err := c.Listings(w.Context())
	must(w.T, err)
	found := map[string]string{}
	for _, l := range list {
		p, err := c.Channel(w.Context(), l.Name, l.Channel)
		must(w.T, err)
		r, err := c.Blob(w.Context(), p.Package, 0)
		must(w.T, err)
		_, err = io.ReadAll(r)
		must(w.T, errors.Join(err, r.Close()))
		found[l.Name] = p.Version
	}
	return found
}

func (w *world) want(want map[string]string) {
	w.Helper()
	if got := w.offered(); !maps.Equal(got, want) {
		w.Errorf("offered %v, want %v", got, want)
	}
}

// objects returns the content of all objects of the repository.
func (w *world) objects() map[string]string {
	w.Helper()
	b := w.common().Storage
	all := map[string]string{}
	must(w.T, b.List(w.Context(), "", func(path string, _ publish.Info) error {
		data, _, err := b.Read(w.Context(), path)
		all[path] = string(data)
		return err
	}))
	return all
}

// TestPublish: several packages appear with one set of signatures, and are served with
// headers for caches.
func TestPublish(t *testing.T) {
	w := newWorld(t)
	var headers sync.Map // as written: this server does not keep them
	w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			headers.Store(strings.TrimPrefix(r.URL.Path, "/packages/lull/main/"), r.Header)
		}
		s3.ServeHTTP(rw, r)
	})
	must(t, w.publish(t.Context(), w.source("a", "1"), w.source("b", "1"), w.source("c", "1")))
	w.want(map[string]string{"a": "1", "b": "1", "c": "1"})
	must(t, w.publish(t.Context(), w.source("b", "2")))
	w.want(map[string]string{"a": "1", "b": "2", "c": "1"})
	if err := w.publish(t.Context(), w.source("x", "1"), w.source("X", "1")); !errkind.Is(err, errkind.Conflict) {
		t.Errorf("twins: got %v, want an error of kind %v", err, errkind.Conflict)
	}
	objects := w.objects()
	if _, ok := objects["metadata/4.snapshot.json"]; ok || objects["metadata/3.snapshot.json"] == "" {
		t.Error("two publications have made other than two snapshots")
	}
	for path, h := range headers.Range {
		path, h := path.(string), h.(http.Header)
		cache, kind := "public, max-age=31536000, immutable", "application/json"
		if path == "metadata/timestamp.json" || path == "root.json" {
			cache = "public, max-age=60"
		}
		if strings.HasPrefix(path, "blobs/") {
			kind = "application/zstd"
		}
		if h.Get("Cache-Control") != cache || h.Get("Content-Type") != kind {
			t.Errorf("%s: got Cache-Control %q, Content-Type %q, want %q, %q", path, h.Get("Cache-Control"), h.Get("Content-Type"), cache, kind)
		}
	}
}

// TestManyAtOnce: each of many publishers at the same time succeeds, and no publication is
// lost, with and without bins.
func TestManyAtOnce(t *testing.T) {
	for _, bins := range []bool{false, true} {
		w := newWorld(t)
		if bins {
			must(t, publish.Resign(t.Context(), address, publish.ResignOptions{Common: w.common(), Bins: true}))
		}
		want := map[string]string{}
		var all sync.WaitGroup
		for i := range 6 {
			name := fmt.Sprint("app", i)
			want[name] = "2"
			first, second := w.source(name, "1"), w.source(name, "2")
			all.Go(func() {
				for _, src := range []string{first, second} {
					if err := w.publish(t.Context(), src); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		w.want(want)
	}
}

// TestKilled: a publisher that is killed at any request leaves the old state for readers. The
// next publisher continues, and completes what had its snapshot already.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	must(t, w.publish(t.Context(), w.source("a", "1")))
	before := map[string]string{"a": "1"}
	// Publications differ by some requests, so that the moment between snapshot and timestamp
	// may be missed. Then the last requests are tried again.
	dead := false
	for n, try := 1, 0; try < 200; n, try = n+1, try+1 {
		killed := fmt.Sprint("b", try)
		src := w.source(killed, "1")
		ctx, kill := context.WithCancel(t.Context())
		var requests atomic.Int64
		var snapshot, timestamp atomic.Bool
		var served sync.WaitGroup // a killed publisher does not wait for requests under way
		w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
			served.Add(1)
			defer served.Done()
			if ctx.Err() != nil {
				return
			}
			if requests.Add(1) == int64(n) {
				kill()
				return
			}
			s3.ServeHTTP(rw, r)
			if r.Method == http.MethodPut {
				snapshot.Store(snapshot.Load() || strings.HasSuffix(r.URL.Path, ".snapshot.json"))
				timestamp.Store(timestamp.Load() || strings.HasSuffix(r.URL.Path, "timestamp.json"))
			}
		})
		err := w.publish(ctx, src)
		kill()
		w.through(nil)
		served.Wait()
		if timestamp.Load() {
			before[killed] = "1"
		}
		w.want(before)
		if err == nil {
			if n < 10 {
				t.Fatalf("a publication took %d requests, want at least 10", n)
			}
			if dead {
				break
			}
			n -= 4
			continue
		}
		if snapshot.Load() && !timestamp.Load() {
			before[killed] = "1"
			dead = true
		}
		next := fmt.Sprint("c", try)
		must(t, w.publish(t.Context(), w.source(next, "1")))
		before[next] = "1"
		w.want(before)
	}
	if !dead {
		t.Error("no publisher was killed between snapshot and timestamp")
	}
}

const denied = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`

// TestForbiddenForMissing: a store that answers 403 for missing objects works. If access is
// really denied, the error says so.
func TestForbiddenForMissing(t *testing.T) {
	w := newWorld(t)
	w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s3.ServeHTTP(rw, r)
			return
		}
		rec := httptest.NewRecorder()
		s3.ServeHTTP(rec, r)
		if rec.Code == http.StatusNotFound {
			rw.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(rw, denied)
			return
		}
		maps.Copy(rw.Header(), rec.Header())
		rw.WriteHeader(rec.Code)
		_, _ = rw.Write(rec.Body.Bytes())
	})
	must(t, w.publish(t.Context(), w.source("a", "1")))
	w.through(nil)
	w.want(map[string]string{"a": "1"})
	w.through(func(_ http.Handler, rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, denied)
	})
	if err := w.publish(t.Context(), w.source("b", "1")); err == nil || !strings.Contains(err.Error(), "or access is denied") {
		t.Errorf("denied: got %v, want an error and %q in the error", err, "or access is denied")
	}
}

// TestSlowDown: requests that the store throttles are repeated.
func TestSlowDown(t *testing.T) {
	w := newWorld(t)
	var n, refused atomic.Int64
	w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
		if n.Add(1)%3 == 0 {
			refused.Add(1)
			rw.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(rw, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>`)
			return
		}
		s3.ServeHTTP(rw, r)
	})
	must(t, w.publish(t.Context(), w.source("a", "1")))
	w.through(nil)
	w.want(map[string]string{"a": "1"})
	if refused.Load() == 0 {
		t.Error("no request was refused")
	}
}

// TestLostReplies: the first reply to each write is lost, so that a conditional write meets
// its own object.
func TestLostReplies(t *testing.T) {
	w := newWorld(t)
	var seen sync.Map
	w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
		if _, again := seen.LoadOrStore(r.URL.Path+r.Header.Get("If-Match"), true); r.Method == http.MethodPut && !again {
			s3.ServeHTTP(httptest.NewRecorder(), r)
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		s3.ServeHTTP(rw, r)
	})
	must(t, w.publish(t.Context(), w.source("a", "1")))
	must(t, w.publish(t.Context(), w.source("a", "2")))
	w.through(nil)
	w.want(map[string]string{"a": "2"})
}

// TestStaleListings: no publication depends on a listing.
func TestStaleListings(t *testing.T) {
	w := newWorld(t)
	empty := []byte(`<?xml version="1.0"?><ListBucketResult><Name>packages</Name><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>`)
	w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Query().Has("list-type") {
			_, _ = rw.Write(empty)
			return
		}
		s3.ServeHTTP(rw, r)
	})
	must(t, w.publish(t.Context(), w.source("a", "1")))
	must(t, w.publish(t.Context(), w.source("b", "1")))
	_, err := publish.Prune(t.Context(), address, publish.PruneOptions{Common: w.common(), Grace: publish.MinSharedGrace})
	must(t, err)
	w.want(map[string]string{"a": "1", "b": "1"})
}

// TestConditionsIgnored: a server that ignores conditions is refused before it can do harm.
func TestConditionsIgnored(t *testing.T) {
	for _, header := range []string{"If-None-Match", "If-Match"} {
		w := newWorld(t)
		w.through(func(s3 http.Handler, rw http.ResponseWriter, r *http.Request) {
			r.Header.Del(header)
			s3.ServeHTTP(rw, r)
		})
		if err := w.publish(t.Context(), w.source("a", "1")); err == nil || !strings.Contains(err.Error(), "ignores "+header) {
			t.Errorf("%s: %v; want an error and %q in the error", header, err, "ignores "+header)
		}
		w.through(nil)
		w.want(map[string]string{})
	}
}

// TestSameResult: the same sources, keys and time make the same objects.
func TestSameResult(t *testing.T) {
	var all []map[string]string
	now := time.Now()
	one := newWorld(t)
	for range 2 {
		w := newWorld(t)
		for _, f := range []string{"root", "targets", "snapshot", "timestamp"} {
			data, err := os.ReadFile(filepath.Join(one.keys, f+".pem"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(w.keys, f+".pem"), data, 0o600))
		}
		c := w.common()
		c.Now = now
		must(t, c.Storage.Remove(t.Context(), slices.Collect(maps.Keys(w.objects()))))
		must(t, publish.Init(t.Context(), address, publish.InitOptions{Common: c, UseKeys: true}))
		_, err := publish.PublishAll(t.Context(), address, []string{w.source("a", "1"), w.source("b", "1")}, publish.Options{Common: c})
		must(t, err)
		all = append(all, w.objects())
	}
	if !maps.Equal(all[0], all[1]) {
		t.Errorf("two repositories with the same keys differ: got %q in one and %q in the other, want the same objects", slices.Sorted(maps.Keys(all[0])), slices.Sorted(maps.Keys(all[1])))
	}
}

// TestMaintenance: a bucket is checked, mended from a directory, pruned and listed.
func TestMaintenance(t *testing.T) {
	w := newWorld(t)
	must(t, w.publish(t.Context(), w.source("a", "1"), w.source("b", "1")))
	copied := t.TempDir()
	objects := w.objects()
	for path, data := range objects {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(copied, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(copied, path), []byte(data), 0o644))
	}
	storage := w.common().Storage
	for path := range objects {
		if dir, _, _ := strings.Cut(path, "/"); dir != "blobs" && dir != "channels" && path != "metadata/2.targets.json" {
			continue
		}
		must(t, storage.Remove(t.Context(), []string{path}))
		r, err := publish.Check(t.Context(), address, publish.CheckOptions{Common: w.common(), From: publish.Directory(copied)})
		if err != nil || len(r.Faults) != 1 || r.Faults[0] != (publish.Fault{Path: path, Error: "missing", Mended: true}) {
			t.Errorf("%s: got faults %+v, error %v; want this one missing and mended, and no error", path, r.Faults, err)
		}
	}
	if !maps.Equal(w.objects(), objects) {
		t.Error("the repository is not as before")
	}
	_, err := publish.Remove(t.Context(), address, publish.RemoveOptions{ChannelOptions: publish.ChannelOptions{Common: w.common(), Name: "a"}})
	must(t, err)
	w.want(map[string]string{"b": "1"})
	if _, err := publish.Prune(t.Context(), address, publish.PruneOptions{Common: w.common(), Grace: time.Hour}); !errkind.Is(err, errkind.Usage) {
		t.Errorf("a grace that is too short: got %v, want an error of kind %v", err, errkind.Usage)
	}
	c := w.common()
	c.Now = time.Now().Add(100 * 24 * time.Hour)
	p, err := publish.Prune(t.Context(), address, publish.PruneOptions{Common: c, Grace: publish.MinSharedGrace})
	if err != nil || p.Blobs != 2 || p.Others != 1 { // of a: manifest, file and offer
		t.Errorf("pruned %+v, %v; want no error, blobs 2 and others 1", p, err)
	}
	r, err := publish.Check(t.Context(), address, publish.CheckOptions{Common: w.common(), Quick: true})
	if err != nil || len(r.Faults) > 0 || r.Blobs != 3 || r.Unused > 0 {
		t.Errorf("after pruning: got %+v, %v; want 3 blobs, no faults, none unused and no error", r, err)
	}
	all, err := publish.List(t.Context(), address, w.common())
	if err != nil || len(all) != 1 || all[0][0].Name != "b" {
		t.Errorf("listed: %v, %v; want no error, 1 of them and name %q", all, err, "b")
	}
}

// TestAddresses: what is not an address of a bucket is refused, without a request.
func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "s3://", "s3:///x", "s3://A", "s3://a", "s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/a?x", "s3://u:p@bucket/x", "s3://bucket/" + strings.Repeat("x", 600), "/bucket"} {
		if _, err := bucket.Open(bad); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("%q: %v; want an error of kind %v", bad, err, errkind.Invalid)
		}
	}
	for _, good := range []string{"s3://bucket", "s3://bucket/", "s3://b.u-cket/a/b/"} {
		if _, err := bucket.Open(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"host", "ftp://x", "https://u:p@x", "https://x/y"} {
		t.Setenv("AWS_ENDPOINT_URL", bad)
		if _, err := bucket.Open("s3://bucket"); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("%q: %v; want an error of kind %v", bad, err, errkind.Invalid)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", "")
	_, err := publish.Publish(t.Context(), address, t.TempDir(), publish.Options{Common: publish.Common{Storage: &bucket.Bucket{}}})
	if !errkind.Is(err, errkind.Usage) {
		t.Errorf("without keys: %v", err)
	}
}
