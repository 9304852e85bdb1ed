package engine_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestRefusedCommandsChangeNothing: a refresh waits, and goes on waiting while
// commands are refused or find that there is nothing to do.
func TestRefusedCommandsChangeNothing(t *testing.T) {
	s := set(t, "")
	s.publish(app("org.lull.one", "1", ""), map[string]string{"app": forever})
	s.publish(app("org.lull.two", "1", ""), map[string]string{"app": forever})
	s.Begin()
	s.MustLull("install", "org.lull.one", "org.lull.two")
	run, before := s.waiting("org.lull.one", "2", func() {
		s.publish(app("org.lull.one", "2", ""), map[string]string{"app": forever})
	})
	unchanged := func(what string) {
		t.Helper()
		now, _ := s.API.Refresh("org.lull.one", "2")
		if now.Path != before.Path || now.Str("State") != "waiting" {
			t.Errorf("after %s: got %s %s, want %s waiting", what, now.Path, now.Str("State"), before.Path)
		}
	}
	s.says("org.lull.one is already installed", "install", "org.lull.one")
	unchanged("install of what is installed")
	s.says("org.lull.one is already installed", "install", "--channel", "stable", "org.lull.one")
	unchanged("install from the same channel")
	s.refused(65, "cannot install org.lull.one from channel edge: it is installed already, from channel stable", "install", "--channel", "edge", "org.lull.one")
	unchanged("install from another channel")
	s.refused(1, "cannot revert org.lull.one: revision 99 is not kept", "revert", "--revision", "99", "org.lull.one")
	unchanged("revert to a revision that is not kept")
	s.says("org.lull.one is at revision 1 already", "revert", "--revision", "1", "org.lull.one")
	unchanged("revert to the current revision")
	s.says("no refresh of org.lull.two is in progress", "refresh", "--cancel", "org.lull.two")
	unchanged("the end of a refresh of another package, which has none")
	s.refused(1, "cannot cancel the refresh of org.lull.none: none is in progress", "refresh", "--cancel", "org.lull.none")
	s.refused(1, "cannot hold tomorrow: it is not installed", "hold", "org.lull.one", "tomorrow")
	unchanged("a hold that is refused")
	s.says("org.lull.none is not installed; did you mean org.lull.one?", "remove", "org.lull.none")
	s.refused(1, "cannot find org.lull.none: it is not installed", "refresh", "--atomic", "org.lull.one", "org.lull.none")
	unchanged("refreshing it together with what is not installed")

	s.MustLull("hold", "--until", "2090-01-01", "org.lull.two")
	var held rig.Object
	s.Until("the hold is shown", limit, func() (bool, string) {
		held, _ = s.API.Package("org.lull.two")
		return held.Num("HeldUntil") != 0, held.Props["Holds"].String()
	})
	s.MustLull("hold", "--until", "2090-01-01", "org.lull.two")
	again, _ := s.API.Package("org.lull.two")
	if held.Props["Holds"].String() != again.Props["Holds"].String() {
		t.Errorf("after the same hold a second time: got %v, want %v as before", again.Props["Holds"], held.Props["Holds"])
	}
	s.publish(app("org.lull.two", "1.5", ""), map[string]string{"app": forever})
	if r := s.Lull("refresh", "--no-wait", "org.lull.two"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "org.lull.two waits: it is held until 1 January 2090 by root\n") {
		t.Errorf("a refresh of what is held: got %v, want exit status 0 and that it waits because it is held", r)
	}
	s.MustLull("refresh", "--cancel", "org.lull.two")
	s.MustLull("unhold", "org.lull.two")
	s.says("org.lull.two is not held any longer", "unhold", "org.lull.two")

	run.Stop()
	s.UntilState("org.lull.one", "2", "done")

	// A removal that waits is given up by an installation: that keeps it installed.
	run, _ = s.waiting("org.lull.one", "3", func() {
		s.publish(app("org.lull.one", "3", ""), map[string]string{"app": forever})
	})
	// What an administrator has asked for is not ended by a refresh, asked for or due, nor
	// by a request that is refused.
	keeps := func(kind, noun string) {
		t.Helper()
		var path string
		s.Until("the "+kind+" waits", limit, func() (bool, string) {
			for _, o := range s.API.Objects("Refresh") {
				if o.Str("Instance") == "org.lull.one" && o.Str("Kind") == kind && o.Str("State") == "waiting" {
					path = string(o.Path)
				}
			}
			return path != "", ""
		})
		s.MustLull(kind, "--no-wait", "org.lull.one") // a second time
		s.refused(75, "cannot refresh org.lull.one: its "+noun+" was requested, and has not ended", "refresh", "--no-wait", "org.lull.one")
		s.refused(75, "cannot refresh org.lull.one: its "+noun+" was requested, and has not ended", "refresh", "--no-wait", "--atomic", "org.lull.one", "org.lull.two")
		s.Lull("refresh", "--no-wait") // of all; it reports the same
		s.refused(1, "cannot revert org.lull.one: revision 99 is not kept", "revert", "--no-wait", "--revision", "99", "org.lull.one")
		for _, o := range s.API.Objects("Refresh") {
			if string(o.Path) == path && o.Str("State") == "waiting" {
				return
			}
		}
		t.Errorf("the %s %s does not wait any more: %v", kind, path, s.API.Objects("Refresh"))
	}
	s.publish(app("org.lull.one", "4", ""), map[string]string{"app": forever})
	s.publish(app("org.lull.two", "2", ""), map[string]string{"app": forever})
	s.MustLull("revert", "--no-wait", "org.lull.one")
	keeps("revert", "revert")
	s.MustLull("remove", "--no-wait", "org.lull.one")
	keeps("remove", "removal")
	s.says("org.lull.one is already installed", "install", "org.lull.one")
	run.Stop()
	if _, there := s.API.Package("org.lull.one"); !there {
		t.Error("it was removed")
	}
	s.Until("the removal is cancelled", limit, func() (bool, string) {
		o, under := s.API.Refresh("org.lull.one", "")
		return !under || o.Str("Kind") != "remove" || o.Str("State") == "cancelled", o.Str("State")
	})
}

// TestRemoveDuringInstall: an installation is under way and goes on.
func TestRemoveDuringInstall(t *testing.T) {
	s := set(t, "")
	s.publish(app("org.lull.one", "1", ""), map[string]string{"app": forever})
	env, reached, open := s.gate()
	s.Begin(env, "LULL_FAULT=refresh.fetch.before:gate")
	install := s.Admin.StartLull(nil, "install", "org.lull.one")
	reached()
	s.refused(75, "cannot remove org.lull.one: it is being installed", "remove", "org.lull.one")
	s.refused(1, "cannot revert org.lull.one: it is not installed", "revert", "org.lull.one")
	open()
	if code, err := install.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("the installation ended with %d %v: %s; want no error and code 0", code, err, install.Log())
	}
	s.says("org.lull.one is removed", "remove", "org.lull.one")
}
