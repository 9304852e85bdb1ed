package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/lull/lull/e2e/rig"
)

// fleetMachines is the size of the fleet of playFleet.
const fleetMachines = 300

// playFleet has machines follow a repository through eight days; see e2e/fleet, which needs
// the clock of a test.
func playFleet(tb rig.TB) results {
	path := filepath.Join(tempDir(tb), "figures.json")
	cmd := exec.CommandContext(tb.Context(), "go", "test", "-count=1", "-timeout=1h", "-run=^TestFleet$", "./e2e/fleet")
	cmd.Dir = rig.Module()
	cmd.Env = append(os.Environ(), fmt.Sprintf("LULL_FLEET=%d", fleetMachines), "LULL_FLEET_FIGURES="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("the fleet: %v\n%s", err, out)
	}
	var got struct{ Requests, Bytes, PerMinute float64 }
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil {
		tb.Fatalf("the figures of the fleet: %v", err)
	}
	return results{
		"fleet": samples{Ours: []float64{got.Requests}, Notes: []string{
			fmt.Sprintf("%d machines, eight days, a check each six hours, 14 publications among ten packages of which each machine has five, 2 %% of the requests with a fault", fleetMachines)}},
		"fleet-bytes": samples{Ours: []float64{got.Bytes / 1000}, Notes: []string{"requests and answers with headers, without TLS; the content of the packages is small"}},
		"fleet-herd": samples{Ours: []float64{100 * got.PerMinute / fleetMachines}, Notes: []string{
			"all start together, and get their network together"}},
	}
}
