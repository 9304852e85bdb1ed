package services_test

import (
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/services/conformance"
	"github.com/lull/lull/e2e/require"
)

// TestDirect: services are children of the agent.
func TestDirect(t *testing.T) {
	require.Unified(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	conformance.Conformance(t, conformance.Options{
		New:     func(l services.Launcher) services.Manager { return services.NewDirect(l, false, func(string) {}, log) },
		Tracker: runs.Options{Want: "subtree", Log: log},
		User:    somebody(t),
	})
}

// TestSystemdOfSystem and TestSystemdOfUser are the suite on the real thing. The
// tests of whole machines run them where systemd is PID 1, the second in a
// session.
func TestSystemdOfSystem(t *testing.T) {
	systemd(t, 0)
	conformance.Conformance(t, conformance.Options{
		New:      func(l services.Launcher) services.Manager { return services.NewSystemd(l, false) },
		Tracker:  runs.Options{Want: "scope"},
		User:     somebody(t),
		Restarts: true,
	})
}

func TestSystemdOfUser(t *testing.T) {
	systemd(t, os.Getuid())
	if os.Getuid() == 0 {
		t.Skip("this is root")
	}
	conformance.Conformance(t, conformance.Options{
		New:      func(l services.Launcher) services.Manager { return services.NewSystemd(l, true) },
		Tracker:  runs.Options{Want: "scope", UserMode: true},
		Restarts: true,
	})
}

func systemd(t *testing.T, uid int) {
	t.Helper()
	if l, err := cgroup.Mounts(); err != nil || !l.SystemdUnified || os.Getuid() != uid {
		t.Skip("systemd is not PID 1 here, or this is another user")
	}
}

// somebody is an ordinary user: of a container, where it gets another group first,
// or of any machine.
func somebody(t *testing.T) string {
	t.Helper()
	const tester = "tester"
	if os.Getenv("LULL_IN_CONTAINER") == "" {
		return "nobody"
	}
	if out, err := exec.Command("usermod", "--append", "--groups", "games", tester).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tester
}
