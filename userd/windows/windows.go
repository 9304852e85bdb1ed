// Package windows closes windows on an X display as a window manager
// does. It keeps nothing between calls and may be used from any goroutine.
package windows

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"slices"
	"sync"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

var quietX = sync.OnceFunc(func() { xgb.Logger = log.New(io.Discard, "", 0) })

// Close asks the main windows of the processes to close, as a window manager
// does when their button is pressed: WM_DELETE_WINDOW, to those that take part
// (Inter-Client Communication Conventions Manual, 4.2.8.1). It returns how many were
// asked. Dialogs are left alone: they belong to a window, or wait for the user. If the
// server does not answer before ctx is done, the error is ctx's, and some may have been asked.
func Close(ctx context.Context, display string, pids []int) (int, error) {
	quietX()
	conn, err := connect(ctx, display)
	if err != nil {
		return 0, fmt.Errorf("cannot reach the X server %s: %w", display, err)
	}
	stop := context.AfterFunc(ctx, conn.Close) // a server that hangs
	defer func() {
		if stop() {
			conn.Close()
		}
	}()
	x := &xWindows{conn: conn, atoms: map[string]xproto.Atom{}}
	root := xproto.Setup(conn).DefaultScreen(conn).Root
	asked := 0
	for _, w := range x.numbers(root, "_NET_CLIENT_LIST") {
		window := xproto.Window(w)
		pid := x.numbers(window, "_NET_WM_PID")
		if len(pid) != 1 || !slices.Contains(pids, int(pid[0])) || len(x.numbers(window, "WM_TRANSIENT_FOR")) > 0 {
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
	if err := ctx.Err(); err != nil {
		return asked, fmt.Errorf("the X server %s does not answer: %w", display, err)
	}
	return asked, nil
}

// connect waits until the server answers, or ctx is done.
func connect(ctx context.Context, display string) (*xgb.Conn, error) {
	type result struct {
		conn *xgb.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := xgb.NewConnDisplay(display)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() { // a server that hangs may go on, or end
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

type xWindows struct {
	conn  *xgb.Conn
	atoms map[string]xproto.Atom
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
