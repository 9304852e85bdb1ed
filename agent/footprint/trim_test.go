//go:build !race

// The race detector keeps memory of its own about all memory that was used.

package footprint

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestTrim looks at this very process before and after.
func TestTrim(t *testing.T) {
	ballast := make([]byte, 64<<20)
	for i := range ballast {
		ballast[i] = 1
	}
	if resident(t, "RssAnon") < 64<<10 {
		t.Fatal("the ballast is not resident")
	}
	ballast = nil
	files := resident(t, "RssFile")
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if kib := resident(t, "RssAnon"); kib > 32<<10 {
		t.Errorf("%d KiB are resident that nobody needs", kib)
	}
	if kib := resident(t, "RssFile"); kib >= files {
		t.Errorf("%d KiB of files are mapped, %d before", kib, files)
	}
}

func resident(t *testing.T, key string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), key+":")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Fatalf("no %s in %s", key, b)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
