package desktop

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/notify"
)

func TestServerComesGoesAndComes(t *testing.T) {
	address := start(t)
	d := newDesk(t, address, Options{})
	if e := wait[notify.Disturb](d); e.No {
		t.Error("without a server nothing is to be disturbed")
	}
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	if p := d.properties(); p.NotificationServer != "" || len(p.Notices) != 0 {
		t.Errorf("got %+v, want no notification server and 0 notices", p)
	}
	first := newServer(t, address, allCaps...).own()
	first.until("it is shown", func() bool { return len(first.shown) == 1 })

	second := newServer(t, address, "body").own() // takes over while the first one lives
	second.until("it is shown there, once and in its own manner", func() bool {
		for _, n := range second.shown {
			if n.ReplacesID != 0 || len(n.Actions) != 0 || n.Body != "Close it & wait." {
				return false
			}
		}
		return len(second.shown) == 1
	})
	first.emit("NotificationClosed", uint32(101), uint32(2))
	none[notify.Closed](d)

	second.conn.Close()
	d.eventually("it is missed", func(p bus.SessionProperties) bool { return p.NotificationServer == "" && len(p.Notices) == 0 })
	third := newServer(t, address, allCaps...).own()
	third.until("it is shown once more", func() bool { return len(third.shown) == 1 })
}

// A server may own its name before it serves anything, as GNOME's does, and may fail
// to answer at first: the notice comes with what it turns out to have.
func TestServerThatIsNotReadyYet(t *testing.T) {
	for _, what := range []string{"no object", "no information", "no capabilities", "no answer to do not disturb"} {
		t.Run(what, func(t *testing.T) {
			address := start(t)
			s := newServer(t, address, allCaps...)
			ready := func() {
				s.mu.Lock()
				s.mute = ""
				s.mu.Unlock()
			}
			s.mute = map[string]string{"no information": "GetServerInformation", "no capabilities": "GetCapabilities", "no answer to do not disturb": "Get"}[what]
			if what == "no object" {
				s.conn.Export(nil, serverPath, serverName)
				ready = func() { s.conn.Export(methods{s}, serverPath, serverName) }
			}
			s.own()
			d := newDesk(t, address, Options{})
			d.Do(notify.Show{Notice: notice("firefox", 1)})
			if what == "no object" {
				for range 3 { // the name is owned and nothing is answered
					d.properties()
				}
			} else {
				s.until("it was asked twice", func() bool { return s.asked >= 2 })
			}
			s.mu.Lock()
			if len(s.shown) != 0 && what != "no answer to do not disturb" {
				t.Errorf("%s: shown before it is known how: got %v, want none", what, s.shown)
			}
			s.mu.Unlock()
			if what == "no answer to do not disturb" {
				for len(d.events) > 0 {
					if e, ok := (<-d.events).(notify.Disturb); ok && !e.No {
						t.Error("a question that was not answered counts as no")
					}
				}
			}
			ready()
			s.until("it is shown with all it has", func() bool {
				n := s.shown[s.id("firefox is ready")]
				return len(n.Actions) == 3 && n.Body != ""
			})
			d.eventually("its name is known", func(p bus.SessionProperties) bool { return p.NotificationServer == "hostile 0.1" })
			for e := wait[notify.Disturb](d); e.No; e = wait[notify.Disturb](d) {
			}
		})
	}
}

// userManager has the property Environment of the user's systemd.
type userManager []string

// Get is a method of org.freedesktop.DBus.Properties.
func (m userManager) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	return dbus.MakeVariant([]string(m)), nil
}

// TestLanguage: the languages are those that the desktop has imported into the user's systemd,
// and come before the server may be disturbed.
func TestLanguage(t *testing.T) {
	for env, want := range map[string]*notify.Language{
		"HOME=/ LANG=de_DE.UTF-8 LANGUAGE=de:fr": {Names: []string{"de", "fr", "de_DE.UTF-8"}},
		"LANG=de_DE.UTF-8 LC_ALL=C LANGUAGE=de":  {},
		"HOME=/":                                 nil,
	} {
		t.Run(env, func(t *testing.T) {
			address := start(t)
			manager := connect(t, address)
			if err := manager.Export(userManager(strings.Fields(env)), "/org/freedesktop/systemd1", properties); err != nil {
				t.Fatal(err)
			}
			if _, err := manager.RequestName("org.freedesktop.systemd1", 0); err != nil {
				t.Fatal(err)
			}
			newServer(t, address, allCaps...).own()
			d := newDesk(t, address, Options{})
			var got *notify.Language
			for e := range d.events {
				if l, ok := e.(notify.Language); ok {
					got = &l
				}
				if d, ok := e.(notify.Disturb); ok && !d.No {
					break
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestHungServer(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.hang = make(chan struct{})
	s.own()
	d := newDesk(t, address, Options{Hang: 50 * time.Millisecond})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it hangs", func() bool { return len(s.calls) == 1 })
	d.eventually("it counts as hung", func(p bus.SessionProperties) bool { return p.NotificationServer == "" })
	// A notice that is untrue by the time of the answer must not stay on the screen.
	d.Do(notify.Close{Instance: "firefox"})
	d.Do(notify.Show{Notice: notice("gimp", 2)})
	hang := s.hang
	s.mu.Lock()
	s.hang = nil
	s.mu.Unlock()
	close(hang)
	s.until("only what is wanted stands", func() bool { return len(s.shown) == 1 && s.id("gimp is ready") != 0 })
	s.until("the other one was there once", func() bool { return slices.Contains(s.calls, "close firefox is ready") })
	d.eventually("it is well again", func(p bus.SessionProperties) bool { return p.NotificationServer != "" && len(p.Notices) == 1 })
}

func TestHungServerIsReplaced(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.hang = make(chan struct{})
	t.Cleanup(func() { close(s.hang) })
	s.own()
	d := newDesk(t, address, Options{Hang: 20 * time.Millisecond})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it hangs", func() bool { return len(s.calls) == 1 })
	d.eventually("it counts as hung", func(p bus.SessionProperties) bool { return p.NotificationServer == "" })
	other := newServer(t, address, allCaps...).own()
	other.until("the other one shows it", func() bool { return len(other.shown) == 1 })
}

func TestEndWithAHungServer(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.hang = make(chan struct{})
	t.Cleanup(func() { close(s.hang) })
	s.own()
	d := newDesk(t, address, Options{Hang: 20 * time.Millisecond})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it hangs", func() bool { return len(s.calls) == 1 })
	d.eventually("it counts as hung", func(p bus.SessionProperties) bool { return p.NotificationServer == "" })
	began := time.Now()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > exitTimeout+3*time.Second {
		t.Errorf("it took %v to end beside a server that hangs, want at most %v", took, exitTimeout+3*time.Second)
	}
}

func TestSignalsThatOvertakeTheAnswer(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.early = true
	s.own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	if e := wait[notify.Invoked](d); e.Action != notify.Later {
		t.Errorf("got %+v, want action %v", e, notify.Later)
	}
	if e := wait[notify.Closed](d); e.Serial != 1 {
		t.Errorf("got %+v, want serial 1", e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) != 1 {
		t.Errorf("shown again: got %q, want 1 calls", s.calls)
	}
}

func TestServerWithStrangeIDs(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.answer = func(id uint32) uint32 { // a new id also for a replaced notice
		s.next++
		return s.next
	}
	s.own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it is shown", func() bool { return len(s.shown) == 1 })
	n := notice("firefox", 2)
	n.Summary = "firefox 2"
	d.Do(notify.Show{Notice: n})
	s.until("the old one is taken down", func() bool { return len(s.shown) == 1 && s.id("firefox 2") != 0 })

	s.mu.Lock()
	s.answer = func(uint32) uint32 { return 0 }
	s.mu.Unlock()
	d.Do(notify.Show{Notice: notice("gimp", 3)})
	s.until("it was asked", func() bool { return slices.Contains(s.calls, "show gimp is ready") })
	s.mu.Lock()
	s.answer = func(uint32) uint32 { return 7 } // the same for all
	s.mu.Unlock()
	d.Do(notify.Show{Notice: notice("inkscape", 4)})
	d.Do(notify.Show{Notice: notice("krita", 5)})
	d.eventually("only the last one counts", func(p bus.SessionProperties) bool {
		return slices.ContainsFunc(p.Notices, func(n bus.Notice) bool { return n.Instance == "krita" && n.ID == 7 }) &&
			!slices.ContainsFunc(p.Notices, func(n bus.Notice) bool { return n.Instance == "inkscape" && n.ID == 7 })
	})
}

func TestServerThatRefuses(t *testing.T) {
	address := start(t)
	s := newServer(t, address, allCaps...)
	s.refuse = true
	s.own()
	d := newDesk(t, address, Options{})
	d.Do(notify.Show{Notice: notice("firefox", 1)})
	s.until("it has refused", func() bool { return len(s.calls) == 1 })
	d.properties()
	time.Sleep(50 * time.Millisecond)
	s.mu.Lock()
	if len(s.calls) != 1 {
		t.Errorf("asked all the time: got %q, want 1 calls", s.calls)
	}
	s.refuse = false
	s.mu.Unlock()
	d.Do(notify.Show{Notice: notice("firefox", 2)})
	s.until("something new is tried at once", func() bool { return len(s.shown) == 1 })
}
