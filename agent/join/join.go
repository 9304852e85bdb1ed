// Package join admits launchers to runs where the agent must place them: it moves the process
// that a user's launcher has named into a cgroup of the instance, as root.
//
// So it believes the kernel alone: which process holds the launch lock, whose process it is,
// which package is current. A Joiner has no state; Join may be called from any goroutine, and
// blocks while a refresh has the lock.
package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/services"
)

// Joiner places the processes of launchers into runs.
type Joiner struct {
	Runctl   *runctl.Dir
	Tracker  runs.Tracker
	Links    current.Links
	Services services.Manager
}

// Join places a launcher's process, of the user uid, into a run of the instance. It holds the
// launch lock itself meanwhile, so that the guarantee does not depend on the caller.
//
// The PID may have been reused for another process since the caller connected, and a
// connection may be used by a process that has not made it. So the process to move must prove
// that it launches: it holds the instance's lock, and all its user IDs are the caller's.
// pidfd, which was opened before, is checked after that.
func (j *Joiner) Join(ctx context.Context, instance, pkg, service string, uid uint32, pid, pidfd int) (string, error) {
	if service != "" && !j.Services.Expects(pid, instance, service) {
		return "", errkind.New(errkind.NotPermitted, "cannot join service %s of %s: process %d was not started for it", service, instance, pid)
	}
	if service == "" {
		if err := j.launches(instance, uid, pid); err != nil {
			return "", err
		}
	}
	lock, err := j.Runctl.ReadLock(ctx, instance)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	word, err := j.Runctl.Inhibited(instance)
	if err != nil {
		return "", err
	}
	if word == runctl.RefreshInProgress || word != "" && service == "" {
		return "", errkind.New(errkind.Busy, "cannot start %s now: %s", instance, word)
	}
	rev, have, err := j.Links.Read(instance)
	if err != nil {
		return "", err
	}
	if have.String() != pkg {
		return "", errkind.New(errkind.Busy, "cannot start package %.16s of %s: revision %d, which is current, is %s", pkg, instance, rev, have.Short())
	}
	if err := faultpoint.Hit("join.before"); err != nil {
		return "", err
	}
	group, err := j.Tracker.Attach(instance, have, service, pid, pidfd)
	if err == nil {
		err = faultpoint.Hit("join.placed")
	}
	return group, err
}

// launches returns an error unless a process belongs to the user, launches the instance, and
// can be moved.
func (j *Joiner) launches(instance string, uid uint32, pid int) error {
	held, err := j.Runctl.HeldBy(instance, pid)
	if errors.Is(err, fs.ErrPermission) && uint64(uid) == uint64(os.Geteuid()) {
		// In a user namespace the agent cannot read a process of another one. Its own user
		// may move the same processes as the agent, with or without the lock.
		held, err = true, nil
	}
	if err != nil {
		return err
	}
	if !held {
		return errkind.New(errkind.NotPermitted, "cannot join a run of %s: process %d does not hold its launch lock", instance, pid).
			WithHint("lull run takes it; the agent moves nothing else")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return errkind.New(errkind.NotFound, "cannot join a run of %s: process %d has ended", instance, pid)
	}
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		for _, id := range strings.Fields(rest) { // real, effective, saved, file system: proc_pid_status(5)
			if id != strconv.FormatUint(uint64(uid), 10) {
				return errkind.New(errkind.NotPermitted, "cannot join a run of %s: process %d is not user %d's alone", instance, pid, uid)
			}
		}
		return runs.MayLeave(j.Tracker.Name(), pid, uid)
	}
	return errkind.New(errkind.NotPermitted, "cannot join a run of %s: it is not shown whose process %d is", instance, pid)
}
