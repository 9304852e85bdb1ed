package launch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/runctl"
	lullbus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
)

// helper is the part of a session's helper that a launcher sees.
type helper struct {
	heard chan string
	names *lullbus.Names
	left  chan string
}

func (h *helper) Show(lullbus.Caller) error { return errors.New("nobody asked for it") }

func (h *helper) LaunchWaits(c lullbus.Caller, instance, why string) error {
	h.heard <- instance + " " + why
	_, err := h.names.Watch(context.Background(), c.Sender, func(owner string) {
		if owner == "" {
			h.left <- c.Sender
		}
	})
	return err
}

func (h *helper) DataIncomplete(_ lullbus.Caller, instance, name string, count uint32, first, directory string) error {
	h.heard <- fmt.Sprintf("%s %s %d %s %s", instance, name, count, first, directory)
	return nil
}

// TestDesktopIsTold of a launch that waits for more than a moment, until it starts.
func TestDesktopIsTold(t *testing.T) {
	address := bustest.Start(t)
	server, err := lullbus.Serve(t.Context(), address, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	names := lullbus.NewNames(server.Conn())
	t.Cleanup(names.Close)
	h := &helper{make(chan string, 8), names, make(chan string, 8)}
	w := newWorld(t)
	w.no(server.Export(lullbus.SessionPath, lullbus.ExportSession(h, lullbus.SessionProperties{})))
	w.no(server.RequestName(lullbus.SessionName))
	w.env = []string{"DBUS_SESSION_BUS_ADDRESS=" + address}
	w.install(1, 0, false)
	w.untracked()
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	began := time.Now()
	svc := w.start("--service", "daemon", app) // which is not announced
	l := w.start(app, "wait")
	select {
	case got := <-h.heard:
		if got != app+" refresh-in-progress" {
			t.Errorf("heard %q, want %v", got, app+" refresh-in-progress")
		}
		if took := time.Since(began); took < desktopAfter {
			t.Errorf("the desktop heard of the wait after %v, want at least %v", took, desktopAfter)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the helper hears nothing")
	}
	w.no(w.ctl.ClearInhibited(app))
	select {
	case <-h.left:
	case <-time.After(20 * time.Second):
		t.Fatal("the launcher stays on the bus")
	}
	l.expect(t, "revision 1\n")
	l.stop()
	svc.stop()
	if len(h.heard) > 0 {
		t.Errorf("the desktop heard also %q, want one wait alone, not that of the service", <-h.heard)
	}

	// A short wait is not shown.
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	began = time.Now()
	l = w.start(app, "wait")
	time.AfterFunc(desktopAfter/3, func() { w.no(w.ctl.ClearInhibited(app)) })
	l.expect(t, "revision 1\n")
	took := time.Since(began)
	l.stop()
	if len(h.heard) > 0 && took < desktopAfter { // else this machine is too busy to judge
		t.Errorf("the desktop heard %q after a wait of %v, want nothing of a wait below %v", <-h.heard, took, desktopAfter)
	}
}

// TestHook: a hook runs like the application, is not kept out by the refresh
// that it announces, and waits for nothing.
func TestHook(t *testing.T) {
	w := newWorld(t)
	w.install(1, 0, true)
	w.untracked()
	w.no(w.ctl.SetInhibited(app, runctl.RefreshPending))
	r := w.run("--hook", manifest.HookRefreshPending, app)
	for _, want := range []string{"arg the hook\n", "LULL_REVISION=1\n", "LULL_USER_DATA=" + w.home} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("no %q in %d %s%s", want, r.code, r.out, r.stderr)
		}
	}
	// By the name of the second format, too: the package is of the first one.
	if r := w.run("--hook", manifest.HookQuit, app); r.code != 0 || !strings.Contains(r.out, "arg the hook\n") {
		t.Errorf("%d %s%s; want code 0 and %q in the output", r.code, r.out, r.stderr, "arg the hook\n")
	}
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	if r := w.run("--hook", manifest.HookRefreshPending, app); r.code != 75 || !strings.Contains(r.stderr, "its hook refresh-pending is too late") {
		t.Errorf("got %d %s, want code 75 and %q in the error output", r.code, r.stderr, "its hook refresh-pending is too late")
	}
	w.no(w.ctl.ClearInhibited(app))
	for _, args := range [][]string{{"--hook", "health", app}, {"--hook", manifest.HookRefreshPending, "--app", "first", app}} {
		if r := w.run(args...); r.code != 64 {
			t.Errorf("%v: %d %s; want code 64", args, r.code, r.stderr)
		}
	}
	if r := w.run(app, "tell"); !strings.Contains(r.out, "LULL_APP="+app+"\n") {
		t.Errorf("got %s, want %q in the output", r.out, "LULL_APP="+app+"\n")
	}
	if r := w.run("--app", "first", app); r.code != 3 {
		t.Errorf("got %d %s, want code 3", r.code, r.stderr)
	}
}

// TestNoSession: without one a launch waits all the same.
func TestNoSession(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent/bus"}
	w.install(1, 0, false)
	w.untracked()
	w.no(w.ctl.SetInhibited(app, runctl.RefreshInProgress))
	l := w.start(app, "wait")
	time.AfterFunc(desktopAfter*3/2, func() { w.no(w.ctl.ClearInhibited(app)) })
	l.expect(t, "revision 1\n")
	l.stop()
}
