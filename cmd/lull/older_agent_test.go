package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// StartResolve is that of an agent without jobs.
func (f *fakeAgent) StartResolve(bus.Caller, string, bus.ResolveOptions) (dbus.ObjectPath, error) {
	return "", lacks("Manager.StartResolve")
}

func (f *fakeAgent) Resolve(_ bus.Caller, name string, _ bus.ResolveOptions) (dir, lease *os.File, hash, version string, err error) {
	dir, lease, hash, err = f.Open(bus.Caller{}, name)
	return dir, lease, hash, "1.0", err
}

// TestOlderAgent: while lull is upgraded, or after a failed restart, a command may call an
// agent without jobs. It uses the older methods as far as possible, and names the service to
// restart for the rest.
func TestOlderAgent(t *testing.T) {
	f := startAgent(t)
	f.space.set(nil, []bus.Finding{{What: hashOf('d'), Problem: "the content has changed"}})
	f.space.mu.Lock()
	f.space.noJobs = true
	f.space.mu.Unlock()
	t.Setenv("HOME", t.TempDir())
	for _, test := range []struct {
		line string
		code int
		want string
	}{
		{"verify", 1, "the content has changed"},
		{"verify --repair", 0, "repaired"},
		{"gc", 0, "freed 12 MB"},
		{"gc --free 7MB", 0, "freed 7.5 MB"},
		{"system commit", 0, "is committed"},
	} {
		code, out, errs := f.lull(t.Context(), strings.Fields(test.line)...)
		if code != test.code || !strings.Contains(out, test.want) {
			t.Errorf("lull %s: got exit status %d with\n%s%swant %d and %q in the output", test.line, code, out, errs, test.code, test.want)
		}
	}
	file := t.TempDir() + "/x_1.0_all.deb"
	if err := os.WriteFile(file, []byte("!<arch>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, errs := f.lull(t.Context(), "install", file)
	if code != 1 || !strings.Contains(errs, "older than this program") || !strings.Contains(errs, "hint: `systemctl restart lulld`") {
		t.Errorf("install FILE: got exit status %d with\n%swant 1, \"older than this program\" and the hint `systemctl restart lulld`", code, errs)
	}

	a := &app{Printer: output.New(io.Discard, io.Discard), bus: f.address}
	ag, err := a.dialFDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ag.conn.Close()
	dir, lease, hash, err := a.fetchEphemeral(t.Context(), ag, "org.example.notes", "")
	if err != nil || dir == nil || lease == nil || hash != hashOf('c') {
		t.Fatalf("fetchEphemeral: got directory %v, lease %v, hash %s and %v; want both, %s and no error", dir, lease, hash, err, hashOf('c'))
	}
	dir.Close()
	lease.Close()
	if _, _, _, err := a.fetchEphemeral(t.Context(), ag, "org.none", ""); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a package that the agent has not: got %v, want an error of kind %s", err, errkind.NotFound)
	}

	// Interrupted, in the same way as a job.
	for method, line := range map[string]string{"Verify": "verify", "Collect": "gc", "Commit": "system commit"} {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		f.stallAt(method, func() { cancel(); <-release })
		code, _, errs := f.lull(ctx, strings.Fields(line)...)
		f.stallAt("", nil)
		close(release)
		if code == 0 || !strings.Contains(errs, ": interrupted\n") || !strings.Contains(errs, "may have begun with it") {
			t.Errorf("lull %s: got exit status %d with\n%swant a failure with \": interrupted\" and \"may have begun with it\"", line, code, errs)
		}
	}
}
