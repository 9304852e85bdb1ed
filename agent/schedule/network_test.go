package schedule

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// A default route in the test's own network namespace is noticed; another route, or an
// address, is not.
func TestDefaultRouteIsNoticed(t *testing.T) {
	require.Root(t)
	ip := require.Program(t, "ip")
	done := make(chan struct{})
	var forbidden string // why this machine forbids what the test does
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		run := func(args ...string) {
			t.Helper()
			if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil { // of this thread's namespace
				t.Errorf("ip %v: %v\n%s", args, err, out)
				runtime.Goexit() // done is closed all the same
			}
		}
		came, stop, err := defaultRoutes()
		if err != nil {
			t.Error(err)
			return
		}
		defer stop()
		if out, err := exec.Command(ip, "link", "set", "lo", "up").CombinedOutput(); err != nil {
			forbidden = string(out) // a container may lack CAP_NET_ADMIN
			return
		}
		run("route", "add", "198.51.100.0/24", "dev", "lo")
		run("route", "add", "default", "dev", "lo")
		select {
		case <-came:
		case <-time.After(time.Minute):
			t.Error("the network has come, and nothing is said")
		}
		select {
		case <-came:
			t.Error("one default route is two events")
		default:
		}
		run("route", "del", "default")
		run("-6", "route", "add", "default", "dev", "lo")
		select {
		case <-came:
		case <-time.After(time.Minute):
			t.Error("the network has come with IPv6, and nothing is said")
		}
	}()
	<-done
	if forbidden != "" {
		require.Missing(t, "needs to change its own network: %s", forbidden)
	}
	if hasDefaultRoute(nil) || hasDefaultRoute([]byte("garbage that is no message")) {
		t.Error("garbage is a route")
	}
}
