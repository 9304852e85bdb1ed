package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// grace is how long a process may take to end when it is asked to.
const grace = 8 * time.Second

// Proc is a process that the rig has started.
type Proc struct {
	Name string
	PID  int

	tb   TB
	cmd  *exec.Cmd
	log  string // file with what it has printed
	done chan struct{}

	mu      sync.Mutex
	stopped bool // it was asked to end
}

// start runs cmd in a process group of its own that dies with the rig; what
// it prints goes to a file below logs, unless the caller has redirected it.
func start(tb TB, logs, name string, cmd *exec.Cmd) *Proc {
	tb.Helper()
	f, err := os.CreateTemp(logs, name+"-*.log")
	if err != nil {
		tb.Fatalf("cannot start %s: %v", name, err)
	}
	defer f.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	if cmd.Stderr == nil {
		cmd.Stderr = f
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start %s: %v", name, err)
	}
	p := &Proc{tb: tb, Name: name, PID: cmd.Process.Pid, cmd: cmd, log: f.Name(), done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
		if w, ok := tb.(*World); ok {
			w.wake()
		}
	}()
	tb.Cleanup(func() {
		p.Stop()
		if tb.Failed() || os.Getenv("LULL_LOGS") != "" {
			text, stack, _ := strings.Cut(p.Log(), "SIGQUIT: quit")
			tb.Logf("--- %s, last lines:\n%s", name, tail(text, 40))
			if stack != "" {
				tb.Logf("--- %s was waiting in:\n%s", name, ours(stack))
			}
		}
	})
	return p
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Ended reports whether the process has ended.
func (p *Proc) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process alone.
func (p *Proc) Signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// Stop asks the process to end, and makes it after a while; it returns when
// the process has ended and nothing of its group is left.
func (p *Proc) Stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	if !p.Ended() {
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(grace):
			p.tb.Logf("%s (process %d) has not ended within %v of SIGTERM; it is made to", p.Name, p.PID, grace)
			p.Signal(syscall.SIGQUIT) // a Go program then prints what it waits for
			select {
			case <-p.done:
			case <-time.After(time.Second):
			}
		}
	}
	p.Kill()
}

// Kill ends the process and its group at once.
func (p *Proc) Kill() {
	syscall.Kill(-p.PID, syscall.SIGKILL)
	<-p.done
}

// Wait waits for the process to end by itself and returns its exit status.
func (p *Proc) Wait(ctx context.Context, limit time.Duration) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, errStopped
	case <-time.After(limit):
		return 0, fmt.Errorf("%s has not ended within %v", p.Name, limit)
	}
}

// Log returns what the process has printed so far.
func (p *Proc) Log() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// Result is how a command has ended.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int
	Took   time.Duration
}

// Text is the whole output.
func (r Result) Text() string { return r.Stdout + r.Stderr }

// String shows the command and how it ended.
func (r Result) String() string {
	return fmt.Sprintf("$ %s\n%s%s(exit status %d after %v)", strings.Join(r.Args, " "), r.Stdout, r.Stderr, r.Code, r.Took.Round(time.Millisecond))
}

// run waits for a command that is expected to end soon.
func run(ctx context.Context, limit time.Duration, cmd *exec.Cmd) (Result, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = time.Second
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	var err error
	select {
	case <-over:
	case <-ctx.Done():
		err = errStopped
	case <-time.After(limit):
		err = fmt.Errorf("it has not ended within %v", limit)
	}
	if err != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-over
	}
	args := append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...)
	return Result{Args: args, Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode(), Took: time.Since(began)}, err
}

// readLine reads the first line that arrives on a descriptor which a child
// writes to; the caller has closed its own copy of the other end.
func readLine(ctx context.Context, r *os.File, p *Proc, limit time.Duration) (string, error) {
	line := make(chan string, 1)
	go func() {
		var all []byte
		buf := make([]byte, 512)
		for {
			n, err := r.Read(buf)
			all = append(all, buf[:n]...)
			if i := bytes.IndexByte(all, '\n'); i >= 0 || err != nil {
				if i >= 0 {
					all = all[:i]
				}
				line <- string(all)
				return
			}
		}
	}()
	defer r.Close()
	select {
	case s := <-line:
		if s == "" {
			return "", fmt.Errorf("%s ended before it was ready:\n%s", p.Name, tail(p.Log(), 20))
		}
		return s, nil
	case <-ctx.Done():
		return "", errStopped
	case <-time.After(limit):
		return "", fmt.Errorf("%s is not ready after %v:\n%s", p.Name, limit, tail(p.Log(), 20))
	}
}

// ours keeps of a dump of all goroutines the lines that are about lull.
func ours(stack string) string {
	var b strings.Builder
	for line := range strings.Lines(stack) {
		if strings.HasPrefix(line, "github.com/lull/") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// tail returns the last n lines of a text, and no more than a screen or two.
func tail(s string, n int) string {
	s = s[max(0, len(s)-8000):]
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
