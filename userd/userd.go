package userd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/texts"
	"github.com/lull/lull/agent/lib/wallclock"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/agentclient"
	"github.com/lull/lull/userd/desktop"
	"github.com/lull/lull/userd/fullscreen"
	"github.com/lull/lull/userd/logout"
	"github.com/lull/lull/userd/migrate"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/pendinghook"
	"github.com/lull/lull/userd/restart"
	"github.com/lull/lull/userd/services"
	"github.com/lull/lull/userd/session"
	"github.com/lull/lull/userd/sessionjobs"
)

// Options are those of the command line.
type Options struct {
	Bus        string // of the agent; empty means the system bus
	SessionBus string // empty means that of the environment
	LogindBus  string // empty means the system bus
	Display    string // of X; empty if none
	ExitUnless string // the helper exits when it has nothing to do and this file does not exist; empty means never
	ExitAfter  time.Duration
	Ready      *os.File
	Version    string
	Log        *slog.Logger
}

// Run is the helper until the context or the session ends. It takes all its
// notices down on the way out.
func Run(ctx context.Context, o Options) error {
	asked := ctx // ends when the caller wants the helper to end
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var screen *desktop.Desktop
	idle := newIdler(o.ExitUnless, o.ExitAfter, func(none func()) { screen.Do(desktop.Call{Do: noServer(none)}) }, func() { cancel(errIdle) })
	defer idle.close()
	var agent *agentclient.Relay
	report := &reporter{tell: func(list []bus.HelperSession) { agent.SetSessions(list) }}
	events := make(chan notify.Event)
	event := func(e notify.Event) {
		idle.event(e)
		if d, ok := e.(notify.Disturb); ok {
			report.disturb(d.No)
		}
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	connected, err := desktop.Connect(ctx, desktop.Options{Address: o.SessionBus, Version: o.Version, Log: o.Log}, event)
	if err != nil {
		return err
	}
	screen = connected
	units := services.New()
	defer units.Close()
	worker := sessionjobs.New(counted{units, idle}, counted{migrate.Hands{}, idle}, func(order sessionjobs.Order, err error) { agent.Do(agentclient.WorkDone{Order: order, Err: err}) }, o.Log)
	agent = agentclient.New(agentclient.Options{Address: o.Bus, Log: o.Log, Version: o.Version, Here: here(sessionBus(o.SessionBus)), Look: restart.Look, App: restart.App, Work: func(order sessionjobs.Order) {
		idle.ordered()
		worker.Give(order)
	}}, event)
	kids := newChildren(func() []string { return launcherEnv(agent.Places(), o) }, o.Log)
	ends := kids.again
	hooks := pendinghook.New(func() []string { return launcherEnv(agent.Places(), o) }, o.Log)
	defer ends.Close()
	mem := newMemory(sessionBus(o.SessionBus), o.Log)
	core := notify.New(notify.DefaultSchedule, time.Local, mem.read())
	core.Texts = texts.FromEnvironment("lull-userd")

	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	parts.Go(func() {
		loop(ctx, core, events, wallclock.New, edges{
			agent:   func(f notify.Effect) { agent.Do(f) },
			desktop: func(c any) { idle.desktop(c); screen.Do(c) },
			quit: func(p notify.Pending) {
				screen.Do(desktop.Call{Do: func(ctx context.Context, conn *dbus.Conn) { ends.Quit(ctx, conn, p) }})
			},
			offered: func() {
				screen.Do(desktop.Call{Do: func(ctx context.Context, conn *dbus.Conn) {
					event(notify.LogOutOffered{Yes: logout.Offered(ctx, conn)})
				}})
			},
			logOut: func() {
				screen.Do(desktop.Call{Do: func(ctx context.Context, conn *dbus.Conn) {
					if err := logout.Ask(ctx, conn); err != nil {
						o.Log.Warn("the desktop cannot be asked to log out", "error", err)
					}
				}})
			},
			hook:     hooks.Put,
			launch:   kids.launch.Put,
			forget:   ends.Forget,
			remember: mem.write,
		})
	})
	parts.Go(func() { kids.run(ctx) })
	parts.Go(func() { hooks.Run(ctx) })
	parts.Go(func() { worker.Run(ctx) })
	parts.Go(func() {
		if err := screen.Run(ctx); err != nil {
			cancel(err)
		}
	})

	// The state of the screen, locked or filled by a window, must be known
	// before the agent is queried for notices.
	seen := make(chan struct{})
	parts.Go(func() {
		first := sync.OnceFunc(func() { close(seen) })
		defer first()
		if o.Display == "" {
			return
		}
		err := fullscreen.Watch(ctx, o.Display, func(yes bool) {
			event(notify.Fullscreen{Yes: yes})
			first()
		})
		if ctx.Err() == nil { // not seen is as good as not there
			o.Log.Info("cannot watch any more whether a window fills the screen", "error", err)
			event(notify.Fullscreen{})
		}
	})
	known := make(chan struct{})
	first := sync.OnceFunc(func() { close(known) })
	parts.Go(func() {
		_ = session.Run(ctx, o.LogindBus, o.Log, func(s session.State) {
			screen.Do(desktop.SessionLocked{Yes: s.Known && s.Locked})
			report.stand(s.Sessions)
			event(notify.Locked{Yes: s.Away()})
			event(notify.Unused{Yes: s.Unused()})
			if s.Woke {
				event(notify.Tick{})
			}
			first()
		})
	})
	await(ctx, known)
	await(ctx, seen)

	answered := make(chan struct{})
	parts.Go(func() { _ = agent.Run(ctx, sync.OnceFunc(func() { close(answered) })) })
	await(ctx, answered)
	if ctx.Err() == nil {
		o.Log.Info("ready")
		if err := sayReady(o.Ready); err != nil {
			o.Log.Warn("cannot report that the helper is ready", "error", err)
		}
	}
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	if asked.Err() != nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), errIdle) {
		o.Log.Info("nothing is pending, so the helper exits; it is restarted when something is")
		return nil
	}
	return fmt.Errorf("cannot go on: %w", context.Cause(ctx))
}

// noServer calls none if there is no notification server on the session bus.
func noServer(none func()) func(context.Context, *dbus.Conn) {
	return func(ctx context.Context, conn *dbus.Conn) {
		there := true
		err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.Notifications").Store(&there)
		if err == nil && !there {
			none()
		}
	}
}

func await(ctx context.Context, c <-chan struct{}) {
	select {
	case <-c:
	case <-ctx.Done():
	}
}

// sayReady notifies the parent of the helper: systemd, and the reader of the
// descriptor that --ready-fd names.
func sayReady(f *os.File) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	if f == nil {
		return nil
	}
	_, err := f.WriteString("READY\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// launcherEnv has the variables that lead the launcher to the agent's directories.
func launcherEnv(p agentclient.Places, o Options) []string {
	var env []string
	for name, value := range map[string]string{"LULL_ROOT": p.Root, "LULL_RUN_DIR": p.RunDir, "LULL_BUS": o.Bus} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}
