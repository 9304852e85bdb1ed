package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// StartAgent starts lulld with the world's directories and buses and waits until
// it is ready. More environment (LULL_FAULT=…) may be given.
func (w *World) StartAgent(env ...string) *Proc {
	w.Helper()
	p, err := w.TryAgent(env...)
	if err != nil {
		w.Fatalf("%v", err)
	}
	return p
}

// Agent is the agent that was started last, or nil.
func (w *World) Agent() *Proc { return w.agent }

// StopAgent stops the agent in peace.
func (w *World) StopAgent() {
	w.Helper()
	w.agent.Stop()
}

// TryAgent is StartAgent for an agent that may die before it serves.
func (w *World) TryAgent(env ...string) (*Proc, error) {
	w.Helper()
	p, err := w.TryAgentWith(nil, env...)
	if p != nil {
		w.agent = p
	}
	return p, err
}

// TryAgentWith is TryAgent with more flags, for an agent beside that of the world.
func (w *World) TryAgentWith(flags []string, env ...string) (*Proc, error) {
	w.Helper()
	args := []string{"--root=" + w.Store, "--run-dir=" + w.RunDir, "--config=" + w.Config,
		"--launcher=" + filepath.Join(w.Bin, "lull-run"), "--release-agent=" + filepath.Join(w.Bin, "lull-release-agent"),
		"--ready-fd=3", "--log-level=debug"}
	if !w.System {
		args = append(args, "--bus="+w.Bus.Address)
	}
	switch {
	case w.System || w.Rootless:
		// logind is on the system bus, where lulld looks by itself
	case w.LogindBus() == "system":
		args = append(args, "--logind-bus="+systemBusAddress)
	case w.LogindBus() != "":
		args = append(args, "--logind-bus="+w.LogindBus())
	}
	if w.Tracker != "" {
		args = append(args, "--tracker="+w.Tracker)
	}
	if w.Rootless {
		args = append(args, "--user")
	}
	argv := slices.Concat(w.Below, []string{filepath.Join(w.Bin, "lulld")}, args, w.Flags, flags)
	return w.startReady(w.Admin, argv[0], argv[1:], env)
}

// StartHelper starts lull-userd in the user's session.
func (w *World) StartHelper() *Proc {
	w.Helper()
	args := []string{"--ready-fd=3"}
	if !w.System {
		args = append(args, "--bus="+w.Bus.Address, "--session-bus="+w.Session.Address)
	}
	p, err := w.startReady(w.User, "lull-userd", args, nil)
	if err != nil {
		w.Fatalf("%v", err)
	}
	return p
}

// startReady starts a program that writes a line to descriptor 3 when it is
// ready.
func (w *World) startReady(as *Actor, name string, args, env []string) (*Proc, error) {
	w.Helper()
	r, wr, err := os.Pipe()
	if err != nil {
		w.Fatalf("cannot start %s: %v", name, err)
	}
	p := as.StartWith(func(c *exec.Cmd) {
		c.ExtraFiles = []*os.File{wr}
		c.Env = append(c.Env, env...)
	}, name, args...)
	wr.Close()
	if _, err := readLine(w.Context(), r, p, 60*time.Second); err != nil {
		if w.Context().Err() != nil {
			w.Fatalf("%v", errStopped)
		}
		return p, err
	}
	return p, nil
}

// Lull runs the command line as the user of the agent.
func (w *World) Lull(args ...string) Result {
	w.Helper()
	return w.Admin.Lull(args...)
}

// MustLull is Lull for what must succeed.
func (w *World) MustLull(args ...string) Result {
	w.Helper()
	r := w.Lull(args...)
	if r.Code != 0 {
		w.Fatalf("%v", r)
	}
	return r
}

// Lull runs the command line as the actor.
func (a *Actor) Lull(args ...string) Result {
	a.w.Helper()
	if a.w.Rootless && !slices.Contains(args, "--user") {
		args = append([]string{"--user"}, args...)
	}
	return a.Run("lull", args...)
}

// StartLull starts a command of lull that goes on (run, open, monitor).
func (a *Actor) StartLull(prepare func(*exec.Cmd), args ...string) *Proc {
	a.w.Helper()
	if a.w.Rootless {
		args = append([]string{"--user"}, args...)
	}
	if prepare == nil {
		prepare = func(*exec.Cmd) {}
	}
	return a.StartWith(prepare, "lull", args...)
}

// OnTerminal runs a command of lull with a terminal of its own, by script(1), that
// can do nothing but print lines. On one with bars, see OnScreen.
func (a *Actor) OnTerminal(args ...string) *Proc { a.w.Helper(); return a.onTerminal("dumb", args) }

// OnScreen is OnTerminal with a terminal of 24 lines that can do more.
func (a *Actor) OnScreen(args ...string) *Proc { a.w.Helper(); return a.onTerminal("xterm", args) }

func (a *Actor) onTerminal(kind string, args []string) *Proc {
	a.w.Helper()
	if a.w.Rootless {
		args = append([]string{"--user"}, args...)
	}
	quoted := make([]string, 0, len(args)+1)
	for _, arg := range append([]string{filepath.Join(a.w.Bin, "lull")}, args...) {
		quoted = append(quoted, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	size := "" // none: script(1) has no terminal to copy it from
	if kind != "dumb" {
		size = "stty rows 24 cols 80; "
	}
	return a.StartWith(func(c *exec.Cmd) { c.Env = append(c.Env, "SHELL=/bin/sh", "TERM="+kind) },
		"script", "--quiet", "--flush", "--return", "--command", size+"exec "+strings.Join(quoted, " "), "/dev/null")
}

// Configure writes a file of the agent's configuration.
func (w *World) Configure(name, text string) {
	w.Helper()
	path := filepath.Join(w.Config, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.Fatalf("cannot write %s: %v", path, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.Fatalf("cannot write %s: %v", path, err)
	}
}

// Crash kills a process as a power cut would, and waits until it is gone.
func (p *Proc) Crash() {
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// Markers lists the files of the run-control directory, except the lock
// files, which are always there.
func (w *World) Markers() []string {
	var names []string
	entries, _ := os.ReadDir(filepath.Join(w.RunDir, "runctl"))
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") && !strings.HasSuffix(e.Name(), ".open") {
			names = append(names, e.Name())
		}
	}
	return names
}

// UntilNoMarkers waits until nothing runs or is held off.
func (w *World) UntilNoMarkers(limit time.Duration) {
	w.Helper()
	stop := w.watch(filepath.Join(w.RunDir, "runctl"))
	defer stop()
	w.Until("no marker is left", limit, func() (bool, string) {
		left := w.Markers()
		return len(left) == 0, strings.Join(left, " ")
	})
}
