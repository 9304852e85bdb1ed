package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/rig/wire"
)

// server runs commands for the rig.
type server struct {
	mu       sync.Mutex // of what is written to the port
	port     *os.File
	commands map[int]*command // of the reading goroutine alone
}

type command struct {
	cmd   *exec.Cmd
	input chan []byte // closed at the end of input
	ended chan struct{}
}

// path is the search path of commands.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/lull"

// serve reads the port until the machine ends.
func serve() error {
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	name, err := findPort()
	if err != nil {
		return err
	}
	port, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &server{port: port, commands: map[int]*command{}}
	s.send(wire.Message{Kind: wire.Hello})
	r := bufio.NewReaderSize(port, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("cannot read from the rig: %w", err)
		}
		var m wire.Message
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("cannot understand the rig: %w", err)
		}
		s.handle(m)
	}
}

// findPort finds the device of our port; udev may not have named it yet.
func findPort() (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == wire.Port {
			return "/dev/" + filepath.Base(filepath.Dir(name)), nil
		}
	}
	return "", errors.New("this machine has no port " + wire.Port)
}

func (s *server) send(m wire.Message) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // nothing in a Message cannot be encoded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.port.Write(append(b, '\n')); err != nil {
		fmt.Fprintln(os.Stderr, "guest: cannot write to the rig:", err)
	}
}

func (s *server) handle(m wire.Message) {
	c := s.commands[m.ID]
	switch {
	case m.Kind == wire.Start:
		s.commands[m.ID] = s.start(m)
	case c == nil: // could not be started, which was reported to the rig
	case m.Kind == wire.Input:
		select {
		case c.input <- m.Data:
		case <-c.ended:
		}
	case m.Kind == wire.EOF:
		close(c.input)
	case m.Kind == wire.Signal:
		select {
		case <-c.ended:
		default:
			syscall.Kill(-c.cmd.Process.Pid, syscall.Signal(m.Code))
		}
	}
}

// start runs a command in a process group of its own; nil if that failed.
func (s *server) start(m wire.Message) *command {
	cmd := exec.Command(m.Argv[0], m.Argv[1:]...)
	cmd.Env = append([]string{"PATH=" + path, "LANG=C.UTF-8", "HOME=/root", "USER=root"}, m.Env...)
	cmd.Dir = m.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err1 := cmd.StdinPipe()
	stdout, outEnd, err2 := os.Pipe()
	stderr, errEnd, err3 := os.Pipe()
	cmd.Stdout, cmd.Stderr = outEnd, errEnd
	err := errors.Join(err1, err2, err3)
	if err == nil {
		err = cmd.Start()
	}
	outEnd.Close()
	errEnd.Close()
	if err != nil {
		stdout.Close()
		stderr.Close()
		s.send(wire.Message{Kind: wire.Exit, ID: m.ID, Code: -1, Text: err.Error()})
		return nil
	}
	c := &command{cmd: cmd, input: make(chan []byte, 16), ended: make(chan struct{})}
	go c.feed(stdin)
	var copying sync.WaitGroup
	for kind, r := range map[string]*os.File{wire.Out: stdout, wire.Err: stderr} {
		copying.Go(func() { s.forward(m.ID, kind, r) })
	}
	copied := make(chan struct{})
	go func() {
		copying.Wait()
		close(copied)
	}()
	go func() {
		err := cmd.Wait()
		close(c.ended)
		select {
		case <-copied:
		case <-time.After(linger):
			// It has left a process behind that still holds its output.
		}
		end := wire.Message{Kind: wire.Exit, ID: m.ID, Code: cmd.ProcessState.ExitCode()}
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() < 0 {
			end.Text = exit.Error()
		}
		s.send(end)
	}()
	return c
}

// linger is how long output is waited for when a command has ended; its end
// usually comes with that of the command.
const linger = time.Second

// feed writes input; a command need not read it.
func (c *command) feed(stdin io.WriteCloser) {
	defer stdin.Close()
	for {
		select {
		case b, ok := <-c.input:
			if !ok {
				return
			}
			if _, err := stdin.Write(b); err != nil {
				return
			}
		case <-c.ended:
			return
		}
	}
}

func (s *server) forward(id int, kind string, r io.ReadCloser) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			s.send(wire.Message{Kind: kind, ID: id, Data: buf[:n]})
		}
		if err != nil {
			r.Close()
			return
		}
	}
}
