// Package agent wires the system agent together and runs it: the lock of its root, the
// tracker, logind, the manager, the bus, and the service manager's protocol.
//
// The rooms below it run as root, but for lib, which all programs share, repo/publish,
// which is the packager's too, and convert/converter, which has no privileges. By floors, each of which imports lower ones
// alone:
//
//	lib; delta; authz, conditions, current, exports, failures, footprint, helpersfile, locks, logging,
//	logind, metrics, mounts, settings, state, store, vacancy; convert, metricsfile, repo, runs,
//	space; local, repositories, services; join, refresh, schedule, sysupdate; doctor, files,
//	holds, offers, repair, reports, roots; opener, requests, updater; manager; api
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/api"
	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/footprint"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/storeid"
	"github.com/lull/lull/agent/logind"
	"github.com/lull/lull/agent/manager"
	"github.com/lull/lull/agent/mounts"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/store"
	bus "github.com/lull/lull/dbus"
)

// Options are the flags of lulld.
type Options struct {
	Root         string // the store and all that lasts
	RunDir       string // what a reboot forgets
	Config       string // folder of policy.yaml, policy.d, repos.d
	BootID       string // file with a text that each boot has another of; "": the kernel's
	Bus          string // address; "": the system bus, or with User the session bus
	LogindBus    string // address; "": Bus, or with User the system bus
	User         bool   // rootless
	Tracker      string // auto or a tracker's name
	ReleaseAgent string // path of lull-release-agent
	Launcher     string // path of lull-run
	ReadyFD      int    // "READY\n" is written there when the bus name is taken; -1: nowhere
	Version      string
	Log          *slog.Logger
	Reload       <-chan os.Signal // SIGHUP
}

// connectTimeout bounds the dialling of the bus.
const connectTimeout = 10 * time.Second

// restAfter is how long nothing happens before memory is given back.
const restAfter = 5 * time.Second

// Run is the agent until ctx ends or the bus is lost.
func Run(ctx context.Context, o Options) (err error) {
	errkind.RememberSentences()
	for _, p := range []*string{&o.Root, &o.RunDir, &o.Config, &o.Launcher, &o.ReleaseAgent} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if err := storeid.CheckFormat(o.Root); err != nil {
		return err
	}
	if err := durable.MkdirAll(o.Root, 0o755); err != nil {
		return err
	}
	lock, err := store.LockRoot(o.Root)
	if err != nil {
		return err
	}
	defer lock.Close()
	ctl, err := runctl.Create(o.RunDir)
	if err != nil {
		return err
	}
	tracker, err := runs.Choose(runs.Options{RunDir: o.RunDir, Want: o.Tracker, ReleaseAgent: o.ReleaseAgent, UserMode: o.User, Log: o.Log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tracker.Close()) }()
	login := connectLogind(o)
	if login != nil {
		defer login.Close()
	}
	resting := footprint.New(restAfter, debug.FreeOSMemory)
	defer resting.Close()
	observer := api.NewObserver(resting.Touch)
	m, err := manager.New(manager.Config{
		Root: o.Root, Conf: o.Config, User: o.User, Launcher: o.Launcher, RunDir: o.RunDir, BootID: o.BootID, Bus: busForLaunchers(o),
		Runctl: ctl, Tracker: tracker, Logind: login, Sessions: observer.Sessions(), Log: o.Log,
		Conditions: func(changed func()) *conditions.Watcher { return watchConditions(o, changed) },
		Version:    o.Version, Boxed: mounts.Boxed(), Worked: resting.Touch, Reloading: func() func() { return reloading(o.Log) },
	}, observer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	server, err := bus.Serve(dialCtx, o.Bus, !o.User)
	cancel()
	if err != nil {
		return err
	}
	defer server.Close()
	server.OnCall(resting.Touch)
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	service, err := api.Serve(serveCtx, server, m, observer, authz.New(server.Conn(), uint32(os.Getuid())), o.Version, o.Log)
	if err != nil {
		stop()
		return err
	}
	defer service.Wait()
	defer stop()
	if err := m.Start(); err != nil {
		return err
	}
	service.ShowRefreshes()
	resting.Touch()
	if err := ready(o.ReadyFD); err != nil {
		return err
	}
	o.Log.Info("serving", messages.Key, messages.Serving, "root", o.Root, "tracker", tracker.Name(), "events", tracker.Events(), "version", o.Version)
	return loop(ctx, o, m, service, server)
}

func busForLaunchers(o Options) string {
	switch {
	case o.Bus != "":
		return o.Bus
	case o.User:
		return "session"
	}
	return "system"
}

// machineBus is the bus of logind, UPower and NetworkManager.
func machineBus(o Options) string {
	if o.LogindBus == "" && !o.User {
		return o.Bus
	}
	return o.LogindBus
}

// watchConditions counts the sessions of an agent's own user alone.
func watchConditions(o Options, changed func()) *conditions.Watcher {
	uid := -1
	if o.User {
		uid = os.Getuid()
	}
	return conditions.Watch(conditions.Options{Address: machineBus(o), UID: uid, Log: o.Log, Changed: changed})
}

func connectLogind(o Options) *logind.Logind {
	l, err := logind.Connect(machineBus(o), logind.WithLog(o.Log))
	if err != nil {
		o.Log.Warn("shutdown cannot be held off", messages.Key, messages.NoLocks, "error", err)
		return nil
	}
	return l
}

// ready notifies the service manager, and a test by a descriptor.
func ready(fd int) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("cannot notify the service manager that lulld is ready: %w", err)
	}
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "ready")
	_, err := f.WriteString("READY\n")
	return errors.Join(err, f.Close())
}

// loop serves until the end.
func loop(ctx context.Context, o Options, m *manager.Manager, service *api.Service, server *bus.Server) error {
	if every, err := daemon.SdWatchdogEnabled(false); err != nil {
		o.Log.Warn("the watchdog is not fed", "error", err)
	} else if every > 0 {
		watched, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		wg.Go(func() {
			feed(watched, every/2, service.Alive, func() {
				if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
					o.Log.Warn("cannot feed the watchdog", "error", err)
				}
			})
		})
	}
	for {
		select {
		case <-ctx.Done():
			o.Log.Info("stopping")
			_, err := daemon.SdNotify(false, daemon.SdNotifyStopping)
			return err
		case <-server.Closed():
			if ctx.Err() != nil {
				return nil
			}
			return errkind.New(errkind.Unavailable, "cannot go on: the bus is gone")
		case <-m.Outdated():
			return errkind.New(errkind.Unavailable, "cannot write %s, which the machine can by now: lulld must be restarted", o.Root)
		case <-o.Reload:
			_ = m.Reload() // the journal and the bus have its error
		}
	}
}

// feed tells the watchdog every so often that the agent lives, each time after
// alive has returned: what is stuck shall not look alive.
func feed(ctx context.Context, every time.Duration, alive func(context.Context) error, tell func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if alive(ctx) != nil {
			return // the agent ends
		}
		tell()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// reloading tells the service manager that the policy is being read again, and
// what it returns that this is over (sd_notify(3)). systemd wants to know when it
// has begun, because it counts the answer to the last signal only.
func reloading(log *slog.Logger) (over func()) {
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("cannot notify the service manager of a reload", "error", err)
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic("internal error: clock_gettime: " + err.Error()) // there is such a clock
	}
	tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	return func() { tell(daemon.SdNotifyReady) }
}

// MemoryTarget is what the runtime of a process with an agent keeps its memory below
// while it can, by collecting garbage earlier, in bytes. With the pages of the program
// that makes 64 MiB (docs/hardening.md).
const MemoryTarget = 48 << 20

// Processors is how many the runtime of a process with an agent should have. Most of
// what the agent does is to wait for the file system. A thread in a system call keeps
// its processor, in the runtime's sense, until the runtime's monitor retakes it, after up
// to ten milliseconds: with one for each CPU, and as many threads that make or delete
// files, none would be left to answer a call.
func Processors() int { return max(4*runtime.NumCPU(), 8) }
