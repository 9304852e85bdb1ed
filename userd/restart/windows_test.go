package restart

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
)

// xauthority writes the file that the X server and its clients share.
func (d *desk) xauthority(cookie string) {
	d.t.Helper()
	b := []byte{0xff, 0xff} // any address
	for _, part := range []string{"", "", "MIT-MAGIC-COOKIE-1", cookie} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	if err := os.WriteFile(d.authority, b, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// newScreen starts an X server with a cookie, and nothing else: no window manager, and no
// variable of this process leads to it.
func newScreen(t *testing.T, forwarded bool) *desk {
	t.Helper()
	require.Program(t, "Xvfb", "xmessage", "xprop")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := &desk{t: t, env: os.Environ(), authority: filepath.Join(t.TempDir(), "authority")}
	d.xauthority("0123456789abcdef")
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset", "-auth", d.authority) // it would forget all when xprop is its only client and leaves
	x.ExtraFiles = []*os.File{w}
	d.server = x
	d.start(x)
	w.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	display := ":" + strings.TrimSpace(number)
	if forwarded {
		display = forward(t, "/tmp/.X11-unix/X"+display[1:])
	}
	d.env = append(d.env, "DISPLAY="+display, "XAUTHORITY="+d.authority, "XDG_SESSION_TYPE=x11", "WAYLAND_DISPLAY=")
	return d
}

// forward makes a display of a socket, as ssh(1) does, and returns its name.
func forward(t *testing.T, socket string) string {
	t.Helper()
	var l net.Listener
	var err error
	n := 10
	for ; n < 1000; n++ {
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 6000+n)); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", socket)
			if err != nil {
				from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				wg.Go(func() {
					io.Copy(pair[0], pair[1]) // until one of them ends
					from.Close()
					to.Close()
				})
			}
		}
	})
	t.Cleanup(func() { // after the X server has ended, and the connections with it
		l.Close()
		wg.Wait()
	})
	return "localhost:" + strconv.Itoa(n)
}

// xprop reads or changes a property of the window that is named xmessage.
func (d *desk) xprop(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("xprop", append([]string{"-name", "xmessage"}, args...)...)
	cmd.Env = d.env
	out, _ := cmd.CombinedOutput() // it fails where there is no such window
	return string(out)
}

// quit asks the program to quit, and returns how.
func (d *desk) quit() string {
	d.t.Helper()
	a := newAgain(d.t)
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	a.Quit(ctx, connect(d.t), pending("lulltest", d.program.Process.Pid))
	return a.runs["lulltest"].how
}

// TestWindowsOfOtherPrograms asks a program that does not name its process in its window,
// on a display without a window manager and with a cookie that only the program has. It is
// asked by its window, and no signal is sent where a dialog is open or the server refuses.
func TestWindowsOfOtherPrograms(t *testing.T) {
	program, err := exec.LookPath("xmessage")
	if err != nil {
		require.Program(t, "xmessage")
	}
	for _, c := range []struct {
		name      string
		forwarded bool
		change    func(d *desk)
		how       string
		stays     bool
	}{
		{"no window manager, no number of a process", false, func(d *desk) {}, byWindows, false},
		{"a dialog alone", false, func(d *desk) { d.xprop("-f", "WM_TRANSIENT_FOR", "32c", "-set", "WM_TRANSIENT_FOR", "1") }, byWindows, true},
		{"takes part in nothing", false, func(d *desk) { d.xprop("-remove", "WM_PROTOCOLS") }, bySignal, false},
		{"the display of another machine, as by ssh", true, func(d *desk) {
			if how := d.quit(); how != byWindows {
				d.t.Errorf("while its window names no process, it was asked by %s, want %s", how, byWindows)
			}
			d.xprop("-f", "WM_CLIENT_MACHINE", "8s", "-set", "WM_CLIENT_MACHINE", "elsewhere.lull-test")
			d.xprop("-f", "_NET_WM_PID", "32c", "-set", "_NET_WM_PID", strconv.Itoa(d.program.Process.Pid)) // the same number there
		}, bySignal, false},
		{"the server refuses", false, func(d *desk) { d.xauthority("fedcba9876543210") }, byWindows, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newScreen(t, c.forwarded)
			_, file := newTree(t, "xmessage", read(t, program))
			cmd := tethered(t, "lulltest", file, d.env, "unsaved")
			for end := time.Now().Add(20 * time.Second); !strings.Contains(d.xprop("WM_PROTOCOLS"), "WM_DELETE_WINDOW"); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("waited in vain for the window; there is %s", d.xprop())
				}
			}
			if got := d.xprop("_NET_WM_PID"); strings.Contains(got, " = ") {
				t.Fatalf("the window names a process: %s, want none", got)
			}
			d.program = cmd
			c.change(d)
			how := d.quit()
			if how != c.how {
				t.Fatalf("it was asked by %s, want %s; its window has %s", how, c.how, d.xprop())
			}
			if c.stays {
				if there, _ := Look("lulltest", uint32(cmd.Process.Pid)); !there {
					t.Error("it has ended, want that it is left alone")
				}
				return
			}
			err := cmd.Wait()
			if signalled := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM; signalled != (c.how == bySignal) {
				t.Errorf("it has ended with %v, want an end by SIGTERM: %v", err, c.how == bySignal)
			}
		})
	}
}
