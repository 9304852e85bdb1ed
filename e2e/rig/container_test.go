package rig_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestContainerBoots checks both shapes of a machine with systemd: pure v2,
// and hybrid, where the v1 hierarchies are there and read-only.
func TestContainerBoots(t *testing.T) {
	require.Container(t)
	for _, shape := range []struct {
		name    string
		unified bool
		cgroup  string
	}{{"unified", true, "0::/"}, {"hybrid", false, "name=systemd"}} {
		t.Run(shape.name, func(t *testing.T) {
			c := rig.Boot(t, shape.unified)
			r := c.Login(time.Minute, []string{"HELLO=you"}, "sh", "-c",
				"echo $HELLO $(id -un) $(loginctl --no-legend list-users | wc -l); busctl --user --no-legend list | grep -c systemd1; cat /proc/self/cgroup")
			lines := strings.SplitN(r.Stdout, "\n", 3)
			if r.Code != 0 || lines[0] != "you "+rig.Tester+" 1" || lines[1] != "1" || !strings.Contains(lines[2], shape.cgroup) {
				t.Errorf("in the container: %v", r)
			}
		})
	}
}
