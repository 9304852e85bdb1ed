package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// testComesAndGoes: the helper as a unit of the user's systemd, with the units that are
// installed, changed in their paths alone. It starts the session's services,
// exits when nothing is pending, and is restarted, by the kernel's event, when
// a refresh has work for it; and the session bus can restart it.
func testComesAndGoes(t *testing.T) {
	s := newStage(t, "{name: one, scope: user, command: [bin/svc, one, TERM]}")
	ann := s.NewUser("ann", true)
	s.save(ann, "before")
	owner := ann.FollowName("org.lull.Session1")
	until := func(there bool) {
		t.Helper()
		s.Until(fmt.Sprintf("there is a helper: %v", there), limit, func() (bool, string) { now := owner(); return (now != "") == there, now })
	}
	s.install(ann)
	s.untilLog(ann, "1 one 1 up")
	until(false)

	// Only the agent may change it.
	s.publish(2, "{name: one, scope: user, command: [bin/svc, one, TERM]}")
	s.MustLull("refresh", "--wait", app)
	log := s.untilLog(ann, "2 one 2 up")
	if words(log) != "1 one 1 up, 1 one TERM, 2 one 2 up" {
		t.Errorf("the service says: %s, want 1 one 1 up, 1 one TERM, 2 one 2 up", words(log))
	}
	until(true)
	s.loads(ann, "before")
	until(false)
	if show(ann, "one", "ActiveState") != "active" {
		t.Error("a service has ended with the helper")
	}

	// With a refresh that waits it stays.
	run := ann.Start("lull-run", app, "stay")
	s.Until("it runs", limit, func() (bool, string) {
		o, _ := s.API.Package(app)
		running, _ := o.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.publish(4, "")
	until(true)
	was := owner()
	run.Stop()
	until(false)
	if has(filepath.Join(s.RunDir, "wanted")) {
		t.Error("helpers are wanted, with nothing pending")
	}

	if r := ann.Run("busctl", "--user", "call", "org.lull.Session1", "/org/lull/Session1", "org.lull.Session1", "Show"); r.Code != 0 {
		t.Errorf("the session bus does not have it started: %v", r)
	}
	if now := owner(); now == "" || now == was {
		t.Errorf("the helper that answers is %q, want one, and another than %q", now, was)
	}
	ann.Systemctl("stop", "lull-userd.path", "lull-userd.service")
}

// install gives a user the units and the bus's service file.
func (s *stage) install(a *rig.Actor) {
	s.Helper()
	change := strings.NewReplacer("/run/lull/wanted", filepath.Join(s.RunDir, "wanted"), "/usr/libexec/lull/lull-userd", filepath.Join(s.Bin, "lull-userd"),
		"Type=notify", "Type=notify\nEnvironment=LULL_LAUNCHER="+filepath.Join(s.Bin, "lull-run"))
	for from, to := range map[string]string{
		"units/lull-userd.service": ".config/systemd/user", "units/lull-userd.path": ".config/systemd/user", "dbus/org.lull.Session1.service": ".local/share/dbus-1/services",
	} {
		b, err := os.ReadFile(filepath.Join(rig.Module(), from))
		if err != nil {
			s.Fatalf("%v", err)
		}
		text := strings.Replace(change.Replace(string(b)), "--exit-unless", "--exit-after=6s --log-level=debug --exit-unless", 1)
		a.Must("mkdir", "-p", filepath.Join(a.Home, to))
		path := filepath.Join(a.Home, to, filepath.Base(from))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.Fatalf("%v", err)
		}
		a.Own(path)
	}
	a.Systemctl("daemon-reload")
	a.Must("systemctl", "--user", "enable", "lull-userd.service")
	a.Must("busctl", "--user", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig")
	a.Must("systemctl", "--user", "start", "lull-userd.path", "lull-userd.service")
}
