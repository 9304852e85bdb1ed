package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// NewUser makes an ordinary user of a container, with a home of the usual kind.
// A lingering one has a systemd manager and a session bus from now on, as
// after a log-in.
func (w *World) NewUser(name string, lingers bool) *Actor {
	w.Helper()
	must := func(argv ...string) {
		w.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			w.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	}
	must("useradd", "--create-home", "--shell=/bin/bash", "--uid="+w.nextUID(), name)
	w.Cleanup(func() { exec.Command("userdel", "--force", "--remove", name).Run() })
	a := w.Ordinary(name)
	a.Home = "/home/" + name
	if lingers {
		manager := fmt.Sprintf("user@%d.service", a.UID)
		w.Cleanup(func() {
			exec.Command("loginctl", "disable-linger", name).Run()
			exec.Command("systemctl", "kill", "--signal=KILL", manager).Run() // a service may want to take its time
			exec.Command("systemctl", "stop", manager).Run()
		})
		must("loginctl", "enable-linger", name)
		must("systemctl", "start", manager)
	}
	return a
}

// nextUID is a number that no user of this container has had: systemd does not
// restart units as fast as tests come and go.
func (w *World) nextUID() string {
	w.Helper()
	const path = "/run/lull-test-uid"
	uid := 2000
	if b, err := os.ReadFile(path); err == nil {
		uid, _ = strconv.Atoi(string(b))
	}
	uid++
	if err := os.WriteFile(path, []byte(strconv.Itoa(uid)), 0o600); err != nil {
		w.Fatalf("cannot make a user: %v", err)
	}
	return strconv.Itoa(uid)
}

// StartHelper starts lull-userd in the actor's session, in a container; below is a
// command, if any, that runs it.
func (a *Actor) StartHelper(below ...string) *Proc {
	a.w.Helper()
	argv := append(below, filepath.Join(a.w.Bin, "lull-userd"), "--ready-fd=3", "--log-level=debug")
	if len(below) == 0 {
		argv = append(argv, "--session-bus=unix:path="+a.Runtime()+"/bus")
	}
	p, err := a.w.startReady(a, argv[0], argv[1:], []string{"LULL_LAUNCHER=" + filepath.Join(a.w.Bin, "lull-run")})
	if err != nil {
		a.w.Fatalf("%v", err)
	}
	return p
}

// Systemctl asks the actor's own systemd.
func (a *Actor) Systemctl(args ...string) string {
	a.w.Helper()
	return a.Run("systemctl", append([]string{"--user", "--no-pager"}, args...)...).Stdout
}

// FollowName wakes Until whenever a name on the actor's session bus changes hands, and
// returns a function for its owner; empty if it has none.
func (a *Actor) FollowName(name string) (owner func() string) {
	a.w.Helper()
	b := &Bus{Address: "unix:path=" + a.Runtime() + "/bus", w: a.w}
	b.monitor(a, func(m message) {
		if m.Member == "NameOwnerChanged" && len(m.Payload.Data) > 0 && string(m.Payload.Data[0]) == strconv.Quote(name) {
			a.w.wake()
		}
	})
	return func() string {
		r := a.Run("busctl", "--address="+b.Address, "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetNameOwner", "s", name)
		return strings.TrimSpace(r.Stdout)
	}
}
