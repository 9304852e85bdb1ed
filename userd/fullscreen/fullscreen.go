// Package fullscreen watches whether the active window fills the whole screen
// of an X display, as presentations and films do: _NET_ACTIVE_WINDOW of the
// root
// window, and _NET_WM_STATE_FULLSCREEN in the _NET_WM_STATE of that window, as the
// Extended Window Manager Hints have them (specifications.freedesktop.org/wm-spec).
//
// Wayland has nothing of the kind for a program that is no part of the compositor:
// there the notification servers of the desktops hold notices back themselves,
// or report it by their property Inhibited. Windows of Xwayland are seen.
//
// Nothing polls: the X server sends events for both properties.
//
// Concurrency: Watch is one goroutine that owns the connection, beside those
// of the library. It calls a function that may block.
package fullscreen

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"slices"
	"sync"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// quiet keeps the library from writing to the standard error.
var quiet = sync.OnceFunc(func() { xgb.Logger = log.New(io.Discard, "", 0) })

// ErrLost reports the loss of the X server.
var ErrLost = errors.New("the X server is gone")

// screen is a display that is watched.
type screen struct {
	conn   *xgb.Conn
	root   xproto.Window
	active xproto.Window // 0 if none
	atoms  map[string]xproto.Atom
}

// Watch calls changed with whether the active window fills the screen, first at once
// and then at each change, until the context ends (nil) or the display does. Display
// is as in DISPLAY.
func Watch(ctx context.Context, display string, changed func(yes bool)) error {
	quiet()
	conn, err := xgb.NewConnDisplay(display)
	if err != nil {
		return fmt.Errorf("cannot reach the X server %s: %w", display, err)
	}
	stop := context.AfterFunc(ctx, conn.Close)
	defer func() {
		if stop() {
			conn.Close()
		}
	}()
	s := &screen{conn: conn, root: xproto.Setup(conn).DefaultScreen(conn).Root, atoms: map[string]xproto.Atom{}}
	for _, name := range []string{"_NET_ACTIVE_WINDOW", "_NET_WM_STATE", "_NET_WM_STATE_FULLSCREEN"} {
		r, err := xproto.InternAtom(conn, false, uint16(len(name)), name).Reply()
		if err != nil {
			return s.lost(ctx, err)
		}
		s.atoms[name] = r.Atom
	}
	if err := s.listen(s.root); err != nil {
		return s.lost(ctx, err)
	}
	last, told := false, false
	for {
		s.follow()
		if yes := s.fills(); !told || yes != last {
			last, told = yes, true
			changed(yes)
		}
		if err := s.wait(); err != nil {
			return s.lost(ctx, err)
		}
	}
}

func (s *screen) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// wait returns when one of the properties may have changed.
func (s *screen) wait() error {
	for {
		ev, err := s.conn.WaitForEvent()
		switch {
		case ev == nil && err == nil:
			return ErrLost
		case err != nil:
			continue // about a window that has gone meanwhile
		}
		if p, ok := ev.(xproto.PropertyNotifyEvent); ok &&
			(p.Window == s.root && p.Atom == s.atoms["_NET_ACTIVE_WINDOW"] || p.Window == s.active && p.Atom == s.atoms["_NET_WM_STATE"]) {
			return nil
		}
	}
}

func (s *screen) listen(w xproto.Window) error {
	return xproto.ChangeWindowAttributesChecked(s.conn, w, xproto.CwEventMask, []uint32{xproto.EventMaskPropertyChange}).Check()
}

// follow listens to the window in front, and no longer to the last one.
func (s *screen) follow() {
	var w xproto.Window
	if list := s.property(s.root, "_NET_ACTIVE_WINDOW"); len(list) > 0 {
		w = xproto.Window(list[0])
	}
	if w == s.active {
		return
	}
	if s.active != 0 && s.active != s.root { // it may be gone
		_ = xproto.ChangeWindowAttributesChecked(s.conn, s.active, xproto.CwEventMask, []uint32{xproto.EventMaskNoEvent}).Check()
	}
	if s.active = w; w != 0 && w != s.root && s.listen(w) != nil {
		s.active = 0 // the window is gone; an event announces the next one
	}
}

func (s *screen) fills() bool {
	return s.active != 0 && slices.Contains(s.property(s.active, "_NET_WM_STATE"), uint32(s.atoms["_NET_WM_STATE_FULLSCREEN"]))
}

// maxValues bounds what is read of a property, in numbers.
const maxValues = 64

// property is a list of numbers; what is not there is none.
func (s *screen) property(w xproto.Window, name string) []uint32 {
	r, err := xproto.GetProperty(s.conn, false, w, s.atoms[name], xproto.GetPropertyTypeAny, 0, maxValues).Reply()
	if err != nil || r == nil || r.Format != 32 {
		return nil
	}
	list := make([]uint32, 0, len(r.Value)/4)
	for b := r.Value; len(b) >= 4; b = b[4:] {
		list = append(list, binary.LittleEndian.Uint32(b))
	}
	return list
}
