package manager

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/e2e/require"
)

// deaf ignores all changes.
type deaf struct{}

func (deaf) RefreshChanged(plan.Refresh) {}
func (deaf) PackageChanged(string)       {}
func (deaf) RunsChanged(string)          {}
func (deaf) SpaceChanged()               {}
func (deaf) ConditionsChanged()          {}
func (deaf) TransfersChanged()           {}
func (deaf) SystemChanged()              {}
func (deaf) FailuresChanged()            {}
func (deaf) RepositoriesChanged()        {}
func (deaf) PolicyChanged()              {}
func (deaf) GoingDown(bool)              {}

// TestCannotBegin: a manager that cannot begin returns an error, and releases state.db.
func TestCannotBegin(t *testing.T) {
	require.Unified(t)
	dir, run, conf := t.TempDir(), t.TempDir(), t.TempDir()
	ctl, err := runctl.Create(run)
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := runs.Choose(runs.Options{RunDir: run, Want: "subtree", Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	path := filepath.Join(dir, "data")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := Config{Root: dir, Conf: conf, RunDir: run, Launcher: "/bin/true", Runctl: ctl, Tracker: tracker, Log: slog.Default()}
	if m, err := New(c, deaf{}); m != nil || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, %v; want no manager and an error about %s", m, err, path)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m, err := New(c, deaf{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// newManager opens a manager with a deaf observer; it is not started. conf is its policy.
func newManager(t testing.TB, conf ...string) *Manager {
	t.Helper()
	files := map[string]string{}
	for _, text := range conf {
		files["policy.yaml"] = text
	}
	return newManagerWith(t, files)
}

// newManagerWith makes a manager with the files in its configuration directory.
func newManagerWith(t testing.TB, files map[string]string) *Manager {
	t.Helper()
	require.Unified(t)
	dir, run, etc := t.TempDir(), t.TempDir(), t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctl, err := runctl.Create(run)
	if err != nil {
		t.Fatal(err)
	}
	tracker, err := runs.Choose(runs.Options{RunDir: run, Want: "subtree", Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	m, err := New(Config{Root: dir, Conf: etc, RunDir: run, Launcher: "/bin/true", Runctl: ctl, Tracker: tracker, Log: slog.Default()}, deaf{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// refused returns what was refused when the files were read last.
func (m *Manager) refused() error {
	_, err := m.settings.Refused()
	return err
}
