package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/rig/wire"
)

const vmPort = wire.Port

// errOff is why a command in a machine ended without an exit status.
var errOff = errors.New("the machine went off")

// vmLink is the connection to one life of a machine.
type vmLink struct {
	conn net.Conn
	gone chan struct{} // closed when nothing comes any more

	sending sync.Mutex

	mu    sync.Mutex
	next  int
	procs map[int]*Command
}

// accept waits for the hello of the machine that was just switched on.
func (vm *VM) accept() (*vmLink, error) {
	type reply struct {
		conn net.Conn
		err  error
	}
	replies := make(chan reply, 1)
	ctx, cancel := context.WithTimeout(vm.tb.Context(), bootLimit)
	defer cancel()
	vm.listen.SetDeadline(time.Time{})
	go func() {
		conn, err := vm.listen.Accept()
		replies <- reply{conn, err}
	}()
	stop := func(err error) (*vmLink, error) {
		vm.listen.SetDeadline(time.Unix(1, 0))
		if r := <-replies; r.conn != nil {
			r.conn.Close()
		}
		return nil, err
	}
	var conn net.Conn
	select {
	case r := <-replies:
		if r.err != nil {
			return nil, r.err
		}
		conn = r.conn
	case <-vm.proc.Done():
		return stop(errOff)
	case <-ctx.Done():
		return stop(ctx.Err())
	}
	l := &vmLink{conn: conn, gone: make(chan struct{}), procs: map[int]*Command{}}
	hello := make(chan struct{})
	go l.read(hello)
	select {
	case <-hello:
		return l, nil
	case <-l.gone:
		return nil, errOff
	case <-ctx.Done():
		l.close()
		return nil, ctx.Err()
	}
}

func (l *vmLink) close() {
	l.conn.Close()
	<-l.gone
}

// read distributes the machine's messages.
func (l *vmLink) read(hello chan struct{}) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range l.procs {
			p.end(-1, errOff)
		}
		l.procs = nil
		close(l.gone)
	}()
	r := bufio.NewReaderSize(l.conn, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		var m wire.Message
		if err != nil || json.Unmarshal(line, &m) != nil {
			l.conn.Close()
			return
		}
		if m.Kind == wire.Hello {
			close(hello)
			continue
		}
		l.mu.Lock()
		p := l.procs[m.ID]
		if m.Kind == wire.Exit {
			delete(l.procs, m.ID)
		}
		l.mu.Unlock()
		switch {
		case p == nil:
		case m.Kind == wire.Out:
			p.print(&p.out, m.Data)
		case m.Kind == wire.Err:
			p.print(&p.errOut, m.Data)
		case m.Kind == wire.Exit && m.Text != "" && m.Code < 0:
			p.end(m.Code, errors.New(m.Text))
		case m.Kind == wire.Exit:
			p.end(m.Code, nil)
		}
	}
}

func (l *vmLink) send(m wire.Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	_, err = l.conn.Write(append(b, '\n'))
	return err
}

// VMCommand is a command for a machine, run as root.
type VMCommand struct {
	Argv  []string
	Env   []string // besides PATH, LANG, HOME and USER
	Dir   string
	Stdin []byte // followed by the end of input
}

// Begin starts a command that goes on.
func (vm *VM) Begin(c VMCommand) *Command {
	l := vm.link
	p := newCommand(c.Argv)
	l.mu.Lock()
	l.next++
	id := l.next
	off := l.procs == nil
	if !off {
		l.procs[id] = p
	}
	l.mu.Unlock()
	p.signal = func(s syscall.Signal) {
		// If the machine is off, it has ended already.
		_ = l.send(wire.Message{Kind: wire.Signal, ID: id, Code: int(s)})
	}
	if off {
		p.end(-1, errOff)
		return p
	}
	err := l.send(wire.Message{Kind: wire.Start, ID: id, Argv: c.Argv, Env: c.Env, Dir: c.Dir})
	const chunk = 32 << 10
	for in := c.Stdin; err == nil && len(in) > 0; in = in[min(chunk, len(in)):] {
		err = l.send(wire.Message{Kind: wire.Input, ID: id, Data: in[:min(chunk, len(in))]})
	}
	if err == nil {
		err = l.send(wire.Message{Kind: wire.EOF, ID: id})
	}
	if err != nil {
		l.conn.Close() // then everything ends
	}
	return p
}

// Start starts a command that goes on.
func (vm *VM) Start(argv ...string) *Command { return vm.Begin(VMCommand{Argv: argv}) }

// Run runs a command to its end.
func (vm *VM) Run(argv ...string) Result {
	vm.tb.Helper()
	return vm.RunWithin(vmLimit, argv...)
}

// RunWithin runs a command that must end within a time.
func (vm *VM) RunWithin(limit time.Duration, argv ...string) Result {
	vm.tb.Helper()
	r, err := vm.Start(argv...).Wait(vm.tb.Context(), limit)
	if err != nil {
		vm.tb.Fatalf("cannot run %s in the machine: %v\n%v\n%s", argv[0], err, r, tail(vm.Console(), 20))
	}
	return r
}

// Must runs a command that must succeed.
func (vm *VM) Must(argv ...string) Result {
	vm.tb.Helper()
	r := vm.Run(argv...)
	if r.Code != 0 {
		vm.tb.Fatalf("%v", r)
	}
	return r
}

// Login runs a command in a session of the ordinary user; the machine has to
// run systemd.
func (vm *VM) Login(limit time.Duration, env []string, argv ...string) Result {
	vm.tb.Helper()
	r := vm.RunWithin(limit, LoginArgv(env, argv...)...)
	r.Args = argv
	return r
}

// LoginArgv is the command that runs argv in a session of the ordinary user.
func LoginArgv(env []string, argv ...string) []string {
	args := []string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=" + Tester, "--property=PAMName=login", "--working-directory=/home/" + Tester}
	for _, e := range env {
		args = append(args, "--setenv="+e)
	}
	return append(append(args, "--"), argv...)
}
