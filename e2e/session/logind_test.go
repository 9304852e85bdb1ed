package session_test

import (
	"fmt"
	"strings"
	"testing"
)

// testLogind: with the real logind, a user who logs in delays a refresh that
// requires an idle machine, until the screen is locked or the user logs out; a
// user who only lingers does not.
func testLogind(t *testing.T) {
	s := newStage(t, "")
	s.Configure("policy.d/50-idle.yaml", "defaults: {refresh-requires: [idle]}\n")
	if err := s.API.Call("Manager.Reload").Err; err != nil {
		t.Fatal(err)
	}
	ann := s.NewUser("ann", true)
	use := func(want string) {
		t.Helper()
		s.Until("the machine is "+want, limit, func() (bool, string) {
			now, _ := s.API.Property("", "Manager.Use").(string)
			return now == want, fmt.Sprint(now, s.API.Property("", "Manager.Sessions"))
		})
	}
	login := func() (end func()) {
		s.Admin.Start("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-login", "--uid=ann", "--property=PAMName=login",
			"--setenv=XDG_SESSION_TYPE=wayland", "--setenv=XDG_SESSION_CLASS=user", "--", "sleep", "infinity")
		return func() { s.Admin.Must("systemctl", "stop", "test-login.service") }
	}
	use("idle")
	end := login()
	use("in-use")
	s.publish(2, "")
	s.Until("the refresh waits", limit, func() (bool, string) {
		o, _ := s.API.Refresh(app, "2")
		unmet, _ := o.Props["Conditions"].Value().(map[string]string)
		return unmet["idle"] == "ann is at work", fmt.Sprint(o.Str("State"), unmet)
	})
	hint := func(method, yes string) { // as her desktop gives it
		t.Helper()
		id := strings.TrimSpace(s.Admin.Must("loginctl", "show-user", "ann", "--property=Display", "--value").Stdout)
		path := strings.Trim(strings.TrimPrefix(s.Admin.Must("busctl", "call", "org.freedesktop.login1", "/org/freedesktop/login1",
			"org.freedesktop.login1.Manager", "GetSession", "s", id).Stdout, "o "), "\"\n")
		ann.Must("busctl", "call", "org.freedesktop.login1", path, "org.freedesktop.login1.Session", method, "b", yes)
	}
	hint("SetLockedHint", "true")
	use("idle")
	untilVersion(s, "2")
	hint("SetLockedHint", "false")
	use("in-use")
	hint("SetIdleHint", "true")
	use("idle")
	hint("SetIdleHint", "false")
	use("in-use")
	s.publish(4, "")
	s.Until("the refresh waits", limit, func() (bool, string) {
		o, _ := s.API.Refresh(app, "4")
		unmet, _ := o.Props["Conditions"].Value().(map[string]string)
		return unmet["idle"] != "", fmt.Sprint(o.Str("State"), unmet)
	})
	end()
	untilVersion(s, "4")
}

func untilVersion(s *stage, want string) {
	s.Helper()
	s.Until("version "+want+" is current", limit, func() (bool, string) {
		o, _ := s.API.Package(app)
		return o.Str("Version") == want, o.Str("Version")
	})
}
