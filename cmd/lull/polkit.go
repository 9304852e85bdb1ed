package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

// passwordVerbs are the commands that may need a password for polkit: see docs/rights.md.
var passwordVerbs = []string{
	"lull install", "lull remove", "lull switch", "lull refresh", "lull revert", "lull hold", "lull unhold", "lull gc", "lull verify", "lull search",
	"lull run", "lull repo add", "lull repo set-url", "lull repo remove", "lull policy reload", "lull system stage", "lull system commit", "lull system rollback",
}

// readingFlags make a command of passwordVerbs read-only.
var readingFlags = []string{"list", "dry-run", "prepared"}

// asksPassword reports whether a password can be requested on this terminal, for a user who
// may need one. root needs none, and a user's own agent does not use polkit.
func (a *app) asksPassword(cmd *cobra.Command, euid int) bool {
	in, isFile := a.stdin.(*os.File)
	if a.noAsk || a.user || euid == 0 || !isFile || !term.IsTerminal(int(in.Fd())) || !slices.Contains(passwordVerbs, cmd.CommandPath()) {
		return false
	}
	for _, name := range readingFlags {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			return false
		}
	}
	for command, flag := range map[string]string{"lull run": "ephemeral", "lull search": "check"} {
		if cmd.CommandPath() == command {
			return cmd.Flags().Changed(flag)
		}
	}
	return true
}

// agentTime bounds the start of pkttyagent.
const agentTime = 5 * time.Second

// refusalTime is how long an interrupted command waits for the answer to a call that may have
// waited for a password.
const refusalTime = 5 * time.Second

// patient returns a context for a call that may wait for a password. After an interruption
// the agent on the terminal ends, polkit refuses the call, and its answer shows what has
// become of it. Without an agent on the terminal it is ctx.
func (a *app) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.endQuestion == nil {
		return ctx, func() {}
	}
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		a.endQuestion()
		enough := time.NewTimer(refusalTime)
		defer enough.Stop()
		select {
		case <-enough.C:
			cancel()
		case <-call.Done():
		}
	})
	return call, func() {
		stop()
		cancel()
	}
}

// unanswered replaces the refusal of a call that was interrupted at the question for a
// password.
func (a *app) unanswered(ctx context.Context, err error) error {
	if a.endQuestion == nil || ctx.Err() == nil || !errkind.Is(err, errkind.NotPermitted) {
		return err
	}
	return output.Error(errkind.Interrupted, "cannot go on: interrupted at the question for a password").WithHint("nothing happens without the password")
}

// startPasswordAgent starts pkttyagent(1), as systemctl(1) does. It requests passwords on
// this terminal while this process runs, unless an agent of the desktop does. If it cannot be
// started, the call that needs a password is refused, with a hint. It returns the function
// that ends it, once, from any goroutine.
func (a *app) startPasswordAgent(in *os.File) (stop func()) {
	none := func() {}
	path, err := exec.LookPath("pkttyagent")
	if err != nil {
		return none
	}
	ready, w, err := os.Pipe()
	if err != nil {
		return none
	}
	defer ready.Close()
	c := exec.Command(path, "--notify-fd", "3", "--fallback") // for the process that starts it
	c.Stdin, c.ExtraFiles = in, []*os.File{w}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if a.bus != "" {
		c.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+a.bus)
	}
	state, stateErr := term.GetState(int(in.Fd()))
	err = c.Start()
	w.Close()
	if err != nil {
		return none
	}
	// It closes the pipe when it is registered, or by its end.
	if ready.SetReadDeadline(time.Now().Add(agentTime)) == nil {
		_, _ = io.Copy(io.Discard, ready)
	}
	return sync.OnceFunc(func() {
		_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = c.Wait()
		if stateErr == nil { // a password that was not typed leaves the echo off
			_ = term.Restore(int(in.Fd()), state)
		}
	})
}
