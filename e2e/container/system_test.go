package container_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestSystemUpdate: the hooks of a system update are units of systemd's, which
// leave nothing behind; with the bus, the journal and the boot that a machine
// has.
func TestSystemUpdate(t *testing.T) {
	here(t)
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true, Policy: collects})
	publish := func(name, hooks string, files map[string]string) (hash string) {
		t.Helper()
		files["lull.yaml"] = "name: " + name + "\nversion: \"1\"\nsummary: for tests\n" + hooks
		return w.Publish(w.Tree(name, files))
	}
	// Each hook prints where it runs, and leaves a process behind that must not stay.
	hook := func(to string) string {
		return "#!/bin/sh\nsleep 100000 &\necho $! > " + w.Path(to+".pid") + "\n{ cat /proc/self/cgroup; echo \"$LULL_SYSTEM_VERSION\"; [ -z \"$LULL_IMAGES\" ] || cat \"$LULL_IMAGES/what\"; } > " + w.Path(to) + "\n"
	}
	image := publish("org.lull.image", "", map[string]string{"what": "the image\n"})
	base := publish("org.lull.base", "hooks: {health: [bin/health]}\n", map[string]string{"bin/health": hook("healthy")})
	publish("org.lull.update", "hooks: {pre-refresh: [bin/install]}\n", map[string]string{
		"bin/install": hook("installed"), "system.json": fmt.Sprintf(`{"version":"7","images":[%q],"base":[%q]}`, image, base)})
	start := func(boot string) *rig.Proc {
		t.Helper()
		if err := os.WriteFile(w.Path("boot-id"), []byte(boot), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := w.TryAgentWith([]string{"--boot-id=" + w.Path("boot-id")})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	check := func(file, unit, more string) {
		t.Helper()
		b, err := os.ReadFile(w.Path(file))
		if err != nil || !strings.Contains(string(b), unit) || !strings.HasSuffix(string(b), more) {
			t.Errorf("the hook says %q (%v), want %s and %q", b, err, unit, more)
		}
		pid, err := os.ReadFile(w.Path(file + ".pid"))
		if _, serr := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err != nil || serr == nil {
			t.Errorf("process %s of the hook lives (error %v), want it to have ended", pid, err)
		}
	}
	agent := start("first")
	w.MustLull("repo", "add", "local", w.Repo)
	w.MustLull("system", "stage", "org.lull.update")
	check("installed", "lull_hook-org.lull.update-system", "7\nthe image\n")
	agent.Stop()
	start("second")
	if r := w.MustLull("system", "commit"); r.Stdout != "system 7 is committed\n" {
		t.Errorf("got %v, want output %q", r, "system 7 is committed\n")
	}
	check("healthy", "lull_hook-org.lull.base-system", "7\n")
	if r := w.Admin.Run("systemctl", "list-units", "--all", "--no-legend", "lull_hook-*"); strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("units are left: %v", r)
	}
}
