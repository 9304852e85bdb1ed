package repo_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// recorder is a server that records the requests. answer can override its responses.
type recorder struct {
	files  http.Handler
	answer func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	asked []string
}

func (h *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked = append(h.asked, r.URL.Path)
	answer := h.answer
	h.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	h.files.ServeHTTP(w, r)
}

// take returns the requests since the last call.
func (h *recorder) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	h.asked = nil
	return asked
}

func (h *recorder) set(answer func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

// tagged serves files with entity tags, as nginx does; net/http has none for files.
func tagged(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fi, err := os.Stat(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err == nil {
			w.Header().Set("ETag", fmt.Sprintf("\"%x-%x\"", fi.ModTime().UnixNano(), fi.Size()))
		}
		files.ServeHTTP(w, r)
	})
}

const portal = "\n<!DOCTYPE html><html><head><title>Welcome to the hotel</title></head></html>"

func showPortal(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write([]byte(portal + strings.Repeat(" ", 4096)))
	return true
}

// A captive portal is neither an attack nor a broken package: the network is not available
// yet.
func TestCaptivePortal(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	h := &recorder{files: tagged(f.dir)}
	c := f.client(f.serve(h), t.TempDir())
	page := func(what string, err error) {
		t.Helper()
		if !errkind.Is(err, errkind.Unavailable) || !strings.Contains(err.Error(), "a web page came back instead") {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", what, err, errkind.Unavailable, "a web page came back instead")
		}
	}
	h.set(showPortal)
	page("first sight", c.Update(t.Context()))
	if asked := h.take(); len(asked) != 1 {
		t.Errorf("a portal is asked %q; want 1 asked", asked)
	}
	for _, prefix := range []string{"/metadata/timestamp", "/metadata/2.root", "/metadata/2.snapshot", "/metadata/2.targets", "/channels/", "/blobs/"} {
		h.set(func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, prefix) && showPortal(w, r)
		})
		page(prefix, install(t.Context(), f.client(f.serve(h), t.TempDir())))
	}
	h.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNetworkAuthenticationRequired)
		return true
	})
	page("511", c.Update(t.Context()))
	h.set(nil)
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	h.set(showPortal)
	page("later", c.Check(t.Context()))
	h.set(nil)
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// An object store whose files may not be listed answers 403 for missing files, such as the
// next root.
func TestForbiddenMeansMissingForRoots(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	h := &recorder{files: http.FileServer(http.Dir(f.dir)), answer: func(w http.ResponseWriter, r *http.Request) bool {
		if _, err := os.Stat(filepath.Join(f.dir, filepath.FromSlash(r.URL.Path))); err == nil {
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>AccessDenied</Code></Error>")
		return true
	}}
	c := f.client(f.serve(h), t.TempDir())
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
		t.Fatal(err)
	}
	f.publish("2.0", publish.Expiry{})
	if err := install(t.Context(), c); err != nil {
		t.Error(err)
	}
	// Only a root may be missing.
	f.remove("metadata/timestamp.json")
	if err := c.Update(t.Context()); !errkind.Is(err, errkind.Unavailable) || !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
}

// Without new metadata one conditional request is enough. The next root is requested once a
// day, by an Update, and after metadata whose verification failed.
func TestOneRequestWhereNothingIsNew(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	f.age()
	h := &recorder{files: tagged(f.dir)}
	c := f.client(f.serve(h), t.TempDir())
	want := func(what string, paths ...string) {
		t.Helper()
		if asked := h.take(); !slices.Equal(asked, paths) {
			t.Errorf("%s: it asked for\n%q, want\n%q", what, asked, paths)
		}
	}
	check := func() {
		t.Helper()
		if err := c.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check()
	want("first", "/metadata/2.root.json", "/metadata/timestamp.json", "/metadata/2.snapshot.json", "/metadata/2.targets.json")
	var status int
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		h.files.ServeHTTP(&statusWriter{w, &status}, r)
		return true
	})
	check()
	want("nothing new", "/metadata/timestamp.json")
	if status != http.StatusNotModified {
		t.Errorf("the answer was %d, want %v", status, http.StatusNotModified)
	}
	f.publish("2.0", publish.Expiry{})
	check()
	want("something new", "/metadata/timestamp.json", "/metadata/3.snapshot.json", "/metadata/3.targets.json")
	if p, err := c.Channel(t.Context(), app, "stable"); err != nil || p.Version != "2.0" {
		t.Fatal(p, err)
	}
	h.take()
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("an Update", "/metadata/2.root.json", "/metadata/timestamp.json")
	c.SetNow(now.Add(26 * time.Hour))
	check()
	want("a day later", "/metadata/2.root.json", "/metadata/timestamp.json")

	// Keys were rotated meanwhile: the timestamp cannot be verified by the old root.
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now.Add(26 * time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	if err := publish.Resign(t.Context(), f.dir, publish.ResignOptions{Common: publish.Common{Now: now.Add(26 * time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	check()
	if asked := h.take(); len(asked) < 3 || asked[0] != "/metadata/timestamp.json" || asked[1] != "/metadata/2.root.json" {
		t.Errorf("after a rotation: it asked for %q, want the timestamp, 2.root.json and more", asked)
	}

	// A server that answers "not modified" for ever freezes no client for longer than the
	// lifetime of the timestamp.
	h.set(func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusNotModified); return true })
	c.SetNow(now.Add(3 * 365 * 24 * time.Hour))
	if err := c.Check(t.Context()); err == nil {
		t.Error("a frozen repository is believed after its time")
	}
}

// An Update parses no metadata if there is none new: also from a directory, and from a server
// without entity tags. It accepts new metadata at once.
func TestNothingIsParsedWhereNothingIsNew(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	both(t, f, func(t *testing.T, url string) {
		c := f.client(url, t.TempDir())
		for _, version := range []string{"", "2." + fmt.Sprint(len(url)), ""} {
			if version != "" {
				f.publish(version, publish.Expiry{})
			}
			before := c.Trusted()
			for range 2 {
				if err := c.Update(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if same := before == c.Trusted(); same != (version == "" && before != nil) {
				t.Errorf("after publishing %q: the same metadata is in use: %v; want same %v", version, same, (version == "" && before != nil))
			}
			if p, err := c.Channel(t.Context(), app, "stable"); err != nil || version != "" && p.Version != version {
				t.Error(p, err)
			}
		}
		// A new root is accepted also with an unchanged timestamp.
		c.SetNow(now.Add(2 * time.Hour))
		before := c.Trusted()
		if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
			t.Fatal(err)
		}
		if err := c.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.Trusted().Root.Signed.Version != before.Root.Signed.Version+1 {
			t.Error("the new root was not taken")
		}
	})
}

type statusWriter struct {
	http.ResponseWriter
	status *int
}

func (w *statusWriter) WriteHeader(code int) { *w.status = code; w.ResponseWriter.WriteHeader(code) }

// A very slow transfer is abandoned, for every file, and other callers do not wait.
func TestSlowServer(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	for _, prefix := range []string{"/metadata/2.root", "/metadata/timestamp", "/metadata/2.snapshot", "/metadata/2.targets", "/channels/", "/blobs/"} {
		ended := make(chan struct{}, 16)
		h := &recorder{files: http.FileServer(http.Dir(f.dir)), answer: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, prefix) {
				return false
			}
			defer func() { ended <- struct{}{} }()
			data, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(r.URL.Path)))
			if err != nil {
				data = make([]byte, 500)
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			for i := range data {
				if _, err := w.Write(data[i : i+1]); err != nil {
					return true
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(20 * time.Millisecond):
				}
			}
			return true
		}}
		c := f.client(f.serve(h), t.TempDir())
		c.Impatient(1 << 20)
		err := install(t.Context(), c)
		if !errkind.Is(err, errkind.Unavailable) || !strings.Contains(err.Error(), "too slow") {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", prefix, err, errkind.Unavailable, "too slow")
		}
		<-ended // the connection is not kept
		if n := strings.Count(strings.Join(h.take(), " "), prefix); n != 1 && prefix != "/blobs/" {
			t.Errorf("%s is asked for %d times, want once", prefix, n)
		}
	}
}

// An offer that is read after the first request is not delayed by a server that hangs: the
// offered package is known without it.
func TestOffersAreKnownWhileAServerHangs(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	h := &recorder{files: http.FileServer(http.Dir(f.dir))}
	c := f.client(f.serve(h), t.TempDir())
	if _, err := c.Channel(t.Context(), app, "stable"); err != nil {
		t.Fatal(err)
	}
	hangs, release := make(chan struct{}, 1), make(chan struct{})
	h.set(func(http.ResponseWriter, *http.Request) bool { hangs <- struct{}{}; <-release; return false })
	done := make(chan error)
	go func() { done <- c.Update(t.Context()) }()
	<-hangs
	if p, err := c.Channel(t.Context(), app, "stable"); err != nil || p.Version != "1.0" {
		t.Error(p, err)
	}
	close(release)
	h.set(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRetryAfter(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	for value, want := range map[string][2]time.Duration{
		"7200": {2 * time.Hour, 2 * time.Hour}, "99999999999": {24 * time.Hour, 24 * time.Hour}, "-5": {0, 0}, "soon": {0, 0}, "": {0, 0},
		time.Now().Add(3 * time.Hour).UTC().Format(http.TimeFormat):  {2 * time.Hour, 3 * time.Hour},
		time.Now().Add(72 * time.Hour).UTC().Format(http.TimeFormat): {24 * time.Hour, 24 * time.Hour},
	} {
		h := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}}
		err := f.client(f.serve(h), t.TempDir()).Update(t.Context())
		if got := repo.RetryAfter(err); !errkind.Is(err, errkind.Unavailable) || got < want[0] || got > want[1] {
			t.Errorf("%q: got %v and %v, want from %v to %v", value, got, err, want[0], want[1])
		}
		if n := len(h.take()); want[0] > 0 && n != 1 {
			t.Errorf("%q: asked %d times although that was not wanted", value, n)
		}
	}
	if repo.RetryAfter(errors.New("x")) != 0 {
		t.Error("an error that is no answer")
	}
}

// Time is at least that of the signatures. With a clock that is behind, expired metadata does
// not count as fresh, over restarts too.
func TestClockBehindWhatWasSigned(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	later := now.Add(30 * 24 * time.Hour)
	if err := publish.Resign(t.Context(), f.dir, publish.ResignOptions{Common: publish.Common{Now: later, Expires: publish.Expiry{Timestamp: 40 * 24 * time.Hour}}}); err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	c := f.client("", state)
	c.SetNow(later)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	// This was signed much later, and seen. The next one was signed for a day only.
	latest := now.Add(60 * 24 * time.Hour)
	if err := publish.Resign(t.Context(), f.dir, publish.ResignOptions{All: true, Common: publish.Common{Now: latest}}); err != nil {
		t.Fatal(err)
	}
	c.SetNow(latest)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.signTimestamp(func(m *metadata.TimestampType) { m.Version++; m.Expires = latest.Add(-24 * time.Hour) })
	for _, c := range []*repo.Client{c, f.client("", state)} {
		c.SetNow(now) // the battery of the clock was empty
		err := c.Update(t.Context())
		if !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "expired") {
			t.Errorf("expired metadata is believed by a clock that is behind: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "expired")
		}
	}
	// With a clock before this program was built, it is the same.
	old := newFixture(t, publish.Expiry{Timestamp: -5 * 365 * 24 * time.Hour})
	c = old.client("", t.TempDir())
	c.SetNow(time.Unix(0, 0))
	if err := c.Update(t.Context()); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("in 1970: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "expired")
	}
}

func TestCredentials(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	dir, systemd := t.TempDir(), t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", systemd)
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(dir+"/r", string(f.root), 0o644)
	write(dir+"/secret", "ann:s3cret:x\n", 0o600)
	write(dir+"/open", "Bearer abc\n", 0o644)
	write(systemd+"/mirror", "bob:pw", 0o600)
	write(dir+"/two", "a:b\nc:d\n", 0o600)
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		yaml, header, err string
		exposed           bool
	}{
		"file":     {yaml: "credentials: secret", header: basic("ann:s3cret:x")},
		"bearer":   {yaml: "credentials: ./open", header: "Bearer abc", exposed: true},
		"systemd":  {yaml: "credentials: mirror", header: basic("bob:pw")},
		"absolute": {yaml: "credentials: " + dir + "/secret", header: basic("ann:s3cret:x")},
		"missing":  {yaml: "credentials: gone", err: "cannot use the credentials \"gone\""},
		"lines":    {yaml: "credentials: two", err: "want one line"},
	} {
		write(dir+"/x.yaml", "url: HERE\nroot: r\n"+c.yaml+"\n", 0o600)
		var header string
		h := &recorder{files: http.FileServer(http.Dir(f.dir)), answer: func(_ http.ResponseWriter, r *http.Request) bool {
			header = r.Header.Get("Authorization")
			return false
		}}
		url := f.serve(h)
		write(dir+"/x.yaml", "url: "+url+"\nroot: r\n"+c.yaml+"\n", 0o600)
		configs, broken, err := repo.LoadConfigs(dir)
		if err != nil || (c.err != "") != (len(broken) == 1) {
			t.Errorf("%s: LoadConfigs: got %v, broken %v, error %v; want one of them broken: %v, and no error", name, configs, broken, err, c.err != "")
			continue
		}
		if c.err != "" {
			if e := broken[0].Err; !strings.Contains(e.Error(), c.err) || strings.Contains(e.Error(), "c:d") {
				t.Errorf("%s: got %v, want an error with %q and without the secret", name, e, c.err)
			}
			continue
		}
		client, err := repo.Open(configs[0], t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.SetNow(now)
		if err := client.Update(t.Context()); err != nil || header != c.header {
			t.Errorf("%s: %v, sent %q, want %v", name, err, header, c.header)
		}
		if configs[0].Exposed != c.exposed {
			t.Errorf("%s: exposed %v, want %v", name, configs[0].Exposed, c.exposed)
		}
	}
	address, credentials := repo.SplitPassword("https://ann:p%40ss@example.org/x")
	if address != "https://example.org/x" || credentials != "ann:p@ss\n" {
		t.Errorf("%q, %q; want address %q and credentials %q", address, credentials, "https://example.org/x", "ann:p@ss\n")
	}
	if address, credentials := repo.SplitPassword("/srv/x"); address != "/srv/x" || credentials != "" {
		t.Errorf("%q, %q; want address %q and no credentials", address, credentials, "/srv/x")
	}
	if got := (repo.Config{URL: "https://ann:pw@%zz/"}).Address(); strings.Contains(got, "pw") {
		t.Error(got)
	}
}

// nginx makes the tag of a file from the time of its change in seconds and its size. Two
// publications in one second may have the same tag; a machine that reads between them sees the
// second one too.
func TestTagOfTheSameSecond(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	timestamp := filepath.Join(f.dir, "metadata", "timestamp.json")
	files := http.FileServer(http.Dir(f.dir))
	var same []string
	c := f.client(f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fi, err := os.Stat(filepath.Join(f.dir, filepath.FromSlash(r.URL.Path))); err == nil {
			tag := fmt.Sprintf("\"%x-%x\"", fi.ModTime().Unix(), fi.Size())
			w.Header().Set("ETag", tag)
			w.Header().Set("Date", fi.ModTime().UTC().Format(http.TimeFormat)) // in the same second
			if r.URL.Path == "/metadata/timestamp.json" {
				same = append(same, tag)
			}
		}
		files.ServeHTTP(w, r)
	})), t.TempDir())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(timestamp)
	must(err)
	must(c.Check(t.Context()))
	f.publish("2.0", publish.Expiry{})
	must(os.Chtimes(timestamp, before.ModTime(), before.ModTime()))
	must(c.Check(t.Context()))
	p, err := c.Channel(t.Context(), app, "stable")
	must(err)
	if len(same) != 2 || same[0] != same[1] {
		t.Fatalf("the tags are %q, want the same one twice", same)
	}
	if p.Version != "2.0" {
		t.Errorf("version %s is offered, want 2.0", p.Version)
	}
}
