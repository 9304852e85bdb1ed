package publishing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program returns the command line of lull.
func program(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("LULL_BIN"); dir != "" {
		return filepath.Join(dir, "lull")
	}
	to := filepath.Join(t.TempDir(), "lull")
	rig.GoBuild(t, "./cmd/lull", to, nil)
	return to
}

// store is a running object store with the empty bucket packages.
type store struct {
	*testing.T
	url, lull, keys string
}

func startStore(t *testing.T) *store {
	t.Helper()
	gateway, err := rig.Gateway()
	if err != nil {
		require.Missing(t, "needs an object store: %v", err)
	}
	s := &store{T: t, lull: program(t), keys: filepath.Join(t.TempDir(), "keys")}
	s.url = "http://" + rig.ObjectStore(t, gateway, t.TempDir())
	t.Setenv("AWS_ENDPOINT_URL", s.url)
	t.Setenv("AWS_ACCESS_KEY_ID", rig.StoreOwner)
	t.Setenv("AWS_SECRET_ACCESS_KEY", rig.StoreSecret)
	return s
}

func (s *store) source(name, version string) string {
	s.Helper()
	dir := s.TempDir()
	must(s.T, os.WriteFile(filepath.Join(dir, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\n", name, version), 0o644))
	for i := range 20 {
		must(s.T, os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), fmt.Append(nil, name, version, i), 0o644))
	}
	return dir
}

// command returns a command that has no terminal, as in continuous integration.
func (s *store) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.lull, append(arguments, "--keys", s.keys)...)
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "TMPDIR="+s.TempDir()) // what is killed leaves its scratch
	return cmd
}

func (s *store) run(arguments ...string) (string, error) {
	s.Helper()
	out, err := s.command(s.Context(), arguments...).CombinedOutput()
	return string(out), err
}

func (s *store) must(arguments ...string) string {
	s.Helper()
	out, err := s.run(arguments...)
	if err != nil {
		s.Fatalf("lull %s: %v: %s", strings.Join(arguments, " "), err, out)
	}
	return out
}

// offered reads the repository as a machine does, and all its blobs.
func (s *store) offered() map[string]string {
	s.Helper()
	return offered(s.T, s.url+"/packages/main", filepath.Join(s.keys, "root.json"))
}

func offered(t *testing.T, url, trust string) map[string]string {
	t.Helper()
	root, err := os.ReadFile(trust)
	must(t, err)
	c, err := repo.Open(repo.Config{Name: "main", URL: url, Root: root}, t.TempDir())
	must(t, err)
	defer c.Close()
	must(t, c.Update(t.Context()))
	list, err := c.Listings(t.Context())
	must(t, err)
	found := map[string]string{}
	for _, l := range list {
		p, err := c.Channel(t.Context(), l.Name, l.Channel)
		must(t, err)
		r, err := c.Blob(t.Context(), p.Package, 0)
		must(t, err)
		_, err = io.Copy(io.Discard, r)
		must(t, errors.Join(err, r.Close()))
		found[l.Name] = p.Version
	}
	return found
}

// TestObjectStore: a repository lives in a bucket, from its first key on. Several publishers at
// once lose nothing, and one that is killed at any time leaves a state that others continue.
func TestObjectStore(t *testing.T) {
	s := startStore(t)
	const address = "s3://packages/main"
	s.must("repo", "init", address)
	s.must("publish", s.source("org.example.a", "1"), s.source("org.example.b", "1"), "--repo", address)
	if got := fmt.Sprint(s.offered()); got != "map[org.example.a:1 org.example.b:1]" {
		t.Errorf("offered: %s, want map[org.example.a:1 org.example.b:1]", got)
	}
	for path, cache := range map[string]string{"metadata/timestamp.json": "public, max-age=60", "metadata/2.snapshot.json": "public, max-age=31536000, immutable"} {
		r, err := http.Get(s.url + "/packages/main/" + path)
		must(t, err)
		r.Body.Close()
		if r.Header.Get("Cache-Control") != cache || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s has the header %v, want Cache-Control %q and Content-Type application/json", path, r.Header, cache)
		}
	}

	t.Run("at once", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 4 {
			src := s.source(fmt.Sprint("org.example.many", i), "1")
			all.Go(func() {
				if out, err := s.run("publish", src, "--repo", address); err != nil {
					t.Errorf("%d: %v: %s", i, err, out)
				}
			})
		}
		all.Wait()
		got := s.offered()
		for i := range 4 {
			if got[fmt.Sprint("org.example.many", i)] != "1" {
				t.Errorf("offered: got %v, want version 1 of org.example.many%d too", got, i)
			}
		}
	})

	t.Run("killed", func(t *testing.T) {
		begun := time.Now()
		s.must("publish", s.source("org.example.c", "0"), "--repo", address)
		whole := time.Since(begun)
		for i := 1; i <= 8; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/8)
			killed := s.command(ctx, "publish", s.source("org.example.c", fmt.Sprint(i)), "--repo", address).Run()
			cancel()
			before := s.offered()["org.example.c"]
			if killed == nil && before != fmt.Sprint(i) {
				t.Errorf("the publisher was not killed: got version %s offered, want %d", before, i)
			}
			s.must("publish", s.source("org.example.d", fmt.Sprint(i)), "--repo", address)
			if got := s.offered(); got["org.example.d"] != fmt.Sprint(i) || got["org.example.a"] != "1" {
				t.Errorf("after a publisher was killed: got %v offered, want version %d of org.example.d and 1 of org.example.a", got, i)
			}
		}
	})

	out, err := s.command(t.Context(), "channel", "halt", "org.example.a", "--repo", address, "--reason", "slow").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "halted") {
		t.Errorf("halt: %v: %s; want no error and %q in the output", err, out, "halted")
	}
	s.must("repo", "resign", address, "--all")
	if out := s.must("channel", "list", "--repo", address); !strings.Contains(out, "org.example.b ") {
		t.Errorf("listed: got %s, want %q in the output", out, "org.example.b ")
	}
	s.must("channel", "remove", "org.example.b", "--repo", address)
	s.must("repo", "prune", address, "--grace", "2d")
	s.must("repo", "check", address)
	s.must("repo", "rotate", address)
	s.must("publish", s.source("org.example.a", "2"), "--repo", address)
	if got := s.offered()["org.example.a"]; got != "2" {
		t.Errorf("offered after a rotation: %s, want 2", got)
	}
	if out, err := s.run("repo", "init", address); err == nil || !strings.Contains(out, "it is there already") {
		t.Errorf("a second init: %v: %s; want an error and %q in the output", err, out, "it is there already")
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if out, err := s.run("publish", s.source("org.example.a", "3"), "--repo", address); err == nil || strings.Count(out, "\n") > 2 {
		t.Errorf("a wrong secret: got error %v, want one, and at most 2 lines of output: %s", err, out)
	}
}
