package fullscreen

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"go.uber.org/goleak"

	"github.com/lull/lull/e2e/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// display starts an X server and a window manager.
func display(t *testing.T) (name string, stop func()) {
	t.Helper()
	require.Program(t, "Xvfb", "openbox")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "640x400x24", "-nolisten", "tcp")
	x.ExtraFiles = []*os.File{w}
	stop = start(t, x)
	w.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	name = ":" + strings.TrimSpace(number)
	wm := exec.Command("openbox", "--sm-disable")
	wm.Env = append(os.Environ(), "DISPLAY="+name, "HOME="+t.TempDir())
	start(t, wm)
	return name, stop
}

// client is a program with windows.
type client struct {
	t    *testing.T
	conn *xgb.Conn
	root xproto.Window
}

func connect(t *testing.T, name string) *client {
	t.Helper()
	quiet()
	conn, err := xgb.NewConnDisplay(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return &client{t, conn, xproto.Setup(conn).DefaultScreen(conn).Root}
}

func (c *client) atom(name string) xproto.Atom {
	r, err := xproto.InternAtom(c.conn, false, uint16(len(name)), name).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Atom
}

// window makes one, and waits until it is in the window manager's list.
func (c *client) window() xproto.Window {
	c.t.Helper()
	s := &screen{conn: c.conn, root: c.root, atoms: map[string]xproto.Atom{"list": c.atom("_NET_CLIENT_LIST")}}
	if err := s.listen(c.root); err != nil {
		c.t.Fatal(err)
	}
	id, err := xproto.NewWindowId(c.conn)
	if err == nil {
		err = xproto.CreateWindowChecked(c.conn, xproto.WindowClassCopyFromParent, id, c.root, 0, 0, 100, 100, 0,
			xproto.WindowClassInputOutput, xproto.WindowClassCopyFromParent, 0, nil).Check()
	}
	if err == nil {
		err = xproto.MapWindowChecked(c.conn, id).Check()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	for !slices.Contains(s.property(c.root, "list"), uint32(id)) {
		if ev, err := c.conn.WaitForEvent(); ev == nil && err == nil {
			c.t.Fatal("the X server has ended")
		}
	}
	return id
}

// ask sends the window manager a message about a window.
func (c *client) ask(w xproto.Window, what string, data ...uint32) {
	c.t.Helper()
	ev := xproto.ClientMessageEvent{Format: 32, Window: w, Type: c.atom(what), Data: xproto.ClientMessageDataUnionData32New(append(data, 0, 0, 0, 0)[:5])}
	if err := xproto.SendEventChecked(c.conn, false, c.root, xproto.EventMaskSubstructureNotify|xproto.EventMaskSubstructureRedirect, string(ev.Bytes())).Check(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) full(w xproto.Window, yes uint32) {
	c.ask(w, "_NET_WM_STATE", yes, uint32(c.atom("_NET_WM_STATE_FULLSCREEN")))
}

func TestFullscreen(t *testing.T) {
	name, stop := display(t)
	told, ended := make(chan bool, 16), make(chan error, 1)
	go func() { ended <- Watch(context.Background(), name, func(yes bool) { told <- yes }) }()
	expect := func(what string, want bool) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing is told", what)
		}
	}
	expect("an empty screen", false)
	c := connect(t, name)
	film := c.window()
	c.full(film, 1)
	expect("a film", true)
	c.full(film, 0)
	expect("in a window", false)
	c.full(film, 1)
	expect("and again", true)
	mail := c.window() // which gets the focus
	c.ask(mail, "_NET_ACTIVE_WINDOW", 2)
	expect("another window in front", false)
	c.ask(film, "_NET_ACTIVE_WINDOW", 2)
	expect("the film once more", true)
	if err := xproto.DestroyWindowChecked(c.conn, film).Check(); err != nil {
		t.Fatal(err)
	}
	expect("it is over", false)

	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrLost) {
			t.Errorf("got %v, want the error %v", err, ErrLost)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the end of the X server is not noticed")
	}
}

func TestEnds(t *testing.T) {
	name, _ := display(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := Watch(ctx, name, func(bool) { cancel() }); err != nil {
		t.Error(err)
	}
	if err := Watch(t.Context(), ":98765", func(bool) { t.Error("there is none") }); err == nil {
		t.Error("there is none")
	}
}
