// Package model has the launch and inhibit protocol as a Promela model and
// nothing else; its test has spin check it, and its mutants fail.
package model

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/need"
)

// check runs one property ("" for assertions and deadlocks) and returns spin's
// count of errors.
func check(t *testing.T, property string, defines ...string) (errors, states string) {
	t.Helper()
	need.Program(t, "spin")
	need.Program(t, "cc")
	source, err := filepath.Abs("protocol.pml")
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
				errors, states := check(t, property, defines...)
				if errors != "0" {
					t.Errorf("%s errors", errors)
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
			if errors, _ := check(t, property, "LAUNCHERS=2", mutant); errors == "0" {
				t.Error("the mutant passed")
			}
		})
	}
}
