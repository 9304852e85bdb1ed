package userd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	bus "github.com/lull/lull/dbus"
)

// Two sessions of one user, each with a bus, a screen and a helper of its own: each
// shows what runs in it.
func TestTwoSessions(t *testing.T) {
	one, two := newWorld(t), newWorld(t)
	two.system = one.system
	one.dunst()
	two.dunst()
	in := func(w *world) []bus.Process {
		cmd := exec.Command("sleep", "1000")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DBUS_SESSION_BUS_ADDRESS=" + w.session}
		start(t, cmd)
		return []bus.Process{{PID: uint32(cmd.Process.Pid), UID: uint32(os.Getuid()), Command: "sleep"}}
	}
	first, second, both := refresh("r1", "firefox", "Firefox", "153"), refresh("r2", "gimp", "GIMP", "3.0"), refresh("r3", "notes", "Notes", "2")
	first.Processes, second.Processes, both.Processes = in(one), in(two), append(in(one), in(two)...)
	a := one.startAgent(first, second, both)
	one.helper()
	two.helper()
	show := func(instance string) func(bus.SessionProperties) bool {
		return func(p bus.SessionProperties) bool {
			return len(p.Notices) == 2 && p.Notices[0].Instance == instance && p.Notices[1].Instance == "notes"
		}
	}
	one.until("the first shows its own", show("firefox"))
	two.until("the second shows its own", show("gimp"))
	one.displayed("2")
	two.displayed("2")

	// Closed and updated, there.
	a.set(second, both)
	a.say(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
	a.say(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r1", Instance: "firefox", Name: "Firefox", ToVersion: "153"}})
	one.until("it is told there", func(p bus.SessionProperties) bool {
		return len(p.Notices) == 2 && p.Notices[0].Text == "Firefox was updated. It is now version 153."
	})
	two.until("and not here", show("gimp"))

	// Each remembers for itself.
	if files, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "lull-userd", "notices-*.json")); len(files) != 2 {
		t.Errorf("got %v, want 2 files", files)
	}
	if err := one.stop(); err != nil {
		t.Error(err)
	}
	one.displayed("0")
	two.displayed("2")
}

func TestBusSockets(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for _, same := range [][2]string{
		{"unix:path=/a,guid=123", "unix:path=/a"}, {"unix:guid=1,abstract=x", "unix:abstract=x"}, {"", "unix:path=/run/user/7/bus"}, {"unix:path=/a;unix:path=/b", "unix:path=/a"},
	} {
		if a, b := busSocket(sessionBus(same[0])), busSocket(same[1]); a != b {
			t.Errorf("%q is %q, %q is %q; want %v", same[0], a, same[1], b, b)
		}
	}
	if busSocket("unix:path=/a") == busSocket("unix:abstract=/a") {
		t.Error("these are two sockets")
	}
	if !here("unix:path=/a")(1 << 30) {
		t.Error("what cannot be told counts as here")
	}
}
