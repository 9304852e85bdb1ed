package container_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/logind"
)

// classes are those of pam_systemd(8), whether a person is in a session of it, and
// since which version of logind there is such a class.
var classes = []struct {
	name   string
	person bool
	since  int
}{
	{"user", true, 0}, {"user-early", true, 256}, {"user-light", true, 258}, {"user-early-light", true, 258},
	{"user-incomplete", false, 256}, {"background", false, 0}, {"background-light", false, 258},
	{"greeter", false, 0}, {"lock-screen", false, 0}, {"manager", false, 256}, {"manager-early", false, 256},
}

// logindVersion is that of the systemd that runs here.
func logindVersion(t *testing.T) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(sh(t, "busctl --json=short get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager Version | tr -dc '0-9. '"), "%d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSessionClasses: of this logind's sessions, exactly those that a person
// may use count.
func TestSessionClasses(t *testing.T) {
	here(t)
	version := logindVersion(t)
	for _, c := range classes {
		if version < c.since {
			t.Logf("logind %d has no class %s", version, c.name)
			continue
		}
		unit := "class-" + c.name + ".service"
		sh(t, "systemd-run --quiet --collect --unit=%s --uid=tester --property=PAMName=login --setenv=XDG_SESSION_CLASS=%s --setenv=XDG_SESSION_TYPE=tty sleep 100000", unit, c.name)
		// The session is there when PAM has let the service start.
		var id, class string
		for end := time.Now().Add(limit); class == ""; time.Sleep(20 * time.Millisecond) {
			pid := strings.TrimSpace(sh(t, "systemctl show -P MainPID %s", unit))
			if o := try(t, "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager GetSessionByPID u %s", pid); o.code == 0 && pid != "0" {
				path := strings.Trim(strings.TrimSpace(strings.TrimPrefix(o.text, "o ")), `"`)
				id = sessionProperty(t, path, "Id")
				class = sessionProperty(t, path, "Class")
			}
			if time.Now().After(end) {
				t.Fatalf("%s: there is no session\n%s", c.name, try(t, "systemctl status --no-pager %s", unit).text)
			}
		}
		changed := make(chan struct{}, 1)
		w := conditions.Watch(conditions.Options{UID: -1, Log: slog.Default(), Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}})
		counts := false
		for end := time.After(limit); !w.State().Logind; {
			select {
			case <-changed:
			case <-end:
				t.Fatalf("%s: logind's sessions were not read", c.name)
			}
		}
		for _, s := range w.State().Sessions {
			counts = counts || s.ID == id
		}
		if class != c.name || counts != c.person {
			t.Errorf("a session of class %s has class %s and counts: %v, want %v", c.name, class, counts, c.person)
		}
		w.Close()
		sh(t, "systemctl stop %s", unit)
	}
}

// sessionProperty is a string property of a session's.
func sessionProperty(t *testing.T, path, name string) string {
	t.Helper()
	text := sh(t, "busctl get-property org.freedesktop.login1 %s org.freedesktop.login1.Session %s", path, name)
	return strings.Trim(strings.TrimSpace(strings.TrimPrefix(text, "s ")), `"`)
}

// TestWeakLocks: a lock that blocks is weak where logind has such locks, from version
// 257 on. Its effect on a shutdown is tested on a machine, in e2e/machine.
func TestWeakLocks(t *testing.T) {
	here(t)
	l, err := logind.Connect("")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lock, mode, err := l.Take("shutdown", "lull", "a test", true)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	want := logind.Block
	if logindVersion(t) >= 257 {
		want = logind.BlockWeak
	}
	if listed := sh(t, "systemd-inhibit --list --no-legend --no-pager"); mode != want || !strings.Contains(listed, " "+want) {
		t.Errorf("logind grants %s, want %s, and lists\n%s", mode, want, listed)
	}
	lock.Close()
	for end := time.Now().Add(limit); strings.Contains(sh(t, "systemd-inhibit --list --no-legend --no-pager"), "a test"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lock stays")
		}
	}
}
