package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestDemo runs the program of `make demo`, the first that the README has people try.
func TestDemo(t *testing.T) {
	require.NotShort(t)
	require.ReleaseAgent(t)
	require.Program(t, "dbus-daemon", "busctl", "gdbus", "Xvfb", "dunst", "import", "xdotool", "script", "setpriv", "cc")
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", demo, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), demo).CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "\nThat was all, in ") {
		t.Fatalf("%v: %s; want no error and %q in the text", err, text, "\nThat was all, in ")
	}
	_, picture, _ := strings.Cut(strings.TrimSpace(text), "the picture of the notice: ")
	defer os.Remove(picture)
	if st, err := os.Stat(picture); err != nil || st.Size() == 0 {
		t.Errorf("no picture %q: %v", picture, err)
	}
}
