package userd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/texts/po"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/agentclient"
	"github.com/lull/lull/userd/desktop"
	"github.com/lull/lull/userd/fullscreen"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/session"
)

// Options are those of the command line.
type Options struct {
	Bus        string   // of the agent; empty means the system bus
	OwnBus     string   // of the user's own agent beside it; empty means that none is served
	SessionBus string   // empty means that of the environment
	LogindBus  string   // empty means the system bus
	Display    string   // of X; empty if none
	ExitUnless []string // the helper exits when it has nothing to do and none of these files exists; empty means never
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
	var sides []*side
	report := &reporter{tell: func(list []bus.HelperSession) { sessions(sides)(list) }}
	languages := &atomic.Pointer[[]string]{}
	languages.Store(new(po.Languages()))
	// event is for events of the desktop and of the session.
	event := func(e notify.Event) {
		idle.event("", e)
		switch e := e.(type) {
		case notify.Language:
			languages.Store(&e.Names)
		case notify.Disturb:
			report.disturb(e.No)
		case notify.LaunchWaits:
			sideOf(sides, e.Instance).take(ctx, e)
			return
		case notify.DataIncomplete:
			sideOf(sides, e.Instance).take(ctx, e)
			return
		}
		for _, d := range sides {
			d.take(ctx, e)
		}
	}
	common := shared{Options: o, screen: func() *desktop.Desktop { return screen }, idle: idle, present: &presence{}, languages: languages}
	addSide := func(name, address string) {
		var d *side
		d = newSide(name, address, common, func(e notify.Event) {
			idle.event(name, e)
			d.take(ctx, e)
		})
		sides = append(sides, d)
	}
	addSide(systemAgent, o.Bus)
	if o.OwnBus != "" {
		addSide(ownAgent, o.OwnBus)
	}
	defer func() {
		for _, d := range sides {
			d.close()
		}
	}()
	connected, err := desktop.Connect(ctx, desktop.Options{Address: o.SessionBus, Version: o.Version, Log: o.Log}, event)
	if err != nil {
		return err
	}
	screen = connected

	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	for _, d := range sides {
		d.run(ctx, &parts, common)
	}
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

	for _, d := range sides {
		answered := make(chan struct{})
		parts.Go(func() { _ = d.agent.Run(ctx, sync.OnceFunc(func() { close(answered) })) })
		await(ctx, answered)
	}
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
func launcherEnv(p agentclient.Places, address string) []string {
	var env []string
	for name, value := range map[string]string{"LULL_ROOT": p.Root, "LULL_RUN_DIR": p.RunDir, "LULL_BUS": address} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}
