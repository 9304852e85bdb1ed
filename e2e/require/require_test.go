package require

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// recorder stands in for a test that ends by skipping or failing.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func record(f func(testing.TB)) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestMissingSkipsOrFails(t *testing.T) {
	program := func(t testing.TB) { Program(t, "sh", "no-such-program-here") }
	t.Setenv("CI", "")
	if r := record(program); !strings.Contains(r.skipped, "no-such-program-here") || r.failed != "" {
		t.Errorf("on a workstation: %+v, want a skip that names the program", r)
	}
	t.Setenv("CI", "true")
	if r := record(program); !strings.Contains(r.failed, "no-such-program-here") || r.skipped != "" {
		t.Errorf("with CI=true: %+v, want a failure that names the program", r)
	}
}

func TestProgramReturnsThePath(t *testing.T) {
	if p := Program(t, "sh"); !filepath.IsAbs(p) {
		t.Errorf("Program(sh) = %q, want an absolute path", p)
	}
}

func TestLockExcludes(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	held := make(chan struct{})
	second := make(chan time.Time, 1)
	var released time.Time
	t.Run("first", func(t *testing.T) {
		Lock(t, "it")
		close(held)
		go func() {
			rt := &holder{TB: t}
			Lock(rt, "it")
			second <- time.Now()
			rt.release()
		}()
		time.Sleep(50 * time.Millisecond) // lets the second one come to wait
		released = time.Now()
	})
	if at := <-second; at.Before(released) {
		t.Error("two tests held one lock")
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("TMPDIR"), "lull-test-it.lock")); err != nil {
		t.Error(err)
	}
}

// holder keeps the cleanups for itself.
type holder struct {
	testing.TB
	cleanups []func()
}

func (h *holder) Helper()          {}
func (h *holder) Cleanup(f func()) { h.cleanups = append(h.cleanups, f) }
func (h *holder) release() {
	for _, f := range h.cleanups {
		f()
	}
}
