package repo_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // damage by the tests is reported there
	goleak.VerifyTestMain(m)
}

const app = "org.example.maps"

// now is the signing time of the test's repositories. Clients read them an hour later.
var now = time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)

// fixture is a repository with one package.
type fixture struct {
	t      *testing.T
	dir    string
	root   []byte
	result *publish.Result
	big    []byte
	saved  map[string][]byte
}

func newFixture(t *testing.T, expires publish.Expiry) *fixture {
	t.Helper()
	return newFixtureOf(t, expires, repo.FrameSize+repo.FrameSize/8)
}

// newFixtureOf has one blob of size bytes, which do not compress.
func newFixtureOf(t *testing.T, expires publish.Expiry, size int) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "repository")}
	if err := publish.Init(t.Context(), f.dir, publish.InitOptions{Common: publish.Common{Now: now, Expires: expires}}); err != nil {
		t.Fatal(err)
	}
	f.big = make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(f.big)
	f.publish("1.0", expires)
	f.root = f.read("root.json")
	return f
}

func (f *fixture) publish(version string, expires publish.Expiry) {
	f.t.Helper()
	src := f.t.TempDir()
	for name, content := range map[string][]byte{
		"lull.yaml": []byte("name: " + app + "\nversion: " + version + "\nnotes: |\n  Faster.\napps:\n- name: maps\n  command: bin/maps\n"),
		"bin/maps":  []byte("#!/bin/sh\n"), "share/big": f.big, "share/version": []byte(version), "share/empty": nil,
	} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			f.t.Fatal(err)
		}
	}
	var err error
	f.result, err = publish.Publish(f.t.Context(), f.dir, src, publish.Options{Common: publish.Common{Now: now, Expires: expires}, Urgency: repo.UrgencyHigh})
	if err != nil {
		f.t.Fatal(err)
	}
}

// age gives the timestamp a time before this second, so that its tag counts.
func (f *fixture) age() {
	f.t.Helper()
	before := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(f.dir, "metadata", "timestamp.json"), before, before); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(path string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, path))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *fixture) write(path string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, path), data, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// save returns all files of the repository; restore puts them back.
func (f *fixture) save() map[string][]byte {
	files := map[string][]byte{}
	err := filepath.Walk(f.dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			rel, _ := filepath.Rel(f.dir, path)
			files[rel] = f.read(rel)
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return files
}

func (f *fixture) restore(files map[string][]byte) {
	for name, data := range files {
		f.write(name, data)
	}
}

// glob returns the path of the only file that matches.
func (f *fixture) glob(pattern string) string {
	f.t.Helper()
	paths, err := filepath.Glob(filepath.Join(f.dir, pattern))
	if err != nil || len(paths) != 1 {
		f.t.Fatalf("%s: %v, %v; want no error and 1 paths", pattern, paths, err)
	}
	rel, _ := filepath.Rel(f.dir, paths[0])
	return rel
}

// client opens the repository at url, or by path when that is "".
func (f *fixture) client(url, state string) *repo.Client {
	f.t.Helper()
	if url == "" {
		url = f.dir
	}
	c, err := repo.Open(repo.Config{Name: "main", URL: url, Root: f.root}, state)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	c.Hurry()
	c.SetNow(now.Add(time.Hour))
	return c
}

func (f *fixture) serve(h http.Handler) string {
	if h == nil {
		h = http.FileServer(http.Dir(f.dir))
	}
	s := httptest.NewServer(h)
	f.t.Cleanup(s.Close)
	return s.URL
}

// fetch reads a blob and checks its digest as the store does.
func fetch(ctx context.Context, c *repo.Client, d digest.Digest) ([]byte, error) {
	r, err := c.Blob(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if digest.Of(data) != d {
		return nil, errkind.New(errkind.Untrusted, "cannot use blob: the digest is wrong")
	}
	return data, nil
}

// install does the same as a refresh with a repository.
func install(ctx context.Context, c *repo.Client) error {
	if err := c.Update(ctx); err != nil {
		return err
	}
	p, err := c.Channel(ctx, app, "stable")
	if err != nil {
		return err
	}
	data, err := fetch(ctx, c, p.Package)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return err
	}
	for _, b := range m.Blobs() {
		if _, err := fetch(ctx, c, b.Digest); err != nil {
			return err
		}
	}
	return nil
}

// both runs a test against the repository as a directory and behind HTTP.
func both(t *testing.T, f *fixture, test func(t *testing.T, url string)) {
	t.Run("path", func(t *testing.T) { test(t, "") })
	t.Run("file", func(t *testing.T) { test(t, "file://"+f.dir) })
	t.Run("http", func(t *testing.T) { test(t, f.serve(nil)) })
}

func TestInstall(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	both(t, f, func(t *testing.T, url string) {
		c := f.client(url, t.TempDir())
		if err := install(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		p, err := c.Channel(t.Context(), app, "stable")
		if err != nil {
			t.Fatal(err)
		}
		want := repo.Pointer{
			Name: app, Channel: "stable", Package: f.result.Package, Version: "1.0", Urgency: repo.UrgencyHigh,
			Published: now, Size: f.result.Bytes, Notes: "Faster.", Rollout: repo.Rollout{Percent: 100},
		}
		if *p != want {
			t.Errorf("got %+v, want %+v", *p, want)
		}
		l, err := c.Listings(t.Context())
		if err != nil || len(l) != 1 || l[0] != (repo.Listing{Name: app, Channel: "stable"}) {
			t.Errorf("Listings: got %v, %v; want %s in stable alone, and no error", l, err, app)
		}
		for _, names := range [][2]string{{app, "beta"}, {"org.example.other", "stable"}} {
			if _, err := c.Channel(t.Context(), names[0], names[1]); !errkind.Is(err, errkind.NotFound) {
				t.Errorf("%v: %v; want an error of kind %v", names, err, errkind.NotFound)
			}
		}
		if _, err := c.Channel(t.Context(), "../x", "stable"); !errkind.Is(err, errkind.Invalid) {
			t.Error(err)
		}
		watch := c.Watch()
		if strings.HasPrefix(url, "http") != (watch == "") {
			t.Errorf("%s: Watch: got %q, want \"\" for HTTP and a path otherwise", url, watch)
		}
	})
}

func TestBlobFromOffset(t *testing.T) {
	f := newFixtureOf(t, publish.Expiry{}, 2*repo.FrameSize+repo.FrameSize/2)
	big := digest.Of(f.big)
	file := f.read(repo.BlobPath(big))
	if n := repo.ParseSeekTable(file); n != 3 {
		t.Fatalf("%d frames, want 3", n)
	}
	both(t, f, func(t *testing.T, url string) {
		c := f.client(url, t.TempDir())
		for _, offset := range []int{0, 1, repo.FrameSize - 1, repo.FrameSize, repo.FrameSize + 1, 2 * repo.FrameSize, len(f.big) - 1, len(f.big)} {
			r, err := c.Blob(t.Context(), big, int64(offset))
			if err != nil {
				t.Fatalf("%d: %v", offset, err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || !bytes.Equal(got, f.big[offset:]) {
				t.Errorf("from %d: got %d bytes, %v; want the last %d of the content and no error", offset, len(got), err, len(f.big)-offset)
			}
		}
		small := digest.Of([]byte("1.0"))
		r, err := c.Blob(t.Context(), small, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != "0" {
			t.Errorf("small blob: %q, %v; want no error and %q", got, err, "0")
		}
		r.Close()
		for _, d := range []digest.Digest{small, big} {
			if _, err := c.Blob(t.Context(), d, 1<<40); !errkind.Is(err, errkind.Untrusted) {
				t.Errorf("behind the end: got %v, want an error of kind %v", err, errkind.Untrusted)
			}
		}
		if _, err := c.Blob(t.Context(), digest.Of([]byte("nothing")), 0); !errkind.Is(err, errkind.Unavailable) {
			t.Errorf("missing: %v", err)
		}
	})
}

// flaky breaks off the connection, answers 503 and stalls, in turn, and counts the bytes of
// blobs that it sends.
type flaky struct {
	http.Handler
	requests, sent atomic.Int64
	ranges         bool
	block          chan struct{}
}

func (h *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := h.requests.Add(1)
	if !h.ranges {
		r.Header.Del("Range")
	}
	if n%4 == 1 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.Handler.ServeHTTP(&cutting{ResponseWriter: w, h: h, stall: n%4 == 3, left: 1 << 20}, r)
}

type cutting struct {
	http.ResponseWriter
	h     *flaky
	stall bool
	left  int
}

func (c *cutting) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left < 0 && c.stall {
		<-c.h.block
	}
	if c.left < 0 && c.h.ranges {
		panic(http.ErrAbortHandler)
	}
	n, err := c.ResponseWriter.Write(b)
	c.h.sent.Add(int64(n))
	return n, err
}

func TestDownloadsGoOn(t *testing.T) {
	f := newFixtureOf(t, publish.Expiry{}, 2*repo.FrameSize+repo.FrameSize/2)
	h := &flaky{Handler: http.FileServer(http.Dir(f.dir)), ranges: true, block: make(chan struct{})}
	url := f.serve(h)
	t.Cleanup(func() { close(h.block) })
	c := f.client(url, t.TempDir())
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if n := h.requests.Load(); n < 15 {
		t.Errorf("got %d requests, want at least 15", n)
	}
	// Received bytes are not sent a second time.
	if limit := int64(len(f.big) + 1<<20); h.sent.Load() > limit {
		t.Errorf("%d bytes sent, want at most %d", h.sent.Load(), limit)
	}
}

func TestServerWithoutRanges(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	files := http.FileServer(http.Dir(f.dir))
	url := f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		files.ServeHTTP(w, r)
	}))
	c := f.client(url, t.TempDir())
	r, err := c.Blob(t.Context(), digest.Of(f.big), repo.FrameSize+5)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, f.big[repo.FrameSize+5:]) {
		t.Errorf("got %d bytes, %v; want the last %d of the content and no error", len(got), err, len(f.big)-repo.FrameSize-5)
	}
}

func TestOffline(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	s := httptest.NewServer(http.FileServer(http.Dir(f.dir)))
	c := f.client(s.URL, t.TempDir())
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Channel(t.Context(), app, "stable"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	err := c.Update(t.Context())
	if !errkind.Is(err, errkind.Unavailable) || !strings.HasPrefix(err.Error(), `cannot read the root metadata of repository "main" at http://`) {
		t.Errorf("got %v; want an error of kind %v and error that begins with %q", err, errkind.Unavailable, `cannot read the root metadata of repository "main" at http://`)
	}
	// The accepted metadata stays in use, until it expires.
	if _, err := c.Channel(t.Context(), app, "stable"); err != nil {
		t.Error(err)
	}
	c.SetNow(now.AddDate(2, 0, 0))
	_, err = c.Channel(t.Context(), app, "stable")
	if !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "its timestamp metadata expired on 2027-05-01") ||
		!strings.HasSuffix(errkind.HintOf(err), "or the clock of this machine is wrong: it says "+now.AddDate(2, 0, 0).Format(time.DateOnly)) {
		t.Error(err, errkind.HintOf(err))
	}
}

// TestClockOfThisMachine: with a clock of 2100 all metadata has expired, and the hint names
// the clock's time. With one of 1970 the accepted metadata can be used.
func TestClockOfThisMachine(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	c := f.client("", t.TempDir())
	c.SetNow(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	err := c.Update(t.Context())
	want := "the repository has not been signed anew in time, an old copy of it is being served, or the clock of this machine is wrong: it says 2100-01-01"
	if !errkind.Is(err, errkind.Untrusted) || errkind.HintOf(err) != want {
		t.Errorf("got %v, hint %q; want an error of kind %v with the hint %q", err, errkind.HintOf(err), errkind.Untrusted, want)
	}
	c.SetNow(time.Unix(600, 0))
	if err := c.Update(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCertificateAndClock: a server whose certificate is not valid by this machine's
// clock may be right, and the clock wrong.
func TestCertificateAndClock(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	c := f.client("", t.TempDir())
	c.SetNow(time.Unix(600, 0))
	err := c.Unavailable("read", fmt.Errorf("Get: %w", x509.CertificateInvalidError{Reason: x509.Expired}))
	if errkind.HintOf(err) != "the server's certificate has expired or is not valid yet, or the clock of this machine is wrong: it says 1970-01-01" {
		t.Errorf("%v: %q, want %q", err, errkind.HintOf(err), "the server's certificate has expired or is not valid yet, or the clock of this machine is wrong: it says 1970-01-01")
	}
}

func TestCancel(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	url := f.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	t.Cleanup(func() { close(release) })
	c := f.client(url, t.TempDir())
	if err := c.Update(ctx); !errkind.Is(err, errkind.Interrupted) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want an error of kind %v and the error %v", err, errkind.Interrupted, context.Canceled)
	}
}

func TestPasswordIsNotShown(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c := f.client(strings.Replace(s.URL, "http://", "http://me:secret@", 1), t.TempDir())
	if err := c.Update(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want an error without the password", err)
	}
}

func TestRotation(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	state := t.TempDir()
	c := f.client("", state)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := f.save()
	for range 2 {
		if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.publish("1.1", publish.Expiry{})
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	// A new client with the oldest root reaches the same state.
	if err := install(t.Context(), f.client("", t.TempDir())); err != nil {
		t.Fatal(err)
	}
	// A client that has seen the new keys does not go back to the old ones.
	for _, name := range []string{"2", "3"} {
		if err := os.Remove(filepath.Join(f.dir, "metadata", name+".root.json")); err != nil {
			t.Fatal(err)
		}
	}
	f.restore(before)
	for range 2 {
		c = f.client("", state)
		if err := c.Update(t.Context()); !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("got %v; want an error of kind %v", err, errkind.Untrusted)
		}
		// The same if the newer root is lost on this machine.
		if err := os.Remove(filepath.Join(c.State(), "root.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
