package rig_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.MainWithReleaseAgent(m.Run) }

// noBinaries lets a world be made without building lull.
func noBinaries(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "none"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LULL_BIN", dir)
}

// TestRealPeers checks what stories take for granted: that logind, journald
// and the notification server are real and leave nothing behind.
func TestRealPeers(t *testing.T) {
	require.Root(t)
	require.Program(t, "dbus-daemon", "unshare", "nsenter", "setpriv", "systemd-logind", "systemd-journald", "systemd-inhibit",
		"journalctl", "Xvfb", "dunst", "dunstctl", "notify-send", "import", "xdotool")
	noBinaries(t)
	picture := filepath.Join(t.TempDir(), "shot.png")
	var dir string
	before := runEntries(t)
	t.Run("world", func(t *testing.T) {
		w := rig.New(t, rig.Options{Logind: true})
		dir = w.Dir
		lock := w.Admin.Start("systemd-inhibit", "--what=shutdown:sleep", "--who=lull test", "--why=to see it", "--mode=delay", "sleep", "infinity")
		for !strings.Contains(w.Inhibitors(), "lull test") {
			if lock.Ended() {
				t.Fatal(lock.Log())
			}
		}
		lock.Stop()

		logger := w.User.StartWith(func(c *exec.Cmd) { c.Stdin = strings.NewReader("MESSAGE=a line of mine\nLULL_TEST=1\n") }, "logger", "--journald")
		if code, err := logger.Wait(t.Context(), 5*time.Second); code != 0 || err != nil {
			t.Fatal(code, err, logger.Log())
		}
		deadline := time.Now().Add(5 * time.Second)
		for w.Journal("LULL_TEST=1") != "a line of mine\n" {
			if time.Now().After(deadline) {
				t.Fatalf("the journal has %q", w.Journal())
			}
		}

		d := w.StartDesktop()
		poster := w.User.Start("notify-send", "--app-name=lull", "--action=go=Go on", "A title", "A text")
		w.Until("the notice is shown", 10*time.Second, func() (bool, string) { return d.Displayed() == 1, d.String() })
		live := d.Live()
		if len(live) != 1 || live[0].Summary != "A title" || live[0].Body != "A text" || strings.Join(live[0].Labels(), ",") != "Go on" {
			t.Fatalf("seen on the bus: %s", d)
		}
		d.Screenshot(picture)
		d.CloseAll()
		w.Until("the notice is gone", 10*time.Second, func() (bool, string) { return len(d.Live()) == 0 && d.Displayed() == 0, d.String() })
		if code, err := poster.Wait(t.Context(), 5*time.Second); code != 0 || err != nil {
			t.Error(code, err, poster.Log())
		}
	})
	if st, err := os.Stat(picture); err != nil || st.Size() < 1000 {
		t.Errorf("no screenshot: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was left behind", dir)
	}
	if after := runEntries(t); after != before {
		t.Errorf("/run has changed:\n%s\nwas:\n%s", after, before)
	}
	if out, _ := exec.Command("pgrep", "-f", dir).Output(); len(out) > 0 {
		t.Errorf("processes were left behind: %s", out)
	}
}

// TestKilledRig kills the process of a rig and checks that nothing of its world
// is left a moment later.
func TestKilledRig(t *testing.T) {
	require.Program(t, "dbus-daemon", "pgrep")
	noBinaries(t)
	if os.Getenv("LULL_TEST_HANG") != "" {
		w := rig.New(t, rig.Options{})
		w.Admin.Start("sh", "-c", "setsid sleep 1000 & wait") // one that has left its group
		os.Stdout.WriteString(w.Dir + "\n")
		select {}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKilledRig$")
	cmd.Env = append(os.Environ(), "LULL_TEST_HANG=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || !filepath.IsAbs(dir) {
		t.Fatalf("%q %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, gone := os.Stat(dir)
		left, _ := exec.Command("pgrep", "-f", dir).Output()
		if gone != nil && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v %s", gone == nil, left)
		}
	}
}

func runEntries(t *testing.T) string {
	var b strings.Builder
	for _, dir := range []string{"/run", "/run/systemd", "/run/log"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			b.WriteString(filepath.Join(dir, e.Name()) + "\n")
		}
	}
	return b.String()
}

func TestRunOutsideATest(t *testing.T) {
	var order []string
	err := rig.Run(t.Context(), t.Output(), func(tb rig.TB) {
		tb.Cleanup(func() { order = append(order, "first") })
		tb.Cleanup(func() {
			order = append(order, "second")
			tb.Fatalf("again")
		})
		tb.Fatalf("cannot go on: %d", 1)
	})
	if err == nil || err.Error() != "cannot go on: 1" || strings.Join(order, " ") != "second first" {
		t.Errorf("error %v, cleanups %q", err, order)
	}
}
