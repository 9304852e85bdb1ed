// Package runs knows what runs: it puts launches into cgroups and reads from
// cgroupfs which processes of an application are alive.
//
// Words: a run is one launch, a cgroup that carries the instance and the
// package hash in its name. An instance is busy while a process is in any run of its
// application, in whatever group below it; services have runs of their own and
// make nobody busy. A tracker is one way to keep runs:
//
//	freezer  groups in the v1 freezer hierarchy; the kernel calls lull-release-agent when one empties
//	subtree  groups below /lull in the unified hierarchy; cgroup.events tells by inotify
//	scope    transient scopes of systemd, made by the launcher; cgroup.events by inotify
//
// and where the kernel cannot tell, because there is no release agent or no
// inotify is left, they look once a second at what it does not tell of.
//
// What the kernel tells is a hint. The truth is read from cgroupfs each time it
// is asked for, and what cannot be read counts as running: Busy then returns an
// error. While the caller of Busy holds the write lock of the instance, the
// answer stays true until it lets go, because launches join under the read
// lock.
//
// A Tracker may be used from several goroutines. Its own goroutines end in
// Close. Place, Busy and what follows events exclude each other by one mutex
// per tracker; nothing waits under it but for the kernel.
package runs

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/cgroup"
	"github.com/lull/lull/agent/digest"
)

// Process is a process in a run.
type Process struct {
	PID     int    // 0: it is there, but in a PID namespace that cannot be seen from here
	UID     uint32 // the real user ID
	Command string // the kernel's name of it, at most 15 bytes; "" if it ended while it was looked at
}

// Run is a launch that has processes.
type Run struct {
	Instance      string
	PackagePrefix string // the first 16 digits of the package hash; "" for services that systemd started
	Service       string // "" for the application
	Cgroup        string // path in its hierarchy, as in /proc/PID/cgroup
	Processes     []Process
}

// Tracker is described above.
type Tracker interface {
	// Name is freezer, subtree or scope.
	Name() string
	// Events says for people how the end of a run is noticed.
	Events() string
	// Polls says that the kernel does not tell everything at the moment: the
	// tracker looks itself, and letting go of a launch lock makes no hint.
	Polls() bool
	// Runs lists the runs of applications and services that have processes.
	Runs() ([]Run, error)
	// Busy lists the processes of the instance's application. An error means
	// that they cannot be known, which callers treat as busy.
	Busy(instance string) ([]Process, error)
	// Place puts a process into a new run of the instance, or of one of its
	// services, and returns the path of its group. Pidfd refers to the process
	// and proves that pid is still the one that asked; -1 if the caller is its
	// parent. The caller of Place, or the process, holds the instance's read lock.
	Place(instance string, pkg digest.Digest, service string, pid, pidfd int) (cgroup string, err error)
	// ServiceProcs lists the processes of a service; of all, where service is "".
	ServiceProcs(instance, service string) ([]Process, error)
	// KillService kills all processes of a service (of all, where service is
	// "") and returns when none is left.
	KillService(instance, service string) error
	// Changes delivers the name of an instance after something of it has
	// started or ended, "" when anything may have. The hints of one instance
	// that nobody has received yet are one. It is closed by Close.
	Changes() <-chan string
	// Close ends the tracker; runs go on.
	Close() error
}

// Options are what Choose needs to know.
type Options struct {
	RunDir       string       // runctl lies below it
	Want         string       // auto (or ""), scope, freezer, subtree, poll-runctl, poll-procs (or poll)
	ReleaseAgent string       // path of lull-release-agent; "" if there is none
	UserMode     bool         // rootless: only the scopes of the agent's own user
	Log          *slog.Logger // nil: slog.Default()

	Layout *cgroup.Layout // the hierarchies to use; nil: those of this machine
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
				return p, fmt.Errorf("cannot understand the status of process %d: %w", pid, err)
			}
			p.UID, found = uint32(n), true
		}
	}
	if !found {
		return p, fmt.Errorf("cannot understand the status of process %d: it names no user", pid)
	}
	return p, nil
}

// Terminate asks processes to end (SIGTERM). Those that have ended already are
// no error.
func Terminate(processes []Process) error { return Signal(processes, syscall.SIGTERM) }

// Kill ends processes (SIGKILL). Those that have ended already are no error.
func Kill(processes []Process) error { return Signal(processes, syscall.SIGKILL) }
