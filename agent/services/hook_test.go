package services_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

// TestHooks is about services.Manager.Run without systemd.
func TestHooks(t *testing.T) {
	require.Unified(t)
	require.NotShort(t) // it builds the programs
	bin := rig.Binaries(t, "")
	tracker, err := runs.Choose(runs.Options{RunDir: t.TempDir(), Want: "subtree", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	hooks(t, services.NewDirect(services.Launcher{Path: filepath.Join(bin, "lull-run"), Tracks: tracker}, false, func(string) {}, slog.Default()))
}

// TestHooksOfSystemd is about services.Manager.Run in scopes of systemd's.
func TestHooksOfSystemd(t *testing.T) {
	if os.Getenv("LULL_IN_CONTAINER") == "" {
		t.Skip("e2e/container runs it where systemd is PID 1")
	}
	require.Systemd(t)
	m := services.NewSystemd(services.Launcher{Path: filepath.Join(rig.Binaries(t, ""), "lull-run")}, false)
	defer m.Close()
	hooks(t, m)
}

func hooks(t *testing.T, m services.Manager) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	hook := func(user, script string) services.Hook {
		return services.Hook{Instance: "lull.test-hooks", Name: "health", Package: digest.Of([]byte("x")), User: user,
			Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "DIR=" + dir}}
	}
	for _, c := range []struct{ name, user, script, output, fails string }{
		{"passes", "", "echo fine; pwd", "fine\n/", ""},
		{"fails", "", "echo it hurts >&2; exit 3", "it hurts", "exit status 3"},
		{"has a user", "nobody", "id -un; touch \"$DIR/by-nobody\"", "nobody", ""},
		{"has no such user", "nobody-at-all", "true", "", `cannot run a service as user "nobody-at-all"`},
		{"says much", "", "seq 1 9999; echo end", "9998\n9999\nend", ""},
		{"does not see its gate", "", "test -e /proc/$$/fd/3 && echo open || echo closed", "closed", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := m.Run(t.Context(), hook(c.user, c.script))
			if !strings.HasSuffix(out, c.output) || len(out) > 4<<10 || (c.fails == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got output %q and %v, want at most 4 KiB that end with %q, and an error with %q (empty: none)", out, err, c.output, c.fails)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		pids := filepath.Join(dir, "hanging")
		ctx, cancel := context.WithCancelCause(t.Context())
		late := errors.New("it takes too long")
		go func() {
			await(t, pids)
			cancel(late)
		}()
		// One that ignores signals, and a child that has moved into a session of its own.
		_, err := m.Run(ctx, hook("", "trap '' TERM; setsid sleep 1000 & echo $$ $! > \"$DIR/.hanging\"; mv \"$DIR/.hanging\" \"$DIR/hanging\"; while :; do sleep 1; done"))
		if !errors.Is(err, late) {
			t.Errorf("got %v, want the error %v", err, late)
		}
		gone(t, pids)
	})
	t.Run("leaves something behind", func(t *testing.T) {
		out, err := m.Run(t.Context(), hook("", "setsid sleep 1000 >/dev/null 2>&1 & echo $! > \"$DIR/left\"; echo done"))
		if err != nil || out != "done" {
			t.Errorf("got %q %v, want no error and output %q", out, err, "done")
		}
		gone(t, filepath.Join(dir, "left"))
	})
	// systemd unloads what has stopped a moment later, and has no unit of its name before.
	t.Run("one right after the other", func(t *testing.T) {
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%2 == 1 {
				time.AfterFunc(time.Duration(i)*2*time.Millisecond, cancel) // at another moment each time
			}
			out, err := m.Run(ctx, hook("", "echo here; exit 3"))
			if err == nil || !strings.Contains(err.Error(), "exit status 3") && !errors.Is(err, context.Canceled) {
				t.Fatalf("run %d: got output %q and %v, want exit status 3 or the cancellation", i, out, err)
			}
		}
	})
	t.Run("cancelled before it begins", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Run(ctx, hook("", "sleep 1000")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the error %v", err, context.Canceled)
		}
	})
}

// await returns when a file is there.
func await(t *testing.T, path string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Errorf("%s does not appear", path)
}

// gone checks that the processes whose numbers a file has are no more.
func gone(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		t.Fatalf("got %q (%v) in %s, want process IDs", b, err, path)
	}
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		// A process without files is in its exit: it has left its cgroup and
		// runs no program any more.
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && !strings.Contains(string(status), "State:\tZ") && !strings.Contains(string(status), "FDSize:\t0\n") {
			t.Errorf("got process %d alive, want it ended:\n%s", pid, status)
		}
	}
}
