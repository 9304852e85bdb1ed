package units

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Program is one that is run once, in a unit of its own.
type Program struct {
	Name        string // of the unit, with .service
	Description string
	Command     []string
	Env         []string
	User        string   // empty means the manager's
	Input       *os.File // its standard input; nil means none
	Output      *os.File // for what it writes; the caller closes it
	Errors      *os.File // for its standard error; nil means Output
	Root        string   // an empty directory: the program needs nothing but these files, and is confined to it; "" means that it is not

	// Limits that systemd and the kernel enforce; 0 means none. Memory, in bytes, is that of
	// all processes of the unit where systemd has the memory controller, and the data of each
	// process everywhere. Tasks needs the pids controller.
	Time   time.Duration
	Memory uint64
	Tasks  uint64
}

func (p Program) limit() uint64 {
	if p.Time > 0 {
		return uint64(p.Time.Microseconds())
	}
	return forever
}

// killPatience is how long systemd may take to end what is killed.
const killPatience = 10 * time.Second

// Run starts a program and returns when it has ended and its unit is empty.
// The remains of an earlier unit of the name end first. When ctx ends, the
// program is killed.
func (m *Manager) Run(ctx context.Context, p Program) error {
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	if err := kill(conn, p.Name); err != nil {
		return err
	}
	props := []systemd.Property{
		systemd.PropDescription(p.Description),
		systemd.PropExecStart(literally(p.Command), false),
		property("Type", "oneshot"),
		property("Environment", p.Env),
		property("WorkingDirectory", "/"),
		property("TimeoutStartUSec", p.limit()), // ctx is a limit, too
		property("TimeoutStopUSec", uint64(1)),
		property("StandardOutputFileDescriptor", dbus.UnixFD(p.Output.Fd())),
		property("StandardErrorFileDescriptor", dbus.UnixFD(cmp.Or(p.Errors, p.Output).Fd())),
	}
	if p.Input != nil {
		props = append(props, property("StandardInputFileDescriptor", dbus.UnixFD(p.Input.Fd())))
	}
	if p.User != "" {
		props = append(props, property("User", p.User))
	}
	if p.Memory > 0 {
		props = append(props, property("MemoryMax", p.Memory), property("MemorySwapMax", uint64(0)),
			property("LimitDATA", p.Memory), property("LimitDATASoft", p.Memory), property("LimitCORE", uint64(0)))
	}
	if p.Tasks > 0 {
		props = append(props, property("TasksMax", p.Tasks))
	}
	if p.Root != "" {
		props = append(props, confinement(p.Command[0], p.Root)...)
	}
	done := make(chan string, 1)
	if err := start(ctx, conn, p.Name, props, done); err != nil {
		return errors.Join(err, kill(conn, p.Name))
	}
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
		return errors.Join(m.outcome(ctx, conn, p.Name, result), kill(conn, p.Name))
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), kill(conn, p.Name))
	}
}

// literally keeps systemd from putting variables into a command.
func literally(command []string) []string {
	command = slices.Clone(command)
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "$", "$$")
	}
	return command
}

// outcome returns how a program has failed.
func (m *Manager) outcome(ctx context.Context, conn *systemd.Conn, name, result string) error {
	all, err := conn.GetUnitTypePropertiesContext(ctx, name, "Service")
	if err != nil {
		return fmt.Errorf("systemd's job ended with %q: %w", result, err)
	}
	code, _ := all["ExecMainCode"].(int32)
	status, _ := all["ExecMainStatus"].(int32)
	const exited, killed, dumped = 1, 2, 3 // CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2)
	switch code {
	case exited:
		if status == 0 {
			return nil // what it had left behind had to be killed
		}
		return fmt.Errorf("exit status %d", status)
	case killed, dumped:
		return fmt.Errorf("signal: %v", syscall.Signal(status))
	}
	return fmt.Errorf("systemd reports %q", all["Result"])
}

// Kill ends what is left of a program that Run has started for another process.
func (m *Manager) Kill(ctx context.Context, name string) error {
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	return kill(conn, name)
}

// kill ends what is left of a unit, and returns when systemd has seen that it is gone.
func kill(conn *systemd.Conn, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	if err := conn.KillUnitWithTarget(ctx, name, systemd.All, int32(syscall.SIGKILL)); err != nil && !is(err, "NoSuchUnit") && !is(err, "NoSuchProcess") {
		return fmt.Errorf("cannot kill %s: %w", name, err)
	}
	return stop(ctx, conn, name)
}
