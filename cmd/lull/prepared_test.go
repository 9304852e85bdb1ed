package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func TestPrepared(t *testing.T) {
	running := []bus.Process{{PID: 1, Command: "x"}}
	broken := func(p *bus.RefreshProperties) {
		p.State, p.ErrorName, p.ErrorText = "undone", errkind.Prefix+string(errkind.Failed), "cannot refresh org.x.app: it is sick"
	}
	done := func(p *bus.RefreshProperties) { p.State = "done" }
	for _, c := range []struct {
		name  string
		first bus.RefreshProperties
		held  bool
		steps []func(*bus.RefreshProperties)
		limit string
		id    string // not the one that the agent took up
		out   string // one line of stdout
		errs  string // one line of stderr, other than progress
	}{
		{name: "interrupted", first: bus.RefreshProperties{State: "critical", Step: "link"},
			steps: []func(*bus.RefreshProperties){func(p *bus.RefreshProperties) { p.Step = "health" }, done},
			out:   "org.x.app is refreshed from 1 to 2"},
		{name: "waits for nobody", first: bus.RefreshProperties{State: "waiting", Step: "wait"},
			steps: []func(*bus.RefreshProperties){func(p *bus.RefreshProperties) { p.State = "critical" }, done},
			out:   "org.x.app is refreshed from 1 to 2"},
		{name: "all but over", first: bus.RefreshProperties{State: "finishing", Step: "finish"},
			steps: []func(*bus.RefreshProperties){done}, out: "org.x.app is refreshed from 1 to 2"},
		{name: "undone", first: bus.RefreshProperties{State: "undoing", Step: "copy"},
			steps: []func(*bus.RefreshProperties){broken}, errs: "lull: cannot refresh org.x.app: it is sick"},
		{name: "somebody starts it", first: bus.RefreshProperties{State: "undoing", Step: "copy"},
			steps: []func(*bus.RefreshProperties){func(p *bus.RefreshProperties) { p.State, p.Waiting = "waiting", running }},
			out:   "org.x.app waits: it can be refreshed later"},
		{name: "over before anybody asked", first: bus.RefreshProperties{State: "undone", ErrorText: "cannot refresh org.x.app: it is sick"},
			errs: "lull: cannot refresh org.x.app: it is sick"},
		{name: "over long ago", first: bus.RefreshProperties{State: "done"}, id: "2"},
		{name: "running", first: bus.RefreshProperties{State: "waiting", Waiting: running}},
		{name: "held", first: bus.RefreshProperties{State: "waiting"}, held: true},
		{name: "downloading", first: bus.RefreshProperties{State: "preparing", Step: "fetch"}},
		{name: "takes too long", first: bus.RefreshProperties{State: "critical", Step: "health"}, limit: "2s",
			out: "org.x.app: the refresh goes on in the background (refresh 1)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startAgent(t)
			p := notes()
			p.Instance = "org.x.app"
			if c.held {
				p.HeldUntil = micro(time.Now().Add(time.Hour))
			}
			f.add(t, p)
			c.first.Kind, c.first.Instance, c.first.FromVersion, c.first.ToVersion = "refresh", "org.x.app", "1", "2"
			heard := make(chan struct{})
			if _, err := f.beginLater(heard, output.Either(c.id, "1"), c.first, c.steps...); err != nil {
				t.Fatal(err)
			}
			status := notifySocket(t)
			go func() {
				<-status // the first line: the command follows the refreshes
				close(heard)
				for range status {
				}
			}()
			if c.limit == "" {
				c.limit = "1m"
			}
			run := t.TempDir()
			if err := os.WriteFile(filepath.Join(run, "resumed"), []byte("7\n1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			code, out, errs := f.lull(t.Context(), "refresh", "--prepared", "--time-limit", c.limit, "--run-dir", run)
			if code != 0 || strings.TrimSpace(out) != c.out || c.errs != "" && !strings.Contains(errs, c.errs) || c.errs == "" && strings.Contains(errs, "lull: ") {
				t.Errorf("got exit status %d, output %q and error output %q; want status 0, output %q and %q in the error output (empty: no \"lull: \")", code, out, errs, c.out, c.errs)
			}
		})
	}
}

// notifySocket is the target of sd_notify; the channel has the messages.
func notifySocket(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	messages := make(chan string, 64)
	go func() {
		defer close(messages)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			messages <- string(buf[:n])
		}
	}()
	t.Cleanup(func() { conn.Close() })
	return messages
}

// The screens of a boot show the progress, with the application's own name.
func TestPreparedOnScreens(t *testing.T) {
	f := startAgent(t)
	p := notes()
	p.Title = "Notes\n\x1b[2J"
	f.add(t, p)
	status := notifySocket(t)
	log := filepath.Join(t.TempDir(), "plymouth.log")
	path := t.TempDir()
	script := "#!/bin/sh\nprintf '%s\\n' \"$*\" >> " + log + "\n"
	if err := os.WriteFile(filepath.Join(path, "plymouth"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path+":"+os.Getenv("PATH"))
	first := bus.RefreshProperties{Kind: "refresh", Instance: "org.example.notes", State: "critical", Step: "link", FromVersion: "1", ToVersion: "2"}
	var seen []string
	heard := make(chan struct{})
	if _, err := f.beginLater(heard, "1", first,
		func(p *bus.RefreshProperties) { p.Step = "health" },
		func(p *bus.RefreshProperties) { p.State = "done" }); err != nil {
		t.Fatal(err)
	}
	begun := make(chan string, 1)
	go func() {
		begun <- <-status
		close(heard)
	}()
	code, out, errs := f.lull(t.Context(), "refresh", "--prepared")
	if code != 0 || out != "org.example.notes is refreshed from 1 to 2\n" {
		t.Fatalf("got exit status %d with\n%s%swant 0 and output \"org.example.notes is refreshed from 1 to 2\\n\"", code, out, errs)
	}
	seen = append(seen, <-begun)
	name := "Refreshing Notes ?[2J: "
	want := []string{"STATUS=" + name + "switching over", "STATUS=" + name + "checking that it works", "STATUS="}
	for len(seen) < len(want) {
		seen = append(seen, <-status)
	}
	if !slices.Equal(seen, want) {
		t.Errorf("systemd is told %q, want %q", seen, want)
	}
	b, err := os.ReadFile(log)
	asked := "--ping\ndisplay-message --text=" + name + "switching over\ndisplay-message --text=" + name + "checking that it works\nhide-message --text=" + name + "checking that it works\n"
	if err != nil || string(b) != asked {
		t.Errorf("Plymouth is told\n%s(%v), want\n%s", b, err, asked)
	}
}

func TestPreparedWithoutAgent(t *testing.T) {
	f := startAgent(t)
	f.server.Close()
	if code, _, errs := f.lull(t.Context(), "refresh", "--prepared"); code != 69 || !strings.Contains(errs, "lull: cannot ") {
		t.Errorf("exit %d: %s; want code 69 and %q in the errs", code, errs, "lull: cannot ")
	}
	for _, args := range [][]string{{"org.x.app"}, {"--time-limit=0s"}, {"--wait"}, {"--cancel"}} {
		if code, _, _ := f.lull(t.Context(), append([]string{"refresh", "--prepared"}, args...)...); code != 64 {
			t.Errorf("%v: exit %d, want 64", args, code)
		}
	}
}
