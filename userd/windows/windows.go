// Package windows closes windows on an X display as a window manager
// does. It keeps nothing between calls and may be used from any goroutine.
package windows

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/xproto"
)

var quietX = sync.OnceFunc(func() { xgb.Logger = log.New(io.Discard, "", 0) })

// ErrUnknown reports that it cannot be determined whether the processes have windows: the
// server is there and does not take the connection, does not answer in time, or is on another
// machine and has windows that may be theirs.
var ErrUnknown = errors.New("its windows are unknown")

// Close asks the main windows of the processes to close, as a window manager
// does when their button is pressed: WM_DELETE_WINDOW, to those that take part
// (Inter-Client Communication Conventions Manual, 4.2.8.1). It returns how many were
// asked, and how many dialogs there are. These are left alone: they belong to a window,
// or wait for the user. If the server does not answer before ctx is done, the error is
// ErrUnknown, and some may have been asked.
func Close(ctx context.Context, display Display, pids []int) (asked, dialogs int, err error) {
	quietX()
	conn, err := connect(ctx, display)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot reach the X server %s: %w", display.Name, err)
	}
	stop := context.AfterFunc(ctx, conn.Close) // a server that hangs
	defer func() {
		if stop() {
			conn.Close()
		}
	}()
	x := &xWindows{conn: conn, atoms: map[string]xproto.Atom{}, resources: display.local() && res.Init(conn) == nil}
	anonymous := false
	for _, window := range x.all() {
		owners, known := x.owners(window)
		anonymous = anonymous || !known
		if !slices.ContainsFunc(owners, func(pid int) bool { return slices.Contains(pids, pid) }) {
			continue
		}
		if len(x.numbers(window, "WM_TRANSIENT_FOR")) > 0 {
			dialogs++
			continue
		}
		protocols, del := x.atom("WM_PROTOCOLS"), x.atom("WM_DELETE_WINDOW")
		if !slices.Contains(x.numbers(window, "WM_PROTOCOLS"), uint32(del)) {
			continue
		}
		ev := xproto.ClientMessageEvent{Format: 32, Window: window, Type: protocols,
			Data: xproto.ClientMessageDataUnionData32New([]uint32{uint32(del), xproto.TimeCurrentTime, 0, 0, 0})}
		if err := xproto.SendEventChecked(conn, false, window, xproto.EventMaskNoEvent, string(ev.Bytes())).Check(); err != nil {
			continue // it has just gone
		}
		asked++
	}
	if ctx.Err() != nil {
		return asked, dialogs, fmt.Errorf("the X server %s does not answer: %w", display.Name, ErrUnknown)
	}
	if anonymous && asked+dialogs == 0 {
		return 0, 0, fmt.Errorf("the X server %s has windows of this machine that name no process: %w", display.Name, ErrUnknown)
	}
	return asked, dialogs, nil
}

// connect waits until the server answers, or ctx is done.
func connect(ctx context.Context, display Display) (*xgb.Conn, error) {
	socket, err := display.dial(ctx)
	if err != nil {
		return nil, err
	}
	type result struct {
		conn *xgb.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := xgb.NewConnNet(socket)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			socket.Close()
			return nil, fmt.Errorf("%w: %w", ErrUnknown, r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		socket.Close() // ends the wait of the other goroutine
		if r := <-done; r.err == nil {
			r.conn.Close()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

type xWindows struct {
	conn      *xgb.Conn
	atoms     map[string]xproto.Atom
	resources bool // the server can be asked for the processes of its clients
}

// maxWindows bounds the windows that are read where no window manager lists them.
const maxWindows = 4096

// all lists the windows of applications: as the window manager has them
// (_NET_CLIENT_LIST), or, if it keeps no list or there is none, those below the root that
// take part in a protocol of window managers.
func (x *xWindows) all() (list []xproto.Window) {
	root := xproto.Setup(x.conn).DefaultScreen(x.conn).Root
	for _, w := range x.numbers(root, "_NET_CLIENT_LIST") {
		list = append(list, xproto.Window(w))
	}
	if len(list) > 0 {
		return list
	}
	left := maxWindows
	var walk func(w xproto.Window, depth int)
	walk = func(w xproto.Window, depth int) {
		tree, err := xproto.QueryTree(x.conn, w).Reply()
		if err != nil {
			return
		}
		for _, child := range tree.Children {
			if left--; left < 0 {
				return
			}
			if len(x.numbers(child, "WM_PROTOCOLS")) > 0 {
				list = append(list, child)
			} else if depth > 0 { // the frame of a window manager
				walk(child, depth-1)
			}
		}
	}
	walk(root, 2)
	return list
}

// owners returns the processes of this machine that a window names, and that the server has
// as its client: many programs name none, and one in a PID namespace names another number.
// On the display of another machine the number can be that of any process there, and known
// is false if the window may be of any process here.
func (x *xWindows) owners(w xproto.Window) (pids []int, known bool) {
	host, err := os.Hostname()
	machine := x.text(w, "WM_CLIENT_MACHINE")
	if here := err == nil && machine == host; here || machine == "" && x.resources {
		for _, n := range x.numbers(w, "_NET_WM_PID") {
			pids = append(pids, int(n))
		}
		known = len(pids) > 0
	} else {
		known = machine != ""
	}
	if !x.resources {
		return pids, known
	}
	r, err := res.QueryClientIds(x.conn, 1, []res.ClientIdSpec{{Client: uint32(w), Mask: res.ClientIdMaskLocalClientPID}}).Reply()
	if err != nil || r == nil {
		return pids, true
	}
	for _, id := range r.Ids {
		for _, n := range id.Value {
			pids = append(pids, int(n))
		}
	}
	return pids, true
}

func (x *xWindows) atom(name string) xproto.Atom {
	if a, ok := x.atoms[name]; ok {
		return a
	}
	r, err := xproto.InternAtom(x.conn, false, uint16(len(name)), name).Reply()
	if err != nil {
		return 0
	}
	x.atoms[name] = r.Atom
	return r.Atom
}

// text reads a property that is a text; a missing one is empty.
func (x *xWindows) text(w xproto.Window, name string) string {
	r, err := xproto.GetProperty(x.conn, false, w, x.atom(name), xproto.GetPropertyTypeAny, 0, maxNumbers).Reply()
	if err != nil || r == nil || r.Format != 8 {
		return ""
	}
	return strings.TrimRight(string(r.Value), "\x00")
}

// maxNumbers bounds what is read of a property.
const maxNumbers = 1024

// numbers reads a property that is a list of numbers; a missing one is empty.
func (x *xWindows) numbers(w xproto.Window, name string) []uint32 {
	r, err := xproto.GetProperty(x.conn, false, w, x.atom(name), xproto.GetPropertyTypeAny, 0, maxNumbers).Reply()
	if err != nil || r == nil || r.Format != 32 {
		return nil
	}
	var list []uint32
	for b := r.Value; len(b) >= 4; b = b[4:] {
		list = append(list, binary.LittleEndian.Uint32(b))
	}
	return list
}
