package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFeed: the watchdog is fed as often as the agent answers, and not while it
// does not.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var fed atomic.Int32
		hang := make(chan struct{})
		alive := func(ctx context.Context) error {
			if fed.Load() < 3 {
				return nil
			}
			select {
			case <-hang:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); feed(ctx, time.Minute, alive, func() { fed.Add(1) }) }()
		count := func(after time.Duration, want int32) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if n := fed.Load(); n != want {
				t.Errorf("it was fed %d times, want %d", n, want)
			}
		}
		count(time.Second, 1)
		count(time.Minute, 2)
		count(time.Minute, 3)
		count(time.Hour, 3) // it hangs
		close(hang)
		count(time.Second, 5) // the answer that was late, and the tick that has passed meanwhile
		count(time.Minute, 6)
		cancel()
		<-done
	})
}

// TestReloadIsAnnounced: as sd_notify(3) wants it, in this order.
func TestReloadIsAnnounced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	next := func() string {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 1024)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	over := reloading(slog.Default())
	state, usec, ok := strings.Cut(next(), "\nMONOTONIC_USEC=")
	if state != "RELOADING=1" || !ok || len(usec) < 6 || strings.Trim(usec, "0123456789") != "" {
		t.Errorf("got state %q and time %q, want \"RELOADING=1\" and at least 6 digits", state, usec)
	}
	over()
	if got := next(); got != "READY=1" {
		t.Errorf("it ends with %q, want READY=1", got)
	}
}
