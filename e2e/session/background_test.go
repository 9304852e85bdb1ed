package session_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// testBackground: a program that starts at log-in and has no menu entry is restarted by
// itself in the new version, with the real logind: not while its user works, but once the
// screen is locked.
func testBackground(t *testing.T) {
	s := &stage{rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Policy: "defaults: {restart-background: true}\n", Auto: true})}
	program, err := os.ReadFile("/usr/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	publish := func(version int) {
		t.Helper()
		s.Publish(s.Tree(fmt.Sprint("b", version), map[string]string{
			"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: runs in the background\napps: [{name: sync, command: [bin/sync, infinity], autostart: sync.desktop}]\n", app, version),
			"bin/sync":  string(program), "sync.desktop": "[Desktop Entry]\nType=Application\nName=Sync\nExec=sync\n",
		}))
	}
	publish(1)
	s.Begin()
	s.MustLull("install", app)
	ann := s.NewUser("ann", true)
	s.Admin.Start("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-login", "--uid=ann", "--property=PAMName=login",
		"--setenv=XDG_SESSION_TYPE=wayland", "--setenv=XDG_SESSION_CLASS=user", "--", "sleep", "infinity")
	defer s.Admin.Run("systemctl", "stop", "test-login.service")
	s.Until("she is at work", limit, func() (bool, string) {
		now, _ := s.API.Property("", "Manager.Use").(string)
		return now == "in-use", now
	})
	first := ann.Start("lull-run", app)
	helper := ann.StartHelper()
	pids := func() (list []uint32) {
		o, _ := s.API.Package(app)
		for _, p := range rig.Processes(o.Props["Processes"]) {
			list = append(list, p.PID)
		}
		return list
	}
	s.Until("it runs", limit, func() (bool, string) { return len(pids()) == 1, fmt.Sprint(pids()) })
	was := pids()[0]
	publish(2)
	s.MustLull("refresh", "--no-wait", app)
	o, ok := s.API.Refresh(app, "2")
	if !ok || o.Str("State") != "waiting" || first.Ended() {
		t.Fatalf("it does not wait: %v, the program has ended: %v", o, first.Ended())
	}
	id := strings.TrimSpace(s.Admin.Must("loginctl", "show-user", "ann", "--property=Display", "--value").Stdout)
	path := strings.Trim(strings.TrimPrefix(s.Admin.Must("busctl", "call", "org.freedesktop.login1", "/org/freedesktop/login1",
		"org.freedesktop.login1.Manager", "GetSession", "s", id).Stdout, "o "), "\"\n")
	ann.Must("busctl", "call", "org.freedesktop.login1", path, "org.freedesktop.login1.Session", "SetLockedHint", "b", "true")
	untilVersion(s, "2")
	s.Until("the new version runs", limit, func() (bool, string) {
		list := pids()
		return len(list) == 1 && list[0] != was, fmt.Sprint(list, helper.Log())
	})
	s.Until("it is the program itself", limit, func() (bool, string) {
		name := restarted(t, pids()[0])
		return name == "sync", fmt.Sprintf("it was started as %q", name)
	})
	ann.Must("kill", fmt.Sprint(pids()[0]))
	s.Until("it has ended", limit, func() (bool, string) { return len(pids()) == 0, fmt.Sprint(pids()) })
}

// restarted returns the application that a process is, empty while it is still the
// launcher that joins the run and has not executed the program.
func restarted(t *testing.T, pid uint32) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\x00LULL_APP=")
	name, _, _ := strings.Cut(rest, "\x00")
	return name
}
