package launch

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/runname"
)

// tie opens the tether of the package that resolve has found. It shows the
// agent that the application runs wherever the process, or its children, are
// moved. The caller holds the launch lock. A service has none: a refresh stops
// it and does not wait for it. Error Busy: the package is being replaced,
// start over.
func (l *launch) tie() error {
	if l.Service != "" {
		return nil
	}
	fd, err := l.ctl.OpenTether(l.Instance, l.pkg.Short())
	switch {
	case errkind.Is(err, errkind.NotFound): // of an agent that makes none
		return nil
	case errors.Is(err, runctl.ErrSealed):
		return errkind.New(errkind.Busy, "it is being refreshed")
	case err != nil:
		return err
	}
	l.tether = fd
	// The lock may have been that of a file which the agent has replaced. The
	// package that was current before the tether was opened is still current
	// afterwards, or no refresh has begun.
	before := l.pkg
	if err := l.locate(); err != nil {
		return err
	}
	if l.pkg != before {
		return errkind.New(errkind.Busy, "it has just been refreshed")
	}
	return nil
}

// untie gives the tether back, for a launch that starts over.
func (l *launch) untie() {
	if l.tether >= 0 {
		unix.Close(l.tether)
		l.tether = -1
	}
}

// place is what has the process of a launch, by the unified hierarchy. Its end, its
// icon and its limits depend on that.
type place int

const (
	// unknown means that it has not been determined.
	unknown place = iota
	// nowhere is outside of all units, as in a container without systemd.
	nowhere
	// foreign is a unit that is not below the manager of the user who launches: a
	// session's scope, a system service with User=, cron, another user's terminal, a
	// container. Moved below the user's manager, the application would end with that
	// one at log-out, or outlive the service that has started it.
	foreign
	// own is below the manager of the user who launches.
	own
	// named is a unit below that manager which systemd or a desktop has made for this
	// very process, or is about to make.
	named
)

// placeOf finds the place of process pid of user uid. Named are:
//
//   - app-…-PID.scope, made by GNOME, KDE and others after the fork
//     (https://systemd.io/DESKTOP_ENVIRONMENTS);
//   - a scope or service in which no other process is, made by systemd-run --scope or by
//     KIO, for example, perhaps with limits; but no run of another application;
//   - a service whose main process this is: SYSTEMD_EXEC_PID, systemd.exec(5). KIO puts
//     that of its own process there;
//   - GIO_LAUNCHED_DESKTOP_FILE_PID, which GLib sets when it starts a desktop file
//     for a desktop that may follow with a scope.
//
// Directory top is where cgroup v2 is mounted.
func placeOf(top string, all []cgroup.Membership, uid, pid int, getenv func(string) string) place {
	self := strconv.Itoa(pid)
	if getenv("GIO_LAUNCHED_DESKTOP_FILE_PID") == self {
		return named
	}
	path := cgroup.Unified(all)
	parts := strings.Split(strings.Trim(path, "/"), "/")
	unit := parts[len(parts)-1]
	switch {
	case slices.Contains(parts, "user@"+strconv.Itoa(uid)+".service"):
		if strings.HasPrefix(unit, "app-") && strings.HasSuffix(unit, "-"+self+".scope") ||
			strings.HasSuffix(unit, ".service") && getenv("SYSTEMD_EXEC_PID") == self {
			return named
		}
		if _, _, run := runname.ParseScope(unit); !run && isUnit(unit) && alone(top+path) {
			return named
		}
		return own
	case slices.ContainsFunc(parts, isUnit):
		return foreign
	}
	return nowhere
}

// isUnit reports whether a group is that of a unit with processes. The group of PID 1 is not one.
func isUnit(name string) bool {
	return strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") && name != "init.scope"
}

// alone reports whether the group has no process but this one. A group that cannot be
// read, because of a namespace, for example, has others.
func alone(group string) bool {
	f, err := os.Open(group + "/cgroup.procs")
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 64)
	n, err := f.Read(b)
	return err == nil && bytes.Count(b[:n], []byte{'\n'}) == 1
}

// unifiedMount is where systemd mounts cgroup v2 where it is the only hierarchy.
const unifiedMount = "/sys/fs/cgroup"

// place finds where this process was at the beginning; without systemd it does not
// matter.
func (l *launch) place() place {
	if l.at == unknown {
		l.at = nowhere
		if l.settings.Tracker == "scope" {
			if all, err := cgroup.Of(0); err == nil {
				l.at = placeOf(unifiedMount, all, os.Getuid(), os.Getpid(), os.Getenv)
			}
		}
	}
	return l.at
}

// settled reports whether the process stays where it is, if it has a tether.
func (l *launch) settled() bool { return l.place() == named || l.place() == foreign }
