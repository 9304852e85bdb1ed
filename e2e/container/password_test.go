package container_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal whose user the test is.
type terminal struct {
	*os.File
	path string // of the other side, for programs
}

func openTerminal(t *testing.T) terminal {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return terminal{f, fmt.Sprintf("/dev/pts/%d", n)}
}

// echoes reports whether the terminal shows what is typed.
func (tty terminal) echoes(t *testing.T) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

const passwordPrompt = "Password: "

// logIn runs a shell script as a user, in a session of logind's on a terminal of its own, as
// login(1) does. It types an answer whenever the script asks for a password. The script ends
// with the exit status, and a terminal that shows what is typed.
func logIn(t *testing.T, user string, answers []string, line string) (shown string, code int) {
	t.Helper()
	tty := openTerminal(t)
	keep, err := os.OpenFile(tty.path, os.O_RDWR|unix.O_NOCTTY, 0) // without a program the terminal would hang up
	if err != nil {
		t.Fatal(err)
	}
	login := exec.Command("systemd-run", "--quiet", "--wait", "--collect", "--uid="+user, "--property=PAMName=login", "--property=TTYPath="+tty.path,
		"--property=StandardInput=tty", "--property=StandardOutput=tty", "--property=StandardError=tty", "--property=RuntimeMaxSec=2min",
		"--setenv=LANG=C.UTF-8", "--setenv=TERM=dumb", "--setenv=XDG_SESSION_TYPE=tty", "--setenv=XDG_SESSION_CLASS=user", "--working-directory=/", "sh", "-c", line)
	var failed strings.Builder
	login.Stderr = &failed
	if err := login.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = login.Wait() // its status is checked by the caller
		keep.Close()     // the last one: reading ends
	}()
	buf := make([]byte, 4096)
	for asked := 0; ; {
		n, err := tty.Read(buf)
		if err != nil { // EIO: all programs have ended
			break
		}
		shown += string(buf[:n])
		if asked < len(answers) && strings.Count(shown, passwordPrompt) > asked {
			// What is typed before the agent reads it is dropped. No event reports that it reads.
			for over := false; !over && tty.echoes(t); {
				select {
				case <-ended:
					over = true
				case <-time.After(10 * time.Millisecond):
				}
			}
			if _, err := tty.WriteString(answers[asked]); err != nil {
				t.Fatal(err)
			}
			asked++
		}
	}
	<-ended
	if failed.Len() > 0 {
		t.Logf("systemd-run: %s", failed.String())
	}
	if !tty.echoes(t) {
		t.Errorf("%s: the terminal does not show any longer what is typed", line)
	}
	return strings.ReplaceAll(shown, "\r", ""), login.ProcessState.ExitCode()
}

// TestPassword: a user without rights types the administrator's password at a real polkitd,
// through the agent that lull starts on the terminal.
func TestPassword(t *testing.T) {
	here(t)
	installed(t)
	const name, user, password = "org.lull.secret", "lull-typist", "correct horse"
	sh(t, "useradd --create-home --uid=3100 --shell=/bin/sh %s && echo 'root:%s' | chpasswd", user, password)
	dir := t.TempDir()
	sh(t, "mkdir %[1]s/app && printf 'name: %[2]s\\nversion: \"1\"\\nsummary: is tested\\n' > %[1]s/app/lull.yaml && touch %[1]s/app/file", dir, name)
	sh(t, "lull repo init /srv/secret && lull publish --repo /srv/secret %s/app && lull repo add secret /srv/secret", dir)
	for _, c := range []struct {
		what    string
		answers []string
		line    string
		code    int
		want    []string
	}{
		{"no question", nil, "lull --no-ask-password install " + name, 77, []string{"cannot install or remove packages as user lull-typist: it needs a password", "hint: use sudo"}},
		{"the wrong password", []string{"wrong\n"}, "lull install " + name, 77, []string{"Password:", "cannot install or remove packages as user lull-typist"}},
		{"Ctrl-C", []string{"corr\x03"}, "lull install " + name, 1, []string{"Password:", "lull: cannot go on: interrupted at the question for a password"}},
		{"the password", []string{password + "\n"}, "lull install secret", 0, []string{name + " 1 is installed"}}, // a short name
		{"nothing to install", nil, "lull install " + name, 0, []string{name + " is already installed"}},
		{"a removal", []string{password + "\n"}, "lull remove secret", 0, []string{name + " is removed"}},
		{"nothing to remove", nil, "lull remove " + name, 0, []string{name + " is not installed"}},
	} {
		start := time.Now()
		shown, code := logIn(t, user, c.answers, "exec "+c.line)
		t.Logf("%s, %v:\n$ %s\n%s", c.what, time.Since(start).Round(time.Millisecond), c.line, shown)
		if code != c.code {
			t.Errorf("%s: status %d, want %d", c.what, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(strings.Join(strings.Fields(shown), " "), want) { // lines are wrapped
				t.Errorf("%s: without %q", c.what, want)
			}
		}
		if n := strings.Count(shown, passwordPrompt); n != len(c.answers) {
			t.Errorf("%s: the password is asked for %d times, want %d", c.what, n, len(c.answers))
		}
		if strings.Contains(shown, password) || strings.Contains(shown, "corr") && c.answers != nil && strings.HasPrefix(c.answers[0], "corr\x03") {
			t.Errorf("%s: the typed password is on the terminal, want no word of it: %q", c.what, shown)
		}
	}
}
