package footprint

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRestingOncePerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trims := 0
		began := time.Now()
		var at time.Duration
		r := New(10*time.Second, func() { trims++; at = time.Since(began) })
		defer r.Close()
		for range 30 {
			r.Touch()
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		if trims != 1 || at != 39*time.Second {
			t.Errorf("after one burst: %d times, the last at %v; want once, ten seconds after its end", trims, at)
		}
		r.Touch()
		time.Sleep(time.Hour)
		if trims != 2 {
			t.Errorf("after two bursts: %d times", trims)
		}
		r.Touch()
		r.Close()
		r.Touch()
		time.Sleep(time.Hour)
		if trims != 2 {
			t.Errorf("after the end: %d times", trims)
		}
	})
}

func TestReadOnly(t *testing.T) {
	for _, c := range []struct {
		line     string
		from, to uintptr
		ok       bool
	}{
		{"00400000-00aa5000 r-xp 00000000 fe:00 123   /usr/libexec/lull/lulld", 0x400000, 0xaa5000, true},
		{"00aa5000-011f5000 r--p 006a5000 fe:00 123   /usr/libexec/lull/lulld", 0xaa5000, 0x11f5000, true},
		{"011f5000-0125f000 rw-p 00df5000 fe:00 123   /usr/libexec/lull/lulld", 0, 0, false},
		{"7f0000000000-7f0000001000 r--s 00000000 fe:00 9 /var/lib/lull/state.db", 0, 0, false},
		{"7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]", 0, 0, false},
		{"7f0000000000-7f0000001000 r--p 00000000 00:00 0", 0, 0, false},
	} {
		from, to, ok := readOnly(c.line, "/usr/libexec/lull/lulld")
		if ok != c.ok || ok && (from != c.from || to != c.to) {
			t.Errorf("%s: %x-%x %v", c.line, from, to, ok)
		}
	}
}

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
