package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bus "github.com/lull/lull/dbus"
)

// TestInterruptedVerbs: a command that is interrupted while the agent works for it reports
// that the agent continues. One that only reads reports that it was interrupted. None shows a
// library's error text.
func TestInterruptedVerbs(t *testing.T) {
	f := startAgent(t)
	f.add(t, notes())
	if _, err := f.begin("3", bus.RefreshProperties{Kind: "remove", Instance: "org.example.notes", State: "waiting", Step: "wait"}); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir())
	const (
		goesOn  = "the agent goes on with it"
		mayHave = "the agent may have begun with it already" // a job; its behaviour after the beginning is tested in e2e
	)
	for _, test := range []struct{ method, line, text, hint string }{
		{"Install", "install org.new", "the installation of org.new", "it continues in the background"},
		{"Remove", "remove notes", "the removal of org.example.notes", "it continues in the background"},
		{"Refresh", "refresh notes", "the refresh of org.example.notes", "it continues in the background"},
		{"Revert", "revert notes", "the revert of org.example.notes", "it continues in the background"},
		{"Cancel", "refresh --cancel notes", "the end of the removal of org.example.notes", goesOn},
		{"Hold", "hold notes", "the hold of org.example.notes", goesOn},
		{"Hold", "hold --all 3d", "the hold", goesOn},
		{"Unhold", "unhold notes", "the end of the hold", goesOn},
		{"Switch", "switch --channel edge notes", "the switch of org.example.notes", goesOn},
		{"AddRepository", "repo add x /x --trust " + root, "the agent", goesOn},
		{"RemoveRepository", "repo remove x", "the agent", goesOn},
		{"SetRepositoryURL", "repo set-url x /y", "the agent", goesOn},
		{"Reload", "policy reload", "the new policy", goesOn},
		{"Collect", "gc", "cannot collect", mayHave},
		{"Verify", "verify", "cannot verify the store", mayHave},
		{"Stage", "system stage x", "the system update", goesOn},
		{"Commit", "system commit", "cannot commit the system", mayHave},
		{"Rollback", "system rollback", "the rollback", goesOn},
		{"Plan", "du", "the agent any longer", ""},
		{"Pending", "pending", "the agent any longer", ""},
		{"History", "history", "the agent any longer", ""},
		{"Why", "why notes", "the agent any longer", ""},
		{"Doctor", "doctor", "the agent any longer", ""},
		{"Inspect", "inspect", "the agent any longer", ""},
		{"ListAvailable", "search", "the agent any longer", ""},
	} {
		t.Run(strings.Fields(test.line)[0]+"/"+test.method, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			release := make(chan struct{})
			f.stallAt(test.method, func() {
				cancel()
				<-release
			})
			code, _, errs := f.lull(ctx, strings.Fields(test.line)...)
			f.stallAt("", nil)
			close(release)
			if code == 0 || strings.Contains(errs, "context canceled") || !strings.Contains(errs, "interrupted") {
				t.Errorf("got exit status %d with\n%swant a failure that is called \"interrupted\" and not \"context canceled\"", code, errs)
			}
			if !strings.HasPrefix(test.text, "cannot ") {
				test.text = "cannot wait for " + test.text
			}
			if !strings.Contains(errs, "lull: "+test.text+": interrupted\n") {
				t.Errorf("want %q:\n%s", test.text, errs)
			}
			if said := strings.Contains(errs, "goes on"); said && test.hint == "" || !strings.Contains(errs, test.hint) {
				t.Errorf("want %q:\n%s", test.hint, errs)
			}
		})
	}
}
