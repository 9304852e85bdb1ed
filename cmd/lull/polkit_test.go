package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lull/lull/cmd/lull/output"
)

// terminal opens a pseudo terminal: the user's end, and the program's.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// TestAsksPassword: a user on a terminal is asked if a call may need a password, and in no
// other case.
func TestAsksPassword(t *testing.T) {
	_, tty := terminal(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, test := range []struct {
		line string
		in   *os.File
		euid int
		want bool
	}{
		{"install x", tty, 1000, true}, {"install x", tty, 0, false}, {"install x", null, 1000, false}, {"--user install x", tty, 1000, false},
		{"--no-ask-password install x", tty, 1000, false}, {"list", tty, 1000, false}, {"status", tty, 1000, false}, {"refresh", tty, 1000, true},
		{"refresh --list", tty, 1000, false}, {"gc --dry-run", tty, 1000, false}, {"gc", tty, 1000, true}, {"run x", tty, 1000, false},
		{"run --ephemeral x", tty, 1000, true}, {"search x", tty, 1000, false}, {"search --check x", tty, 1000, true}, {"repo add x y", tty, 1000, true}, {"repo list", tty, 1000, false},
	} {
		a := &app{Printer: &output.Printer{}, stdin: test.in}
		cmd, words, err := a.command().Find(strings.Fields(test.line))
		if err == nil {
			err = cmd.ParseFlags(words)
		}
		if err != nil {
			t.Fatal(test.line, err)
		}
		if got := a.asksPassword(cmd, test.euid); got != test.want {
			t.Errorf("lull %s as %d: %v, want %v", test.line, test.euid, got, test.want)
		}
	}
	for _, name := range passwordVerbs {
		if cmd, _, err := (&app{Printer: &output.Printer{}}).command().Find(strings.Fields(name)[1:]); err != nil || cmd.CommandPath() != name {
			t.Errorf("got %q (%v), want the command %s", cmd.CommandPath(), err, name)
		}
	}
}

// TestPasswordAgent: the agent is ready before the call, gets its arguments and the address
// of the bus, and has ended afterwards, with the terminal's echo on. Without an agent the
// command continues.
func TestPasswordAgent(t *testing.T) {
	_, tty := terminal(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	a := &app{Printer: &output.Printer{}, bus: "unix:path=/x"}
	a.startPasswordAgent(tty)() // it is not installed
	script := "#!/bin/sh\necho \"$@ $DBUS_SYSTEM_BUS_ADDRESS\" >" + dir + "/args\n/bin/stty -echo\n" +
		"trap 'echo ended >" + dir + "/end; exit' TERM\nexec 3>&-\nwhile :; do /bin/sleep 0.01; done\n"
	if err := os.WriteFile(filepath.Join(dir, "pkttyagent"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	echo := func() bool {
		s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return s.Lflag&unix.ECHO != 0
	}
	stop := a.startPasswordAgent(tty)
	args, err := os.ReadFile(dir + "/args")
	if err != nil || string(args) != "--notify-fd 3 --fallback unix:path=/x\n" || echo() {
		t.Errorf("while the password agent runs: got arguments %q (%v) and echo %v, want \"--notify-fd 3 --fallback unix:path=/x\\n\" and echo false", args, err, echo())
	}
	stop()
	if end, err := os.ReadFile(dir + "/end"); err != nil || string(end) != "ended\n" || !echo() {
		t.Errorf("after the password agent was stopped: got end %q (%v) and echo %v, want \"ended\\n\" and echo true", end, err, echo())
	}
	if err := os.WriteFile(filepath.Join(dir, "pkttyagent"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	a.startPasswordAgent(tty)()
	if !term.IsTerminal(int(tty.Fd())) {
		t.Error("the terminal is gone")
	}
}
