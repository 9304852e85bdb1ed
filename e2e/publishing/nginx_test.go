package publishing

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// shown returns the configuration that the documentation shows.
func shown(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(rig.Module(), "docs", "repository.md"))
	must(t, err)
	_, rest, ok := strings.Cut(string(data), "\n    server {\n")
	block, _, end := strings.Cut(rest, "\n    }\n")
	if !ok || !end {
		t.Fatal("docs/repository.md shows no server")
	}
	return "server {\n" + block + "\n}\n"
}

// TestNginx: a directory behind nginx, with the configuration of the documentation, can be
// read, and is served with headers for caches and compressed.
func TestNginx(t *testing.T) {
	require.Program(t, "nginx")
	dir := filepath.Join(t.TempDir(), "repo")
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{}))
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: org.example.a\nversion: \"1\"\n"), 0o644))
	_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
	must(t, err)
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{Bins: true}))

	server := shown(t)
	for from, to := range map[string]string{"listen 80;": "listen ADDRESS;", "root /srv/lull/repo;": "root " + dir + ";"} {
		if strings.Count(server, from) != 1 {
			t.Fatalf("the documentation shows no %q", from)
		}
		server = strings.Replace(server, from, to, 1)
	}
	address := rig.Nginx(t, t.TempDir(), "access_log off;\n"+server)
	if got := fmt.Sprint(offered(t, "http://"+address, filepath.Join(dir, "root.json"))); got != "map[org.example.a:1]" {
		t.Errorf("offered: %s, want map[org.example.a:1]", got)
	}
	for path, want := range map[string]string{
		"metadata/timestamp.json": "200 public, max-age=60 application/json", "root.json": "200 public, max-age=60 application/json", "metadata/2.snapshot.json": "200 public, max-age=31536000, immutable application/json",
		"names/org.example.a": "200 public, max-age=60 text/plain", "metadata/99.root.json": "404  text/html", ".publish/x": "404  text/html",
	} {
		r, err := http.Get("http://" + address + "/" + path)
		must(t, err)
		r.Body.Close()
		if got := fmt.Sprint(r.StatusCode, " ", r.Header.Get("Cache-Control"), " ", r.Header.Get("Content-Type")); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	must(t, err)
	r, err := http.Get("http://" + address + strings.TrimPrefix(blobs[0], dir))
	must(t, err)
	r.Body.Close()
	if r.Header.Get("Content-Type") != "application/zstd" {
		t.Errorf("the header of a blob is %v, want Content-Type application/zstd", r.Header)
	}
}
