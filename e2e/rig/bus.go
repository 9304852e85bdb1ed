package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// busConfig is a bus on which everybody may do everything and nothing is
// started on demand: no service directories.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
`

// Bus is a private message bus.
type Bus struct {
	Address string
	proc    *Proc
	w       *World
}

// startBus starts a dbus-daemon, as the actor or as whoever runs the rig.
// Every signal on it wakes Until.
func (w *World) startBus(name string, as *Actor) *Bus {
	w.Helper()
	if as == nil {
		as = w.Admin
	}
	dir := w.folder("bus-"+name, 0o755)
	as.Own(dir)
	config := dir + "/bus.conf"
	socket := dir + "/socket"
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(busConfig, "SOCKET", socket)), 0o644); err != nil {
		w.Fatalf("cannot start a bus: %v", err)
	}
	r, wr, err := os.Pipe()
	if err != nil {
		w.Fatalf("cannot start a bus: %v", err)
	}
	p := as.StartWith(func(c *exec.Cmd) { c.ExtraFiles = []*os.File{wr} },
		"dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog", "--print-address=3")
	wr.Close()
	if _, err := readLine(w.Context(), r, p, 20*time.Second); err != nil {
		w.Fatalf("cannot start a bus: %v", err)
	}
	b := &Bus{Address: "unix:path=" + socket, proc: p, w: w}
	w.listen(b)
	return b
}

// systemBus uses the machine's own system bus, logind and journal. The machine
// must be a container that was booted for it, because the bus's configuration
// is extended.
func (w *World) systemBus() {
	w.Helper()
	if _, err := os.Stat("/run/systemd/container"); err != nil {
		w.Fatalf("the system bus is used in containers only: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(Module(), "dbus", "org.lull.Agent1.conf"))
	if err == nil {
		err = os.WriteFile("/etc/dbus-1/system.d/org.lull.Agent1.conf", b, 0o644)
	}
	if err != nil {
		w.Fatalf("cannot configure the system bus: %v", err)
	}
	w.logind = "system"
	w.Bus = &Bus{Address: "unix:path=/run/dbus/system_bus_socket", w: w}
	if call := w.Bus.Connect().BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0); call.Err != nil {
		w.Fatalf("cannot configure the system bus: %v", call.Err)
	}
	w.listen(w.Bus)
}

// Connect connects to the bus as whoever runs the rig.
func (b *Bus) Connect() *dbus.Conn {
	b.w.Helper()
	conn, err := dbus.Connect(b.Address, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		b.w.Fatalf("cannot connect to %s: %v", b.Address, err)
	}
	b.w.Cleanup(func() { conn.Close() })
	return conn
}

// listen wakes Until at every signal on the bus that is sent to all.
func (w *World) listen(b *Bus) {
	w.Helper()
	conn := b.Connect()
	signals := make(chan *dbus.Signal, 256)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(); err != nil {
		w.Fatalf("cannot listen on %s: %v", b.Address, err)
	}
	go func() {
		for range signals { // closed with the connection
			w.wake()
		}
	}()
}

// monitor makes a new connection see every message of the bus. It is for
// buses over which no descriptors are passed: it would hold on to them.
func (b *Bus) monitor(see func(*dbus.Message)) {
	b.w.Helper()
	conn := b.Connect()
	messages := make(chan *dbus.Message, 4096)
	conn.Eavesdrop(messages)
	conn.BusObject().Go("org.freedesktop.DBus.Monitoring.BecomeMonitor", dbus.FlagNoAutoStart, nil, []string{}, uint32(0))
	ready, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		asked := true
		for m := range messages {
			if asked && (m.Type == dbus.TypeMethodReply || m.Type == dbus.TypeError) {
				asked = false
				if m.Type == dbus.TypeError {
					ready <- fmt.Errorf("%v", m.Body)
				}
				close(ready)
				continue
			}
			see(m)
		}
	}()
	b.w.Cleanup(func() {
		conn.Eavesdrop(nil)
		conn.Close()
		close(messages)
		<-done
	})
	if err := <-ready; err != nil {
		b.w.Fatalf("cannot watch %s: %v", b.Address, err)
	}
}

// HasOwner says whether a name is owned on the bus.
func (b *Bus) HasOwner(conn *dbus.Conn, name string) bool {
	var has bool
	err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has)
	return err == nil && has
}
