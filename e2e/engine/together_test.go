package engine_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestAskedTogether: while a refresh waits, a newer version is published and requested by several
// commands and by the agent itself, which watches the directory. Each request finds the
// earlier refresh waiting, being given up, or replaced, and none is refused.
func TestAskedTogether(t *testing.T) {
	const name = "org.lull.wanted"
	s := set(t, "")
	s.Configure("policy.d/20-follows.yaml", "defaults: {auto-refresh: true}\n")
	publish := func(version string) { s.publish(app(name, version, ""), map[string]string{"app": forever}) }
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	s.waiting(name, "2", func() { publish("2") })
	for _, version := range []string{"3", "4", "5", "6"} {
		publish(version)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if r := s.Lull("refresh", "--no-wait", name); r.Code != 0 || !strings.Contains(r.Stdout, "waits for") {
					t.Errorf("version %s, got %v, want that it waits", version, r)
				}
			})
		}
		wg.Wait()
		s.UntilState(name, version, "waiting")
	}
	if log := s.Agent().Log(); strings.Contains(log, "cannot look for a newer version") {
		t.Errorf("a check of the agent's own was refused: want no %q in the log:\n%s", "cannot look for a newer version", log)
	}
}

// TestAskedInTheSection: a refresh that the agent has begun by itself is in its critical
// section, or downloads, when it is requested. The command follows it at once.
func TestAskedInTheSection(t *testing.T) {
	const name = "org.lull.followed"
	s := set(t, "")
	s.Configure("policy.d/20-follows.yaml", "defaults: {auto-refresh: true}\n")
	pipe := s.Path("pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	gate, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that no write waits for a reader
	if err != nil {
		t.Fatal(err)
	}
	release := func() {
		if _, err := gate.WriteString("x\n"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(release)
	daemon := "trap 'read -r _ <" + pipe + "; exit 0' TERM\nwhile :; do sleep 60 & wait $!; done"
	publish := func(version string) {
		t.Helper()
		s.publish(app(name, version, service+"    stop-timeout: 5m\n"), map[string]string{"app": "exit 0", "daemon": daemon})
	}
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	publish("2")
	s.Until("the service of version 1 is being stopped", limit, func() (bool, string) {
		o, err := s.API.TryRefresh(name, "2")
		return err == nil && o.Str("Step") == "stop-services", o.Str("Step")
	})
	follows := s.Admin.StartLull(nil, "refresh", name)
	s.Until("the command follows it", limit, func() (bool, string) {
		return strings.Contains(follows.Log(), name+": stopping services"), follows.Log()
	})
	release()
	if code, err := follows.Wait(t.Context(), limit); err != nil || code != 0 || !strings.Contains(follows.Log(), "is refreshed from 1 to 2") {
		t.Errorf("got %d, %v, want that it is refreshed:\n%s", code, err, follows.Log())
	}
}

// TestAskedAfterTheExit: an application is closed, and its refresh is requested at once. The
// answer is not that it still runs.
func TestAskedAfterTheExit(t *testing.T) {
	const name = "org.lull.closed"
	s := set(t, "")
	version := 1
	publish := func() {
		s.publish(app(name, strconv.Itoa(version), ""), map[string]string{"app": forever})
	}
	publish()
	s.Begin()
	s.MustLull("install", name)
	for range 12 {
		version++
		run, _ := s.waiting(name, strconv.Itoa(version), publish)
		run.Kill()
		if r := s.Lull("refresh", name); r.Code != 0 {
			t.Errorf("version %d: got %v, want that it is refreshed", version, r)
		}
		s.UntilState(name, strconv.Itoa(version), "done")
	}
}

// TestManyAtOnce: one command follows more refreshes than the agent keeps records of, and all
// of them end within moments.
func TestManyAtOnce(t *testing.T) {
	s := set(t, "")
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("org.lull.many%02d", i))
		s.publish(app(names[i], "1", ""), map[string]string{"app": "true"})
	}
	s.Begin()
	if r := s.Lull(append([]string{"install"}, names...)...); r.Code != 0 || strings.Count(r.Stdout, " is installed\n") != len(names) {
		t.Errorf("got %v, want that all %d are installed", r, len(names))
	}
	for _, name := range names {
		s.publish(app(name, "2", ""), map[string]string{"app": "true"})
	}
	if r := s.Lull("refresh"); r.Code != 0 {
		t.Errorf("got %v, want that all are refreshed", r)
	}
}
