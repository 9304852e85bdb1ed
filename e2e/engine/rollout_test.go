package engine_test

import (
	"strings"
	"testing"
)

// TestRollout: a machine outside of a rollout gets the version before, at install and at
// refresh; what it has beyond that it keeps.
func TestRollout(t *testing.T) {
	const name = "org.lull.rolling"
	s := set(t, "")
	publish := func(version string, flags ...string) {
		t.Helper()
		s.publishWith(flags, app(name, version, ""), map[string]string{"app": forever})
	}
	current := func(want string) {
		t.Helper()
		if o, _ := s.API.Package(name); o.Str("Version") != want {
			t.Errorf("version %s is current, want %s", o.Str("Version"), want)
		}
	}
	publish("1")
	publish("2", "--rollout", "0%@0h,100%@30d")
	s.Begin()
	s.MustLull("install", name)
	current("1")
	s.says(name+" 2 is left out: it is being rolled out, and has not reached this machine; --now takes it all the same", "refresh", name)
	current("1")
	s.MustLull("refresh", "--now", name)
	current("2")
	s.MustLull("refresh", name) // version 1 is no newer version
	current("2")

	// A repository that is converted meanwhile is followed.
	s.MustLull("repo", "resign", "--bins", s.Repo)
	publish("3", "--rollout", "0")
	publish("4", "--rollout", "0%@0h,100%@1s") // time alone lets it through
	s.Until("version 4 reaches this machine", limit, func() (bool, string) {
		r := s.Lull("refresh", name)
		o, _ := s.API.Package(name)
		return o.Str("Version") == "4", r.Stdout + r.Stderr
	})

	// A security update whose publisher gives it no rollout reaches all machines at once,
	// past another version that is halted.
	publish("5", "--rollout", "0")
	s.MustLull("channel", "halt", name, "--repo", s.Repo)
	publish("6", "--urgency", "security")
	s.MustLull("refresh", name)
	current("6")

	// Where no version reaches a machine, none is installed.
	const other = "org.lull.reserved"
	s.publishWith([]string{"--rollout", "0"}, app(other, "1", ""), map[string]string{"app": forever})
	s.refused(75, "cannot install "+other+": version 1 is being rolled out, and has not reached this machine", "install", other)
	s.MustLull("channel", "halt", other, "--repo", s.Repo, "--reason", "it crashes")
	s.refused(75, "cannot install "+other+": its publisher has halted version 1: it crashes", "install", other)
	s.MustLull("install", "--now", other)
}

// TestHalt: the publisher's halt reaches a machine with its next check, also where the
// version is prepared and waits; resume lets it go on, and promote ends the rollout. None
// of them needs the package's source.
func TestHalt(t *testing.T) {
	const name = "org.lull.haltable"
	s := set(t, "")
	s.Configure("policy.d/20-follows.yaml", "defaults: {auto-refresh: true}\n")
	publish := func(version string, flags ...string) {
		t.Helper()
		s.publishWith(flags, app(name, version, ""), map[string]string{"app": forever})
	}
	channel := func(verb string, more ...string) {
		t.Helper()
		s.MustLull(append([]string{"channel", verb, name, "--repo", s.Repo}, more...)...)
	}
	state := func(want string) {
		t.Helper()
		s.Until("the refresh to version 2 is "+want, limit, func() (bool, string) {
			o, _ := s.API.TryRefresh(name, "2")
			return o.Str("State") == want, o.Str("State")
		})
	}
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	run := s.User.StartLull(nil, "run", name)
	s.Until(name+" runs", limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	publish("2")
	state("waiting") // the agent has found it by itself
	channel("halt", "--reason", "it loses notes")
	state("cancelled")
	s.Until("the log has the reason", limit, func() (bool, string) {
		log := s.Agent().Log()
		return strings.Contains(log, "the publisher has halted a version") && strings.Contains(log, "it loses notes"), log
	})
	s.says(name+" 2 is left out: its publisher has halted it; --now takes it all the same", "refresh", name)
	if list := s.MustLull("refresh", "--list").Stdout; !strings.Contains(list, "left out: halted by its publisher") {
		t.Errorf("the list of updates: want %q, got\n%s", "left out: halted by its publisher", list)
	}
	channel("resume")
	state("waiting")
	channel("halt")
	state("cancelled")
	channel("resume")
	channel("promote")
	state("waiting")
	run.Stop()
	state("done")
}
