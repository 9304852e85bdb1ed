package runs

import (
	"path"
	"strings"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runname"
)

// containerGroups are what the groups of container managers begin with: scopes, or groups
// without a unit.
var containerGroups = []string{"machine-", "libpod", "docker", "crio", "cri-containerd-", "lxc", "kubepods", "buildkit", "garden"}

// MayLeave returns why the agent is not to move a process out of the control group in
// which it is: that would free it of what confines it there, and the kernel or systemd
// would not let it go by itself. tracker is the name of the one that would move it.
//
// A process may leave a session, a run, and the root; one of root's also a scope of the
// system's. It may not leave a service unit (its limits, and that it ends with the
// service), be it that of the user's own systemd, which makes runs itself; another user's
// process not a scope of the system's, which root has made, perhaps with limits; none may
// leave a container, a group that is no unit on a machine with systemd, or a freezer group
// of others, which may be about to stop it. On a machine with cgroup v1 the freezer tracker
// takes nothing out of a service unit: systemd keeps units in hierarchies of its own.
func MayLeave(tracker string, pid int, uid uint32) error {
	all, err := cgroup.Of(pid)
	if err != nil {
		return errkind.New(errkind.Unavailable, "cannot track process %d: %w", pid, err)
	}
	own, err := cgroup.Of(0)
	if err != nil {
		return err
	}
	why := mayLeave(tracker, uid, all, own)
	if why == "" {
		return nil
	}
	return errkind.New(errkind.Unavailable, "cannot track process %d: it is in %s, and is not taken out of that", pid, why).
		WithHint("start it from a session, or as root in a scope of its own (systemd-run --scope); allow-untracked in the policy permits it here")
}

// mayLeave names what a process with the memberships all may not leave, or returns ""; own
// are the agent's.
func mayLeave(tracker string, uid uint32, all, own []cgroup.Membership) string {
	if tracker == "freezer" {
		at := cgroup.Freezer(all)
		first, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
		if _, _, ours := runname.ParseFreezerGroup(first); ours || at == "/" || at == "" || at == cgroup.Freezer(own) {
			return ""
		}
		return "the freezer group " + at
	}
	at := cgroup.Unified(all)
	if tracker == "scope" && (at == "" || at == "/") && cgroup.Systemd(all) != "" {
		at = cgroup.Systemd(all)
	}
	if at == "" || at == "/" || at == cgroup.Unified(own) && tracker == "subtree" {
		return ""
	}
	if strings.HasPrefix(at, "/..") {
		return "a container whose groups are not below ours"
	}
	parts := strings.Split(strings.TrimPrefix(at, "/"), "/")
	for _, p := range parts {
		for _, c := range containerGroups {
			if strings.HasPrefix(p, c) {
				return "the container " + p
			}
		}
	}
	// The nearest unit is the one that confines it. Groups below a unit are of
	// its own making: those of a service are as confined as it is.
	for i := len(parts) - 1; i >= 0; i-- {
		switch p := parts[i]; path.Ext(p) {
		case ".scope":
			for _, above := range parts[:i] {
				if path.Ext(above) == ".service" {
					return "the service unit " + above // one manager is below the other
				}
			}
			if tracker == "scope" && uid != 0 && parts[0] == "system.slice" {
				return "the scope " + p + ", which root has made"
			}
			return ""
		case ".service":
			return "the service unit " + p
		case ".slice":
			return ""
		}
	}
	if tracker == "scope" {
		return "the group " + at + ", which is no unit of systemd's"
	}
	return ""
}
