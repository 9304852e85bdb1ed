package catalog_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestOtherClients: the text of an error and its advice, and the documentation of the
// interface, reach programs of Gio (gdbus) and of sd-bus (busctl).
func TestOtherClients(t *testing.T) {
	require.Cgroups(t)
	require.Program(t, "dbus-daemon", "setpriv", "gdbus", "busctl")
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}})
	other := w.Path("other")
	w.MustLull("repo", "init", other)
	for _, dir := range []string{w.Repo, other} {
		publish(w.World, dir, "stable", "1")
	}
	w.Begin()
	w.MustLull("repo", "add", "other", other)
	for _, c := range []struct{ program, install, introspect []string }{
		{[]string{"gdbus"}, []string{"call", "--address=" + w.Bus.Address, "--dest=" + rig.AgentName, "--object-path=" + rig.AgentPath, "--method=" + rig.AgentName + ".Manager.Install", name, "{}"},
			[]string{"introspect", "--address=" + w.Bus.Address, "--dest=" + rig.AgentName, "--object-path=" + rig.AgentPath, "--xml"}},
		{[]string{"busctl", "--address=" + w.Bus.Address}, []string{"call", rig.AgentName, rig.AgentPath, rig.AgentName + ".Manager", "Install", "sa{sv}", name, "0"},
			[]string{"introspect", "--xml-interface", rig.AgentName, rig.AgentPath}},
	} {
		run := func(args []string) string {
			argv := append(append([]string{}, c.program...), args...)
			out, _ := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
			return string(out)
		}
		got := run(c.install)
		for _, want := range []string{"cannot choose a repository for " + name + ": local and other offer it", "hint: --repository local takes it from there"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s prints %q, want %q", c.program[0], got, want)
			}
		}
		got = run(c.introspect)
		for _, want := range []string{"org.lull.Error.LimitsExceeded", "Times are in microseconds since the epoch", "Hashes of the packages that are being resolved", "Switches an instance to another channel"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s introspects nothing of %q; want %q", c.program[0], want, want)
			}
		}
	}
}
