package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
)

// TestMain makes this program the command lull in scripts.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "lull" { // the tests expect English; a script chooses the language of its commands
		os.Setenv("LC_ALL", "C.UTF-8")
	}
	testscript.Main(m, map[string]func(){"lull": func() {
		ctx, stop := untilSignal()
		defer stop()
		leave(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}})
}

// status runs a command and checks its exit status: status N COMMAND….
func status(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = err.Error()
	}
	if want := args[0]; got != want && got != "exit status "+want {
		ts.Fatalf("want status %s, got %s", want, got)
	}
}

func params(t *testing.T, dir string, setup func(*testscript.Env) error) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status},
		Setup: func(e *testscript.Env) error {
			e.Setenv("NO_COLOR", "1")
			e.Setenv("COLUMNS", "")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LULL_BUS", "unix:path="+e.WorkDir+"/no-bus")
			return setup(e)
		},
	}
}

// Verbs that need no agent. Every user can start the converter.
func TestScriptsOffline(t *testing.T) {
	bin, err := os.MkdirTemp("", "lull-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", bin, "../lull-convert", "../lull-run").CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	t.Run("all", func(t *testing.T) { // the scripts run in parallel, until the group ends
		testscript.Run(t, params(t, "testdata/offline", func(e *testscript.Env) error {
			e.Setenv("LULL_LAUNCHER", filepath.Join(bin, "lull-run"))
			return nil
		}))
	})
}

// Verbs that call an agent: each script has one of its own, whose state it changes.
func TestScriptsAgent(t *testing.T) {
	require.NotShort(t) // hundreds of commands, each in a process of its own
	scripts, err := filepath.Glob("testdata/agent/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("got scripts %q (%v), want some and no error", scripts, err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) { runWithAgent(t, script) })
	}
}

func runWithAgent(t *testing.T, script string) {
	f := startAgent(t)
	f.add(t, notes())
	busy := notes()
	busy.Instance, busy.Name, busy.Running, busy.Version = "org.example.busy", "org.example.busy", true, "2.0\x1b[31m"
	busy.Processes = []bus.Process{{PID: 123, UID: 64999, Command: "no\ntes"}}
	f.add(t, busy)
	f.space.set([]bus.PackageUsage{
		{Hash: hashOf('a'), Name: "org.example.notes", Version: "1.0", Exclusive: 40_000_000, Shared: 2_000_000, KeptBy: "installed"},
		{Hash: hashOf('b'), Name: "org.example.old", Version: "0.1", Exclusive: 10_000_000},
	}, []bus.Finding{{What: hashOf('d'), Problem: "the content has changed"}})
	// Inside a group, so that the bus remains until the parallel script is done.
	t.Run("all", func(t *testing.T) {
		p := params(t, "", func(e *testscript.Env) error {
			e.Setenv("LULL_BUS", f.address)
			return nil
		})
		p.Files = []string{script}
		testscript.Run(t, p)
	})
}
