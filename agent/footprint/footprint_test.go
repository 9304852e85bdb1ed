package footprint

import (
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
		synctest.Wait()
		if trims != 1 || at != 39*time.Second {
			t.Errorf("after one burst: %d times, the last at %v; want once, ten seconds after its end", trims, at)
		}
		r.Touch()
		time.Sleep(time.Hour)
		synctest.Wait()
		if trims != 2 {
			t.Errorf("after two bursts: %d times", trims)
		}
		r.Touch()
		r.Close()
		r.Touch()
		time.Sleep(time.Hour)
		synctest.Wait()
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
