package repo_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/policy"
)

// TestLimit: transfers from nginx that no user has requested take as long as their bytes take
// at the rate of the policy, together. Time is virtual: it passes only while all transfers wait
// for the limit.
func TestLimit(t *testing.T) {
	require.Program(t, "nginx")
	dir, src := filepath.Join(t.TempDir(), "repo"), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(publish.Init(t.Context(), dir, publish.InitOptions{}))
	random := rand.NewChaCha8([32]byte{17})
	var blobs []digest.Digest
	for _, name := range []string{"a", "b"} {
		data := make([]byte, 1_000_000)
		_, _ = random.Read(data)
		must(os.WriteFile(filepath.Join(src, name), data, 0o644))
		blobs = append(blobs, digest.Of(data))
	}
	must(os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: org.example.a\nversion: \"1\"\n"), 0o644))
	_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
	must(err)
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	must(err)
	var size int64 // compressed, of both
	for _, d := range blobs {
		fi, err := os.Stat(filepath.Join(dir, repo.BlobPath(d)))
		must(err)
		size += fi.Size()
	}
	must(os.Chmod(filepath.Dir(dir), 0o755))
	// A connection that waits for the next request would keep the time from passing.
	address := rig.Nginx(t, t.TempDir(), "access_log off; keepalive_timeout 0;\nserver { listen ADDRESS; root "+dir+"; }\n")

	// all is the time of both blobs at 20 kB/s. Bubbles begin at midnight.
	all := time.Duration(float64(size) / 20_000 * float64(time.Second))
	asked := func(after time.Duration) func(context.Context) context.Context {
		return func(ctx context.Context) context.Context {
			begun := time.Now()
			return repo.Unrequested(ctx, func() bool { return time.Since(begun) >= after })
		}
	}
	for name, c := range map[string]struct {
		policy string
		ctx    func(context.Context) context.Context
		takes  time.Duration
		failed error
	}{
		"by itself":           {"network: {bandwidth: 20kB}", asked(time.Hour), all, nil},
		"no limit":            {"", asked(time.Hour), 0, nil},
		"requested":           {"network: {bandwidth: 20kB}", nil, 0, nil},
		"requested meanwhile": {"network: {bandwidth: 20kB}", asked(10 * time.Second), 10 * time.Second, nil},
		"all requests":        {"network: {bandwidth: 20kB, bandwidth-requests: true}", nil, all, nil},
		"limit ends":          {"network: {bandwidth: 20kB, bandwidth-windows: [00:00-00:01]}", asked(time.Hour), time.Minute, nil},
		"limit begins later":  {"network: {bandwidth: 20kB, bandwidth-windows: [08:00-18:00]}", asked(time.Hour), 0, nil},
		"cancelled": {"network: {bandwidth: 20kB}", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(repo.Unrequested(ctx, nil))
			time.AfterFunc(5*time.Second+time.Millisecond, cancel)
			return ctx
		}, 5 * time.Second, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Merge([]policy.File{{Name: "policy.yaml", Data: []byte(c.policy)}})
			must(err)
			synctest.Test(t, func(t *testing.T) {
				client, err := repo.Open(repo.Config{Name: "main", URL: "http://" + address, Root: root,
					Limit: repo.NewLimit(func(now time.Time, requested bool) int64 { return p.Network.Limit(now.UTC(), requested) })}, t.TempDir())
				must(err)
				defer client.Close()
				begun, ctx := time.Now(), t.Context()
				if c.ctx != nil {
					ctx = c.ctx(ctx)
				}
				var readers sync.WaitGroup
				for _, d := range blobs {
					readers.Go(func() {
						in, err := client.Blob(ctx, d, 0)
						if err == nil {
							var data []byte
							data, err = io.ReadAll(in)
							err = errors.Join(err, in.Close())
							if err == nil && digest.Of(data) != d {
								err = errors.New("it is another blob")
							}
						}
						if !errors.Is(err, c.failed) {
							t.Errorf("a blob: %v, want %v", err, c.failed)
						}
					})
				}
				readers.Wait()
				// A waiting transfer notices within a second that the limit has ended.
				if took := time.Since(begun); took < c.takes-time.Millisecond || took > c.takes+time.Second {
					t.Errorf("%d bytes have taken %s, want %s", size, took, c.takes)
				} else {
					t.Logf("%d bytes: %s", size, took)
				}
			})
		})
	}
}
