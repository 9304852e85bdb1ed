package logind

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

// run starts cmd and ends it with the test.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
}

func stop(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	cmd.Process.Signal(syscall.SIGCONT)
	cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	timer.Stop()
}

// machine is a place where the real logind is started repeatedly, with its
// state in /run/systemd.
type machine struct {
	t       *testing.T
	address string
	conn    *dbus.Conn
	signals chan *dbus.Signal
	holder  *exec.Cmd // keeps the mount namespace
	logind  *exec.Cmd
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	require.Root(t)
	require.Program(t, "unshare", "nsenter", "systemd-logind", "systemd-inhibit")
	m := &machine{t: t, address: bustest.Start(t)}
	m.conn = connect(t, m.address)
	m.signals = make(chan *dbus.Signal, 64)
	m.conn.Signal(m.signals)
	if err := m.conn.AddMatchSignal(dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged")); err != nil {
		t.Fatal(err)
	}
	m.holder = exec.Command("unshare", "--mount", "--propagation=private", "sh", "-c",
		"mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd && echo ready && exec cat")
	in, err := m.holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, m.holder)
	t.Cleanup(func() { in.Close() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		require.Missing(t, "needs to mount a tmpfs in a mount namespace")
	}
	return m
}

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// command runs a program where logind runs.
func (m *machine) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	path := require.Program(m.t, program)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", m.holder.Process.Pid), path}, args...)...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+m.address, "LANG=C.UTF-8")
	return cmd
}

func (m *machine) start() {
	m.t.Helper()
	m.logind = m.command(context.Background(), "systemd-logind")
	run(m.t, m.logind)
	m.owned(true)
}

func (m *machine) stop() {
	m.t.Helper()
	stop(m.logind)
	m.owned(false)
}

// owned waits for logind's name to be taken or given up.
func (m *machine) owned(yes bool) {
	m.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case s := <-m.signals:
			if len(s.Body) == 3 && s.Body[0] == name && (s.Body[2] != "") == yes {
				return
			}
		case <-timeout:
			m.t.Fatalf("logind's name has not changed hands")
		}
	}
}

// inhibitors is what systemd-inhibit shows.
func (m *machine) inhibitors() string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := m.command(ctx, "systemd-inhibit", "--list", "--no-pager").CombinedOutput()
	if err != nil {
		m.t.Fatalf("systemd-inhibit: %v\n%s", err, out)
	}
	return string(out)
}
