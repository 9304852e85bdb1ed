package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/lull/lull/e2e/isolate"
)

// TB is the part of testing.TB that the rig uses.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
	Failed() bool
}

// Run calls f outside a test: it ends when f returns or calls Fatalf, and the
// cleanups have run. It returns the first error that f reported. Log lines go to w.
func Run(ctx context.Context, w io.Writer, f func(TB)) error {
	parent := ctx
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	b := &bench{ctx: ctx, parent: parent, w: w}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.cleanup()
		defer cancel()
		f(b)
	}()
	<-done
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// bench is the TB of Run.
type bench struct {
	ctx    context.Context
	parent context.Context
	w      io.Writer

	mu       sync.Mutex
	err      error
	cleanups []func()
}

func (b *bench) Helper()                  {}
func (b *bench) Context() context.Context { return b.ctx }

// Logf prints nothing after an interruption.
func (b *bench) Logf(format string, args ...any) {
	if b.parent.Err() == nil {
		fmt.Fprintf(b.w, format+"\n", args...)
	}
}

// Errorf keeps the first error.
func (b *bench) Errorf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
}

func (b *bench) Fatalf(format string, args ...any) {
	b.Errorf(format, args...)
	runtime.Goexit()
}

func (b *bench) Failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

func (b *bench) Cleanup(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleanups = append(b.cleanups, f)
}

// cleanup runs what was registered, last first, each also when another one
// gives up.
func (b *bench) cleanup() {
	for {
		b.mu.Lock()
		n := len(b.cleanups)
		if n == 0 {
			b.mu.Unlock()
			return
		}
		f := b.cleanups[n-1]
		b.cleanups = b.cleanups[:n-1]
		b.mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
}

// Main is the TestMain of a package that uses the rig. The tests have cgroup
// hierarchies of their own, and the binaries that Binaries has built for them are
// removed afterwards.
func Main(run func() int) { os.Exit(isolate.Main(isolate.All, tidy(run))) }

// MainWithReleaseAgent is Main for packages that register the release agent of the
// freezer hierarchy, which they share: each of their tests takes need.Lock(t,
// "freezer").
func MainWithReleaseAgent(run func() int) { os.Exit(isolate.Main(isolate.Unified, tidy(run))) }

// MainOfProgram is the main of a program that uses the rig: it takes the machine as it
// is, with its release agent, and its turn with Turn.
func MainOfProgram(run func() int) { os.Exit(tidy(run)()) }

func tidy(run func() int) func() int {
	return func() int {
		code := run()
		if err := removeBuilt(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		return code
	}
}

// Turn waits until no other process on this machine uses the freezer hierarchy's one
// release agent, as require.Lock(t, "freezer") does in tests; told is called if
// that takes a while.
func Turn(tb TB, told func()) {
	tb.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "lull-test-freezer.lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		tb.Fatalf("cannot take turns: %v", err)
	}
	tb.Cleanup(func() { f.Close() })
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return
	}
	told()
	locked := make(chan error, 1)
	go func() { locked <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			tb.Fatalf("cannot take turns: %v", err)
		}
	case <-tb.Context().Done():
		tb.Fatalf("%v", errStopped)
	}
}

// errStopped is why a wait ended when the test or the demonstration was over.
var errStopped = errors.New("interrupted")
