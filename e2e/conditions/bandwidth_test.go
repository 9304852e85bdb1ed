package conditions_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestBandwidth: a refresh by itself is fetched at the bandwidth of the policy, at which it would
// take an hour. The request of a user lifts the limit.
func TestBandwidth(t *testing.T) {
	require.Program(t, "nginx")
	s := set(t, "network: {bandwidth: 10kB}\n")
	const name, size = "org.lull.web", 36_000_000
	web := s.Path("web")
	s.MustLull("repo", "init", web)
	s.publish(web, name, "1")
	if err := os.Mkdir(s.Path("nginx"), 0o755); err != nil {
		t.Fatal(err)
	}
	address := rig.Nginx(t, s.Path("nginx"), "access_log off;\nserver { listen ADDRESS; root "+web+"; }\n")
	s.MustLull("repo", "add", "web", "http://"+address, "--trust", filepath.Join(web, "root.json"))
	s.MustLull("install", name)

	elsewhere := s.Path("elsewhere") // where the directory of the package is made
	s.MustLull("repo", "init", elsewhere)
	s.publish(elsewhere, name, "2")
	dir := s.Path(name + "-2")
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	s.MustLull("publish", "--repo", web, dir)
	if err := s.API.Call("Manager.Check").Err; err != nil {
		t.Fatal(err)
	}
	s.Until("it is being fetched", limit, func() (bool, string) {
		o, _ := s.API.Refresh(name, "2")
		done, total := o.Num("BytesDone"), o.Num("BytesTotal")
		if done > size/2 {
			t.Fatalf("%d of %d bytes were fetched at once, want at most %v of them by then", done, total, size/2)
		}
		return done > 0, fmt.Sprint(o.Str("Step"), " ", done, " of ", total)
	})
	s.says("network.bandwidth 10kB", "policy", "explain")
	s.says("is refreshed from 1 to 2", "refresh", name)
	s.UntilVersion(name, "2")
}
