package repo_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// mirrored is a machine with a repository at its own address and at mirrors.
func mirrored(t *testing.T, f *fixture, own string, mirrors ...string) *repo.Client {
	t.Helper()
	c, err := repo.Open(repo.Config{Name: "main", URL: own, Root: f.root, Mirrors: mirrors, Authorization: "Bearer secret"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.Hurry()
	c.SetNow(now.Add(time.Hour))
	return c
}

// unreachable is an address where no server listens.
func unreachable() string {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL
}

// copyOf serves a copy of the repository's current state.
func copyOf(t *testing.T, f *fixture) (url string, h *recorder) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	h = &recorder{files: tagged(dir)}
	return f.serve(h), h
}

func version(t *testing.T, c *repo.Client) string {
	t.Helper()
	p, err := c.Channel(t.Context(), app, "stable")
	if err != nil {
		t.Fatal(err)
	}
	return p.Version
}

// TestMirrors: content is read from a mirror and metadata from the repository's own address.
// Each replaces the other after a failure.
func TestMirrors(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	mirror, there := copyOf(t, f)
	own := &recorder{files: tagged(f.dir)}
	var leaked atomic.Bool
	there.set(func(_ http.ResponseWriter, r *http.Request) bool {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		return false
	})
	c := mirrored(t, f, f.serve(own), mirror)
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, asked := range own.take() {
		if !strings.HasPrefix(asked, "/metadata/") {
			t.Errorf("%s is fetched from the repository's own address", asked)
		}
	}
	for _, asked := range there.take() {
		if strings.HasPrefix(asked, "/metadata/") {
			t.Errorf("%s is fetched from the mirror, want it from the repository's own address", asked)
		}
	}
	if leaked.Load() {
		t.Error("the mirror gets the credentials of the repository")
	}
	// Either is enough.
	if err := install(t.Context(), mirrored(t, f, unreachable(), mirror)); err != nil {
		t.Errorf("by the mirror alone: %v", err)
	}
	if err := install(t.Context(), mirrored(t, f, f.serve(nil), unreachable(), unreachable())); err != nil {
		t.Errorf("without a mirror: %v", err)
	}
	err := install(t.Context(), mirrored(t, f, unreachable(), unreachable()))
	if !errkind.Is(err, errkind.Unavailable) || !strings.HasPrefix(err.Error(), `cannot read the root metadata of repository "main" at http://`) {
		t.Errorf("with neither: got %v, want an error of kind %v and error that begins with %q", err, errkind.Unavailable, `cannot read the root metadata of repository "main" at http://`)
	}
}

// TestMirrorIsBehind: older metadata than was accepted before is no attack as long as another
// place has the newest.
func TestMirrorIsBehind(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	lagging, _ := copyOf(t, f)
	f.publish("1.1", publish.Expiry{})
	fresh, _ := copyOf(t, f)
	own := httptest.NewServer(http.FileServer(http.Dir(f.dir)))
	c := mirrored(t, f, own.URL, lagging, fresh)
	var log strings.Builder
	c.SetLog(slog.New(slog.NewTextHandler(&log, nil)))
	if err := install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	own.Close()
	for range 3 { // the first one passes over two, and the next none
		if err := c.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "is behind, and passed over"); n != 1 || version(t, c) != "1.1" {
		t.Errorf("version %s is offered and a mirror was passed over %d times, want 1.1 and once; the log is\n%s", version(t, c), n, log.String())
	}
	if m := c.Mirrors(); len(m) != 2 || m[0].URL != lagging || !m[0].Behind || m[0].Failed.IsZero() || m[1].URL != fresh || !m[1].Failed.IsZero() {
		t.Errorf("got mirrors %+v, want %s behind and failed, and %s not failed", m, lagging, fresh)
	}
	// The same where the own address lags, as behind a cache.
	c = mirrored(t, f, f.serve(nil), fresh)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg, state := repo.Config{Name: "main", URL: lagging, Root: f.root, Mirrors: []string{fresh}}, filepath.Dir(filepath.Dir(c.State()))
	reopen := func() *repo.Client {
		t.Helper()
		c, err := repo.Open(cfg, state)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		c.Hurry()
		c.SetNow(now.Add(time.Hour))
		return c
	}
	if c = reopen(); c.Update(t.Context()) != nil || version(t, c) != "1.1" {
		t.Errorf("version %s is offered, want 1.1", version(t, c))
	}
	cfg.Mirrors = []string{lagging}
	if err := reopen().Update(t.Context()); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("all places are behind: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "rolled back")
	}
}

// TestMirrorFails: files that are missing or wrong at the mirror are read from another place,
// and a download that breaks off at the mirror continues there.
func TestMirrorFails(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	big := repo.BlobPath(digest.Of(f.big))
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, path string) bool
		tries  int
	}{
		"no files": {func(w http.ResponseWriter, path string) bool { w.WriteHeader(404); return true }, 1},
		"refuses":  {func(w http.ResponseWriter, path string) bool { w.WriteHeader(503); return true }, 1},
		"other pointers": {func(w http.ResponseWriter, path string) bool {
			_, _ = w.Write([]byte("{}\n"))
			return strings.HasPrefix(path, "channels/")
		}, 1},
		"breaks off": {func(w http.ResponseWriter, path string) bool {
			if path != big {
				return false
			}
			_, _ = w.Write(f.read(big)[:1000])
			panic(http.ErrAbortHandler)
		}, 1},
		"other blobs": {func(w http.ResponseWriter, path string) bool {
			_, _ = w.Write(f.read(repo.BlobPath(digest.Of([]byte("1.0")))))
			return path == big
		}, 2}, // the first one fails, and the mirror is passed over
	} {
		t.Run(name, func(t *testing.T) {
			h := &recorder{files: http.FileServer(http.Dir(f.dir))}
			own := &recorder{files: http.FileServer(http.Dir(f.dir))}
			h.set(func(w http.ResponseWriter, r *http.Request) bool {
				path := strings.TrimPrefix(r.URL.Path, "/")
				if name == "other blobs" && path != big || name == "other pointers" && !strings.HasPrefix(path, "channels/") {
					return false
				}
				return c.answer(w, path)
			})
			client := mirrored(t, f, f.serve(own), f.serve(h))
			for n := 1; ; n++ {
				err := install(t.Context(), client)
				if err == nil && n == c.tries {
					break
				}
				if n >= c.tries || !errkind.Is(err, errkind.Untrusted) {
					t.Fatalf("try %d: got %v, want an error of kind %v until try %d, which succeeds", n, err, errkind.Untrusted, c.tries)
				}
			}
			if asked := strings.Join(own.take(), " "); name != "other pointers" && !strings.Contains(asked, big) {
				t.Errorf("the repository's own address is asked for %q, want it asked for %s", asked, big)
			}
		})
	}
}

// TestMirrorAndCancel: a cancelled transfer is no fault of the mirror.
func TestMirrorAndCancel(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	ctx, cancel := context.WithCancel(t.Context())
	mirror, there := copyOf(t, f)
	there.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/blobs/") {
			return false
		}
		cancel()
		<-r.Context().Done()
		return true
	})
	c := mirrored(t, f, f.serve(nil), mirror)
	if err := install(ctx, c); err == nil {
		t.Error("a cancelled transfer has succeeded")
	}
	if m := c.Mirrors(); len(m) != 1 || !m[0].Failed.IsZero() {
		t.Errorf("got mirrors %+v, want one that has not failed", m)
	}
}

// TestMirrorConfig: mirrors are part of a repository's file.
func TestMirrorConfig(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	dir := t.TempDir()
	write := func(mirrors string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "main.yaml"), []byte("url: https://example.org/lull\nroot: r\nmirrors: "+mirrors+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "r"), f.root, 0o644); err != nil {
		t.Fatal(err)
	}
	write("[https://a.example.org/x, /srv/mirror]")
	configs, broken, err := repo.LoadConfigs(dir)
	if err != nil || broken != nil || len(configs) != 1 || strings.Join(configs[0].Mirrors, " ") != "https://a.example.org/x /srv/mirror" {
		t.Errorf("LoadConfigs: got %+v, broken %v, error %v; want one with the mirrors https://a.example.org/x and /srv/mirror", configs, broken, err)
	}
	other := configs[0]
	other.Mirrors = other.Mirrors[:1]
	if configs[0].Equal(other) {
		t.Error("a change of the mirrors is no change")
	}
	for _, bad := range []string{"[relative]", "[ftp://x]", "[" + strings.Repeat("/x, ", 17) + "/x]", "{}"} {
		write(bad)
		if configs, broken, err := repo.LoadConfigs(dir); err != nil || len(configs) != 0 || len(broken) != 1 || !strings.Contains(broken[0].Err.Error(), "main.yaml:3") {
			t.Errorf("%s: %+v, %+v, %v; want no error, 0 configs, 1 broken and %q in the error", bad, configs, broken, err, "main.yaml:3")
		}
	}
}
