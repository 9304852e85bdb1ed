package conformance

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/scopes"
	"github.com/lull/lull/agent/runs"
)

// Launch is a launch to make.
type Launch struct {
	Instance string
	Package  digest.Digest
	Service  string   // "" for the application
	Command  []string // ends when its standard input does; default: cat
	UID      uint32   // of an application; 0 means root
	Unreaped bool     // stays a zombie after its end, until Reap
}

// LaunchFunc starts a process and returns when it is in a run of its own. It may
// be called from several goroutines; when it fails it calls t.Errorf and
// returns a Proc that was ended.
type LaunchFunc func(t *testing.T, tr runs.Tracker, l Launch) *Proc

// Proc is a process in a run.
type Proc struct {
	PID int

	stdin io.WriteCloser
	out   io.ReadCloser
	once  sync.Once
	reap  chan struct{} // closed: it may be reaped
	ended chan struct{}
}

// Start runs the command of l, outside any run.
func Start(t *testing.T, l Launch) *Proc {
	if len(l.Command) == 0 {
		l.Command = []string{"cat"}
	}
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if l.UID != 0 {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: l.UID, Gid: l.UID}}
	}
	// Not cmd.StdinPipe and cmd.StdoutPipe: Wait would close them when the command
	// ends, under those that it has left behind. Only End is to.
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Errorf("cannot start %q: %v", l.Command, err)
		return dead()
	}
	r, w, err := os.Pipe()
	if err != nil {
		in.Close()
		stdin.Close()
		t.Errorf("cannot start %q: %v", l.Command, err)
		return dead()
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, w, os.Stderr
	err = cmd.Start()
	in.Close()
	w.Close()
	if err != nil {
		stdin.Close()
		r.Close()
		t.Errorf("cannot start %q: %v", l.Command, err)
		return dead()
	}
	p := &Proc{PID: cmd.Process.Pid, stdin: stdin, out: r, reap: make(chan struct{}), ended: make(chan struct{})}
	if l.Unreaped {
		t.Cleanup(p.Reap)
	} else {
		p.Reap()
	}
	go func() {
		defer close(p.ended)
		<-p.reap
		cmd.Wait() // reaped as soon as it ends, as a real parent would
	}()
	return p
}

// Reap lets a process go that was launched to stay a zombie.
func (p *Proc) Reap() {
	select {
	case <-p.reap:
	default:
		close(p.reap)
	}
}

func dead() *Proc {
	p := &Proc{reap: make(chan struct{}), ended: make(chan struct{})}
	close(p.ended)
	return p
}

// Signal sends a signal to the process. One that could not be started has the number 0,
// which means all processes of this one's group to the kernel.
func (p *Proc) Signal(s syscall.Signal) error {
	if p.PID == 0 {
		return unix.ESRCH
	}
	return unix.Kill(p.PID, s)
}

// End makes the process end, by closing its standard input, and waits for it
// unless it is stopped or ends later: tests wait for events.
func (p *Proc) End() {
	p.once.Do(func() {
		if p.stdin != nil {
			p.stdin.Close()
		}
		if p.out != nil {
			defer p.out.Close()
		}
		select {
		case <-p.ended:
		case <-time.After(grace):
		}
	})
}

// grace is how long End waits for a process that is not stopped.
const grace = 200 * time.Millisecond

// Kill is for those that do not end by themselves.
func (p *Proc) Kill() {
	if p.PID != 0 {
		unix.Kill(p.PID, unix.SIGKILL)
		p.Reap()
		<-p.ended
	}
}

// stop is End that leaves nothing behind, also after a test that has failed.
func (p *Proc) stop() {
	p.End()
	p.Reap()
	select {
	case <-p.ended:
	case <-time.After(grace):
		p.Kill()
	}
}

// await reads from the process until it has written text.
func (p *Proc) await(t *testing.T, text string) {
	t.Helper()
	b := make([]byte, len(text))
	if _, err := io.ReadFull(p.out, b); err != nil || string(b) != text {
		t.Fatalf("the process wrote %q, want %q: %v", b, text, err)
	}
}

// Placed launches for trackers whose Attach does it: freezer and subtree.
func Placed(t *testing.T, tr runs.Tracker, l Launch) *Proc {
	p := Start(t, l)
	if p.PID == 0 {
		return p
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		t.Errorf("cannot refer to process %d: %v", p.PID, err)
		p.Kill()
		return dead()
	}
	defer unix.Close(fd)
	if _, err := tr.Attach(l.Instance, l.Package, l.Service, p.PID, fd); err != nil {
		t.Error(err)
		p.Kill()
		return dead()
	}
	return p
}

// Scoped launches as the launcher does where systemd tracks: applications into
// scopes of the system's manager, services, which only systemd itself can
// start, into units by systemd-run.
func Scoped(t *testing.T, _ runs.Tracker, l Launch) *Proc {
	if l.Service != "" {
		return unit(t, l)
	}
	p := Start(t, l)
	if p.PID == 0 {
		return p
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := scopes.System(ctx)
	if err == nil {
		defer m.Close()
		err = m.Start(ctx, scopes.Scope{
			Name:        runname.Scope(l.Instance, l.Package, runname.Random()),
			Description: "a test of lull",
			PIDs:        []uint32{uint32(p.PID)},
		})
	}
	if err != nil {
		t.Error(err)
		p.Kill()
		return dead()
	}
	return p
}

// ScopedByUser is Scoped for an ordinary user who has a systemd manager, with
// or without a session: the user's processes make their scopes themselves.
// Others, whom a test names, have none. The program is a copy of this one that the user can
// execute.
func ScopedByUser(uid uint32, program string) LaunchFunc {
	return func(t *testing.T, tr runs.Tracker, l Launch) *Proc {
		if l.Service != "" || l.UID != 0 {
			return Scoped(t, tr, l)
		}
		if len(l.Command) == 0 {
			l.Command = []string{"cat"}
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		l.UID, l.Command = uid, slices.Clone(l.Command)
		for i, arg := range l.Command {
			if arg == self { // a helper
				l.Command[i] = program
			}
		}
		l.Command = slices.Concat([]string{
			"env", scopeEnv + "=" + runname.Scope(l.Instance, l.Package, runname.Random()),
			fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", uid), helperEnv + "=scoped", program,
		}, l.Command)
		p := Start(t, l)
		if p.PID == 0 {
			return p
		}
		const said = "scoped\n"
		b := make([]byte, len(said))
		if _, err := io.ReadFull(p.out, b); err != nil || string(b) != said {
			rest, _ := io.ReadAll(p.out)
			t.Errorf("user %d has no scope: %s%s", uid, b, rest)
			p.Kill()
			return dead()
		}
		waitFor(t, "the command is executed", func() bool {
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
			return err != nil || !strings.Contains(string(env), scopeEnv+"=") // no leader, no environment
		})
		return p
	}
}

// unit starts a service by systemd-run, which connects the unit's standard
// input and output to its own.
func unit(t *testing.T, l Launch) *Proc {
	command := l.Command
	if len(command) == 0 {
		command = []string{"cat"}
	}
	name := runname.ServiceUnit(l.Instance, l.Service)
	args := []string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", "--unit=" + name}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, helperEnv+"=") {
			args = append(args, "--setenv="+v)
		}
	}
	l.Command = append(args, command...)
	p := Start(t, l)
	if p.PID == 0 {
		return p
	}
	// The unit's process is not our child; systemd has its PID.
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		out, err := exec.Command("systemctl", "show", "--property=MainPID", "--value", name).Output()
		if pid := number(strings.TrimSpace(string(out))); err == nil && pid > 0 {
			p.PID = pid
			return p
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("systemd has not started %s", name)
	p.Kill()
	return dead()
}

// Wait waits for the end of the process.
func (p *Proc) Wait() { <-p.ended }
