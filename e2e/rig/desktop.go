package rig

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// dunstConfig makes notices large enough to be read in a picture, and lets
// them stay until they are closed.
const dunstConfig = `[global]
    width = 560
    height = 400
    origin = top-right
    offset = 16x16
    font = Sans 13
    markup = full
    format = "<b>%s</b>\n%b"
    icon_position = left
    max_icon_size = 64
    min_icon_size = 48
    enable_recursive_icon_lookup = true
    show_indicators = yes
    ignore_dbusclose = false
    notification_limit = 0
    layer = overlay
    dmenu = MENU
[urgency_low]
    timeout = 0
[urgency_normal]
    timeout = 0
[urgency_critical]
    timeout = 0
`

// Notice is one notification as the server got it.
type Notice struct {
	ID      uint32
	App     string
	Icon    string
	Summary string
	Body    string
	Actions []string // key, label, key, label, …
	Closed  bool
}

// Labels returns the labels of the notice's buttons.
func (n Notice) Labels() []string {
	var labels []string
	for i := 1; i < len(n.Actions); i += 2 {
		labels = append(labels, n.Actions[i])
	}
	return labels
}

// Desktop is a session: a bus and, unless it is the user's own, a display with
// a notification server.
type Desktop struct {
	w     *World
	Own   bool // the user's real session
	Xvfb  *Proc
	Dunst *Proc

	mu      sync.Mutex
	calls   map[callKey]*Notice
	notices []*Notice
}

type callKey struct {
	sender string
	cookie uint64
}

// StartDesktop gives the world's user a session with Xvfb and dunst.
func (w *World) StartDesktop() *Desktop {
	w.Helper()
	d := &Desktop{w: w, calls: map[callKey]*Notice{}}
	if w.System {
		w.Session = &Bus{Address: "unix:path=" + w.User.Runtime() + "/bus", w: w}
	} else {
		w.Session = w.startBus("session", w.User)
	}
	w.Session.monitor(w.User, d.see)
	d.startX()
	config := w.Path("dunstrc")
	menu := w.Path("dunst-menu")
	err := os.WriteFile(config, []byte(strings.ReplaceAll(dunstConfig, "MENU", menu)+w.Options.Dunst), 0o644)
	if err == nil { // the menu of a notice: it chooses the line with the text of that file
		err = os.WriteFile(menu, []byte("#!/bin/sh\nexec grep -m1 -F -f '"+w.Path("dunst-choice")+"'\n"), 0o755)
	}
	if err != nil {
		w.Fatalf("cannot start dunst: %v", err)
	}
	d.Dunst = w.User.StartWith(d.onSession, "dunst", "-conf", config)
	w.Until("dunst serves notifications", 20*time.Second, func() (bool, string) {
		return w.Session.HasOwner(w.User, "org.freedesktop.Notifications"), tail(d.Dunst.Log(), 5)
	})
	return d
}

// OwnDesktop uses the session that the rig was started in.
func (w *World) OwnDesktop() *Desktop {
	w.Helper()
	d := &Desktop{w: w, Own: true, calls: map[callKey]*Notice{}}
	w.Session = &Bus{Address: os.Getenv("DBUS_SESSION_BUS_ADDRESS"), w: w}
	w.display = os.Getenv("DISPLAY")
	w.Session.monitor(w.User, d.see)
	return d
}

// onSession makes a command use the bus on which notices are shown, which is
// not always the one on which the user's systemd is.
func (d *Desktop) onSession(c *exec.Cmd) {
	c.Env = append(c.Env, "DBUS_SESSION_BUS_ADDRESS="+d.w.Session.Address)
}

// dunstctl drives dunst.
func (d *Desktop) dunstctl(args ...string) string {
	d.w.Helper()
	cmd := d.w.User.Command("dunstctl", args...)
	d.onSession(cmd)
	r, err := run(d.w.Context(), time.Minute, cmd)
	if err != nil || r.Code != 0 {
		d.w.Fatalf("cannot drive dunst: %v\n%v", err, r)
	}
	return r.Stdout
}

// startX starts an X server without a screen.
func (d *Desktop) startX() {
	w := d.w
	r, wr, err := os.Pipe()
	if err != nil {
		w.Fatalf("cannot start Xvfb: %v", err)
	}
	_, had := os.Stat("/tmp/.X11-unix")
	d.Xvfb = w.User.StartWith(func(c *exec.Cmd) { c.ExtraFiles = []*os.File{wr} },
		"Xvfb", "-displayfd", "3", "-screen", "0", "1024x640x24", "-nolisten", "tcp", "-noreset", "-br")
	wr.Close()
	number, err := readLine(w.Context(), r, d.Xvfb, 30*time.Second)
	if err != nil {
		w.Fatalf("cannot start Xvfb: %v", err)
	}
	w.display = ":" + strings.TrimSpace(number)
	if had != nil {
		w.Cleanup(func() {
			d.Xvfb.Stop()
			os.Remove("/tmp/.X11-unix") // goes if it is empty
		})
	}
}

// see collects what passes between the session's programs.
func (d *Desktop) see(m message) {
	defer d.w.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case m.Type == "method_call" && m.Interface == "org.freedesktop.Notifications" && m.Member == "Notify" && len(m.Payload.Data) == 8:
		n := &Notice{}
		for i, to := range map[int]any{0: &n.App, 2: &n.Icon, 3: &n.Summary, 4: &n.Body, 5: &n.Actions} {
			if json.Unmarshal(m.Payload.Data[i], to) != nil {
				return
			}
		}
		d.calls[callKey{m.Sender, m.Cookie}] = n
	case m.Type == "method_return" && len(m.Payload.Data) == 1:
		key := callKey{m.Destination, m.ReplyCookie}
		n := d.calls[key]
		if n == nil || json.Unmarshal(m.Payload.Data[0], &n.ID) != nil {
			return
		}
		delete(d.calls, key)
		for _, old := range d.notices {
			if old.ID == n.ID {
				old.Closed = true // replaced
			}
		}
		d.notices = append(d.notices, n)
	case m.Type == "signal" && m.Member == "NotificationClosed" && len(m.Payload.Data) > 0:
		var id uint32
		if json.Unmarshal(m.Payload.Data[0], &id) != nil {
			return
		}
		for _, n := range d.notices {
			if n.ID == id {
				n.Closed = true
			}
		}
	}
}

// Notices returns all that the server has taken so far, oldest first.
func (d *Desktop) Notices() []Notice {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Notice
	for _, n := range d.notices {
		all = append(all, *n)
	}
	return all
}

// Live returns the notices that are shown now.
func (d *Desktop) Live() []Notice {
	var live []Notice
	for _, n := range d.Notices() {
		if !n.Closed {
			live = append(live, n)
		}
	}
	return live
}

// Displayed asks dunst how many notices it shows or keeps waiting.
func (d *Desktop) Displayed() int {
	d.w.Helper()
	out := d.dunstctl("count", "displayed")
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		d.w.Fatalf("cannot understand dunstctl: %q", out)
	}
	return n
}

// CloseAll does what a user does who is tired of notices.
func (d *Desktop) CloseAll() {
	d.w.Helper()
	d.dunstctl("close-all")
}

// Act does what a click on a button of the newest notice does.
func (d *Desktop) Act(key string) {
	d.w.Helper()
	d.dunstctl("action", key)
}

// Press chooses a button of a notice by its label, as in dunst's menu.
func (d *Desktop) Press(label string) {
	d.w.Helper()
	if err := os.WriteFile(d.w.Path("dunst-choice"), []byte(label+"\n"), 0o644); err != nil {
		d.w.Fatalf("cannot press %s: %v", label, err)
	}
	d.dunstctl("context")
}

// Screenshot takes a picture of the whole screen, when what is on it has been
// drawn, and puts it at path, which the rig does not remove.
func (d *Desktop) Screenshot(path string) {
	d.w.Helper()
	inside := d.w.Path("screenshot-" + filepath.Base(path))
	if f, err := os.Create(inside); err == nil {
		f.Close()
		d.w.User.Own(inside)
	}
	if !d.Own {
		d.w.User.Must("xdotool", "search", "--sync", "--onlyvisible", "--class", "Dunst")
	}
	d.w.User.Must("import", "-window", "root", inside)
	b, err := os.ReadFile(inside)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		d.w.Fatalf("cannot keep the screenshot: %v", err)
	}
}

// String lists what has been shown, for failures.
func (d *Desktop) String() string {
	var b strings.Builder
	for _, n := range d.Notices() {
		state := "shown"
		if n.Closed {
			state = "closed"
		}
		fmt.Fprintf(&b, "[%d %s] %s | %s | %q\n", n.ID, state, n.Summary, n.Body, n.Labels())
	}
	return b.String()
}
