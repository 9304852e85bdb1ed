// Package model has only the Promela model of the launch and inhibit protocol. Its test runs
// spin on the model; mutants of the model fail.
package model

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// check checks one property ("" for assertions and deadlocks) and returns spin's count of
// errors.
func check(t *testing.T, model, property string, defines ...string) (errors, states string) {
	t.Helper()
	require.NotShort(t) // the race detector sees nothing of spin
	require.Program(t, "spin")
	require.Program(t, "cc")
	source, err := filepath.Abs(model)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil && name != "./pan" {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	var flags []string
	for _, d := range defines {
		flags = append(flags, "-D"+d)
	}
	run("spin", append(flags, "-a", source)...)
	cc := []string{"-O2", "-w", "-DMEMLIM=2048", "-DVECTORSZ=2048", "-o", "pan", "pan.c"}
	pan := []string{"-m200000", "-n"}
	if property == "" {
		run("cc", append(cc, "-DSAFETY", "-DNOCLAIM")...)
	} else {
		run("cc", append(cc, "-DNFAIR=4")...)
		pan = append(pan, "-a", "-f", "-N", property)
	}
	out := run("./pan", pan...)
	m := regexp.MustCompile(`errors: (\d+)`).FindStringSubmatch(out)
	if m == nil || strings.Contains(out, "max search depth too small") || strings.Contains(out, "out of memory") {
		t.Fatalf("spin did not finish:\n%s", out)
	}
	if s := regexp.MustCompile(`(\d+) states, stored`).FindStringSubmatch(out); s != nil {
		states = s[1]
	}
	return m[1], states
}

func TestProtocol(t *testing.T) {
	for _, defines := range [][]string{{"LAUNCHERS=2"}, {"LAUNCHERS=2", "BLOCK"}, {"LAUNCHERS=3", "CRASHES=2"}} {
		for _, property := range []string{"", "quiet", "ends"} {
			if property == "ends" && defines[0] == "LAUNCHERS=3" {
				continue // the same as with two, at a hundred times the states
			}
			t.Run(fmt.Sprintf("%s %s", strings.Join(defines, " "), property), func(t *testing.T) {
				errors, states := check(t, "protocol.pml", property, defines...)
				if errors != "0" {
					t.Errorf("%s errors, want 0", errors)
				}
				t.Logf("%s states", states)
			})
		}
	}
}

// TestMutantsFail shows that the model can fail: each mutant drops one rule of the protocol.
func TestMutantsFail(t *testing.T) {
	for mutant, property := range map[string]string{
		"CHECK_OUTSIDE":       "",
		"JOIN_AFTER_UNLOCK":   "",
		"WATCH_AFTER_LOOK":    "ends",
		"DEAF_TO_CLOSE":       "ends",
		"SILENT_AFTER_MARKER": "ends",
	} {
		t.Run(mutant, func(t *testing.T) {
			if errors, _ := check(t, "protocol.pml", property, "LAUNCHERS=2", mutant); errors == "0" {
				t.Error("the mutant passed")
			}
		})
	}
}

// TestVacancy checks the conditions of vacancy: tether, leases, and their order.
func TestVacancy(t *testing.T) {
	for _, defines := range [][]string{{"LAUNCHERS=1"}, {"LAUNCHERS=2"}} {
		for _, property := range []string{"", "ends"} {
			if property == "ends" && defines[0] == "LAUNCHERS=2" {
				continue // the same as with one, at thirty times the states
			}
			t.Run(strings.Join(append(defines, property), " "), func(t *testing.T) {
				errors, states := check(t, "vacancy.pml", property, defines...)
				if errors != "0" {
					t.Errorf("%s errors, want 0", errors)
				}
				t.Logf("%s states", states)
			})
		}
	}
}

func TestMutantsOfVacancyFail(t *testing.T) {
	for mutant, property := range map[string]string{
		"CGROUP_ONLY":         "",
		"SCAN_ONLY":           "",
		"TETHER_AFTER_UNLOCK": "",
		"RELEASE_BEFORE_LINK": "",
		"NO_RECHECK":          "",
		"LOOK_ONCE":           "ends",
		"HOLD_OVER_START":     "",
		"HOLD_OVER_HOOK":      "",
	} {
		t.Run(mutant, func(t *testing.T) {
			if errors, _ := check(t, "vacancy.pml", property, "LAUNCHERS=1", mutant); errors == "0" {
				t.Error("the mutant passed")
			}
		})
	}
}
