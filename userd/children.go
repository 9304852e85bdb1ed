package userd

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/lull/lull/userd/queue"
	"github.com/lull/lull/userd/restart"
)

// children restarts applications, runs the hooks that ask them to quit, and
// reaps both. An application that
// outlives the helper is inherited by init.
type children struct {
	again  *restart.Again
	env    func() []string // more environment for the launcher
	log    *slog.Logger
	launch *queue.Box[string]
	hooks  *queue.Box[child]
}

// child is a process of ours.
type child struct {
	instance string
	pid      int
}

func newChildren(env func() []string, log *slog.Logger) *children {
	c := &children{env: env, log: log, launch: queue.New[string](), hooks: queue.New[child]()}
	c.again = restart.New(log, env, func(instance string, hook *os.Process) {
		c.hooks.Put(child{instance, hook.Pid})
		_ = hook.Release() // reaped by number, below
	})
	return c
}

// run serves until the context ends.
func (c *children) run(ctx context.Context) {
	exits := make(chan os.Signal, 1)
	signal.Notify(exits, syscall.SIGCHLD)
	defer signal.Stop(exits)
	living := map[int]string{} // the instance by pid
	hooks := map[int]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.launch.C():
			for _, instance := range c.launch.Take() {
				started, err := c.again.Launch(instance, c.env()...)
				if err != nil {
					c.log.Warn("cannot restart an application", "instance", instance, "error", err)
				}
				for _, p := range started {
					c.log.Info("restarted an application", "instance", instance, "pid", p.Pid)
					living[p.Pid] = instance
					_ = p.Release() // reaped by number, below
				}
			}
		case <-c.hooks.C():
			for _, h := range c.hooks.Take() {
				living[h.pid], hooks[h.pid] = h.instance, true
			}
		case <-exits:
		}
		for pid, instance := range living {
			var status syscall.WaitStatus
			if got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); got == 0 && err == nil {
				continue
			}
			hook := hooks[pid]
			delete(living, pid)
			delete(hooks, pid)
			if hook {
				c.log.Info("a hook has asked an application to quit", "instance", instance, "pid", pid, "status", status.ExitStatus())
				continue
			}
			if status.ExitStatus() != 0 {
				c.log.Warn("a restarted application has failed", "instance", instance, "status", status.ExitStatus())
			}
		}
	}
}
