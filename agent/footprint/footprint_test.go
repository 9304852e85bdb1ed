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
			t.Errorf("after two bursts: %d times, want 2", trims)
		}
		r.Touch()
		r.Close()
		r.Touch()
		time.Sleep(time.Hour)
		synctest.Wait()
		if trims != 2 {
			t.Errorf("after the end: %d times, want 2", trims)
		}
	})
}
