package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// Command is a command that runs in a machine or a container. Its methods may be
// called from everywhere.
type Command struct {
	argv   []string
	signal func(syscall.Signal) // to its process group
	began  time.Time
	done   chan struct{}

	mu      sync.Mutex
	out     bytes.Buffer
	errOut  bytes.Buffer
	changed chan struct{} // closed when more was printed
	code    int
	err     error
	took    time.Duration
}

func newCommand(argv []string) *Command {
	return &Command{argv: argv, began: time.Now(), done: make(chan struct{}), changed: make(chan struct{})}
}

func (p *Command) print(to *bytes.Buffer, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	to.Write(data)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Command) end(code int, err error) {
	p.mu.Lock()
	p.code, p.err, p.took = code, err, time.Since(p.began)
	p.mu.Unlock()
	close(p.done)
}

// Done is closed when the command has ended, or its machine.
func (p *Command) Done() <-chan struct{} { return p.done }

func (p *Command) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Result is what is known so far.
func (p *Command) Result() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Result{Args: p.argv, Stdout: p.out.String(), Stderr: p.errOut.String(), Code: p.code, Took: p.took}
}

// Wait waits for the end of the command; the error is the reason for a missing exit
// status: the machine went off, or it took too long and got SIGKILL.
func (p *Command) Wait(ctx context.Context, limit time.Duration) (Result, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		return p.Result(), err
	case <-ctx.Done():
		return p.Result(), errStopped
	case <-timer.C:
		p.Signal(syscall.SIGKILL)
		return p.Result(), fmt.Errorf("it has not ended within %v", limit)
	}
}

// Until waits until what was printed satisfies cond, and returns it.
func (p *Command) Until(ctx context.Context, limit time.Duration, cond func(Result) bool) (Result, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		r := p.Result()
		if cond(r) {
			return r, nil
		}
		select {
		case <-changed:
		case <-p.done:
			if r := p.Result(); cond(r) {
				return r, nil
			}
			p.mu.Lock()
			err := p.err
			p.mu.Unlock()
			return p.Result(), fmt.Errorf("it has ended (%w)", errors.Join(err, fmt.Errorf("exit status %d", p.Result().Code)))
		case <-ctx.Done():
			return p.Result(), errStopped
		case <-timer.C:
			return p.Result(), fmt.Errorf("that has not happened within %v", limit)
		}
	}
}

// Signal sends a signal to the command's process group.
func (p *Command) Signal(s syscall.Signal) { p.signal(s) }
