package restart

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/userd/notify"
)

// desk is an X display with a window manager.
type desk struct {
	t         *testing.T
	env       []string
	server    *exec.Cmd
	authority string // the server's cookie; "" if it has none
	program   *exec.Cmd
}

func newDesk(t *testing.T, address string) *desk {
	t.Helper()
	require.Program(t, "Xvfb", "openbox", "xdotool", "mousepad")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "800x600x24", "-nolisten", "tcp")
	x.ExtraFiles = []*os.File{w}
	d := &desk{t: t, server: x}
	d.start(x)
	w.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	d.env = append(os.Environ(), "DISPLAY=:"+strings.TrimSpace(number), "HOME="+t.TempDir(), "XDG_SESSION_TYPE=x11", "WAYLAND_DISPLAY=",
		"DBUS_SESSION_BUS_ADDRESS="+address, "GSETTINGS_BACKEND=memory", "NO_AT_BRIDGE=1", "XDG_RUNTIME_DIR="+t.TempDir())
	d.start(exec.Command("openbox", "--sm-disable"))
	return d
}

func (d *desk) start(cmd *exec.Cmd) {
	d.t.Helper()
	cmd.Env = d.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// stopServer keeps the X server from answering while do runs.
func (d *desk) stopServer(do func()) {
	d.t.Helper()
	for _, sig := range []os.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := d.server.Process.Signal(sig); err != nil {
			d.t.Fatal(err)
		}
		if sig == syscall.SIGSTOP {
			do()
		}
	}
}

func (d *desk) xdotool(args ...string) string {
	cmd := exec.Command("xdotool", args...)
	cmd.Env = d.env
	out, _ := cmd.Output() // it fails where there is no such window
	return strings.TrimSpace(string(out))
}

// titles are those of all windows that are seen.
func (d *desk) titles() []string {
	var list []string
	for _, w := range strings.Fields(d.xdotool("search", "--onlyvisible", "--name", ".")) {
		list = append(list, d.xdotool("getwindowname", w))
	}
	return list
}

func (d *desk) until(what string, cond func(titles string) bool) {
	d.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		titles := strings.Join(d.titles(), "|")
		if cond(titles) {
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("waited in vain until %s: %q", what, titles)
		}
	}
}

// A real editor with unsaved text is asked by its action on the bus, which it answers
// when its user has, or by its window. Its dialog and its text stay.
func TestEditorWithUnsavedText(t *testing.T) {
	for _, c := range []struct {
		how  string
		args []string
	}{{byBus, nil}, {byWindows, []string{"--disable-server"}}} {
		t.Run(c.how, func(t *testing.T) {
			address := bustest.Start(t)
			d := newDesk(t, address)
			editor, err := exec.LookPath("mousepad")
			if err != nil {
				t.Fatal(err)
			}
			_, file := newTree(t, "mousepad", read(t, editor))
			cmd := tethered(t, "lulltest", file, d.env, c.args...)
			d.until("the editor is open", func(s string) bool { return strings.Contains(s, "Mousepad") })
			d.until("it has text", func(s string) bool {
				if !strings.Contains(s, "*") {
					d.xdotool("search", "--onlyvisible", "--name", "Mousepad", "windowactivate", "--sync", "type", "precious")
				}
				return strings.Contains(s, "*")
			})
			conn, err := dbus.Connect(address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			a := newAgain(t)
			patience := time.Minute
			if c.how == byBus {
				patience = 5 * time.Second // the call lasts until the user has answered
			}
			quit := func() string {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				p := pending("lulltest", cmd.Process.Pid)
				p.DesktopEntry, p.DBusName = "org.xfce.mousepad.desktop", "org.xfce.mousepad"
				p.Processes = append(p.Processes, notify.Process{})
				a.Quit(ctx, conn, p)
				return a.runs["lulltest"].how
			}
			if c.how == byWindows { // a server that does not answer is no reason for a signal
				d.stopServer(func() {
					patience = time.Second
					defer func() { patience = time.Minute }()
					if how := quit(); how != c.how {
						t.Errorf("while the X server hangs, it was asked by %s, want %v", how, c.how)
					}
				})
			}
			if how := quit(); how != c.how {
				t.Errorf("it was asked by %s, want %v", how, c.how)
			}
			d.until("it asks whether to save", func(s string) bool { return strings.Contains(s, "Save Changes") })
			if how := quit(); how != c.how {
				t.Errorf("it was asked again by %s, want %v", how, c.how)
			}
			if !alive(a.runs["lulltest"].pidfds[0]) {
				t.Fatal("it has ended, and the text with it")
			}
			d.xdotool("search", "--onlyvisible", "--name", "Save Changes", "windowactivate", "--sync", "key", "Escape")
			d.until("the text is still there", func(s string) bool { return strings.Contains(s, "*") && strings.Contains(s, "Mousepad") })
		})
	}
}
