// Package runs tracks running applications: it puts launches into cgroups and
// reads from cgroupfs which processes of an application are alive.
//
// Words: a run is one launch, a cgroup that carries the instance and the
// package hash in its name. An instance is busy while a process is in any run of its
// application, in any group below it; services have runs of their own and make
// no instance busy. A tracker is one way to keep runs:
//
//	freezer  groups in the v1 freezer hierarchy; the kernel calls lull-release-agent when one empties
//	subtree  groups below /lull in the unified hierarchy; cgroup.events by inotify
//	scope    transient scopes of systemd, made by the launcher; cgroup.events by inotify
//
// and if the kernel cannot report it, because there is no release agent or no
// inotify is left, they poll those parts once a second.
//
// A user controls the groups below the user's own manager: their names make
// that user run an application, and nothing else. They are read by descriptors
// and within bounds. If they cannot be read so, that user counts as running
// every application, and no other reading is affected.
//
// An event of the kernel is a hint. The state is read from cgroupfs on each
// query, and unreadable groups count as running: Busy then returns an error.
// While the caller of Busy holds the write lock of the instance, the answer
// stays true until the release, because launches join under the read lock.
//
// A Tracker may be used from several goroutines. Its own goroutines end in
// Close. Attach, Busy and what follows events exclude each other by one mutex
// per tracker; nothing waits under it but for the kernel.
package runs

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/digest"
)

// Process is a process in a run.
type Process struct {
	PID     int    // 0 if it is in a PID namespace that is invisible from here, or may be in groups that cannot be read
	UID     uint32 // the real user ID
	Command string // the kernel's name of it, at most 15 bytes; empty if it ended while it was read
}

// Perhaps reports whether p represents a user whose groups cannot be read, and
// who therefore counts as running the application.
func (p Process) Perhaps() bool { return p.PID == 0 && p.Command == unreadCommand }

// NoUID is the user ID that no user has: (uid_t)-1, chown(2).
const NoUID = 1<<32 - 1

// Unseen represents a process that uses a package by the kernel's word, and
// cannot be found among the processes that are visible from here: a process
// that ended a moment ago, a descriptor
// on its way between processes, a mount.
var Unseen = Process{UID: NoUID, Command: "unseen"}

// String names the process, as in "notes (pid 7, uid 1000)".
func (p Process) String() string { return p.Named("uid " + strconv.FormatUint(uint64(p.UID), 10)) }

// Named is String with other words for the user, as "user ann".
func (p Process) Named(user string) string {
	switch {
	case p == Unseen:
		return "something that cannot be seen from here"
	case p.Perhaps():
		return "perhaps a process in groups that cannot be read (" + user + ")"
	case p.PID == 0:
		return "a process of another PID namespace (" + user + ")"
	}
	return fmt.Sprintf("%s (pid %d, %s)", p.Command, p.PID, user)
}

// Run is a launch that has processes.
type Run struct {
	Instance      string
	PackagePrefix string // the first 16 digits of the package hash; "" for services that systemd started
	Service       string // "" for the application
	Session       bool   // below the manager of a user: names there are that user's word
	UID           uint32 // that user
	Cgroup        string // path in its hierarchy, as in /proc/PID/cgroup
	Processes     []Process
}

// Snapshot is what ran at one time, of all instances or of the services of one. A decision
// that an application does not run asks Busy instead.
type Snapshot struct {
	found  map[string]map[group][]Process // by instance
	unread []Unread
}

// Of is what Busy would have returned.
func (s *Snapshot) Of(instance string) []Process {
	return withUnread(flatten(s.found[instance], func(g group) bool { return !g.isSvc }), s.unread)
}

// Session is what SessionProcs would have returned.
func (s *Snapshot) Session(instance, service string) []Process {
	return flatten(s.found[instance], ofService(service, true))
}

// Service is what ServiceProcs would have returned.
func (s *Snapshot) Service(instance, service string) []Process {
	return flatten(s.found[instance], ofService(service, false))
}

// Tracker is described above.
type Tracker interface {
	// Name is freezer, subtree or scope.
	Name() string
	// Events describes how the end of a run is noticed.
	Events() string
	// Polls reports that the kernel does not report everything at the moment:
	// the tracker polls, and the release of a launch lock makes no hint.
	Polls() bool
	// Runs lists the runs of applications and services that have processes.
	Runs() ([]Run, error)
	// Snapshot reads what runs of all instances, in one pass.
	Snapshot() (*Snapshot, error)
	// Busy lists the processes of the instance's application. A user who is
	// Unread is among them with a process without PID. An error means that they
	// cannot be known, which callers treat as busy.
	Busy(instance string) ([]Process, error)
	// Attach puts a process into a new run of the instance, or of one of its
	// services, and returns the path of its group. Pidfd refers to the process
	// and proves that pid is still the one that asked; -1 if the caller is its
	// parent. The caller of Attach, or the process, holds the instance's read lock.
	Attach(instance string, pkg digest.Digest, service string, pid, pidfd int) (cgroup string, err error)
	// Unread lists the users whose groups cannot be read, or not within bounds.
	Unread() ([]Unread, error)
	// ServiceProcs lists the processes of a service; of all, where service is
	// "". It reads what the agent's own manager keeps: no name in the tree of a
	// user counts.
	ServiceProcs(instance, service string) ([]Process, error)
	// Services reads the processes of all services of an instance, those of users'
	// sessions among them, in one pass.
	Services(instance string) (*Snapshot, error)
	// KillService kills all processes of a service (of all, where service is
	// "") and returns when none is left.
	KillService(instance, service string) error
	// SessionProcs is ServiceProcs for services of users' sessions, which run
	// below the users' managers. Users who are Unread are left out.
	SessionProcs(instance, service string) ([]Process, error)
	// KillSession is KillService for those.
	KillSession(instance, service string) error
	// Changes delivers the name of an instance after something of it has
	// started or ended, "" when anything may have. The hints of one instance
	// that were not received yet are one. It is closed by Close.
	Changes() <-chan string
	// Close ends the tracker; runs go on.
	Close() error
}

// Options are the settings of Choose.
type Options struct {
	RunDir       string       // runctl lies below it
	Want         string       // auto (or ""), scope, freezer, subtree, poll-runctl, poll-procs (or poll)
	ReleaseAgent string       // path of lull-release-agent; "" if there is none
	UserMode     bool         // rootless: only the scopes of the agent's own user
	Log          *slog.Logger // nil means slog.Default()

	Layout *cgroup.Layout // the hierarchies to use; nil means those of this machine
}

// Describe looks up processes by their IDs; those that have ended are left out.
func Describe(pids []int) []Process {
	var list []Process
	for _, pid := range pids {
		if p, err := describe(pid); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// describe reads /proc/PID/status.
func describe(pid int) (Process, error) {
	p := Process{PID: pid}
	if pid == 0 {
		return p, nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return p, err
	}
	found := false
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
		switch key {
		case "Name":
			p.Command = value
		case "Uid":
			uid, _, _ := strings.Cut(value, "\t")
			n, err := strconv.ParseUint(uid, 10, 32)
			if err != nil {
				return p, fmt.Errorf("cannot parse the status of process %d: %w", pid, err)
			}
			p.UID, found = uint32(n), true
		}
	}
	if !found {
		return p, fmt.Errorf("cannot parse the status of process %d: it names no user", pid)
	}
	return p, nil
}

// Terminate asks processes to end (SIGTERM). Those that have ended already are
// no error.
func Terminate(processes []Process) error { return Signal(processes, syscall.SIGTERM) }

// Kill ends processes (SIGKILL). Those that have ended already are no error.
func Kill(processes []Process) error { return Signal(processes, syscall.SIGKILL) }
