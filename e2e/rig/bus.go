package rig

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// busConfig is a bus that allows everything to all users and starts nothing
// on demand: no service directories.
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

// systemBusAddress is where the machine's own bus is.
const systemBusAddress = "unix:path=/run/dbus/system_bus_socket"

// Bus is a private message bus.
type Bus struct {
	Address string
	proc    *Proc
	w       *World
}

// startBus starts a dbus-daemon, as the actor or as the user of the rig.
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
	w.Bus = &Bus{Address: systemBusAddress, w: w}
	if call := w.Bus.Connect().BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0); call.Err != nil {
		w.Fatalf("cannot configure the system bus: %v", call.Err)
	}
	w.listen(w.Bus)
}

// Connect connects to the bus as the user of the rig.
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

// message is one message of a bus as busctl prints it.
type message struct {
	Type        string `json:"type"` // method_call, method_return, error, signal
	Cookie      uint64 `json:"cookie"`
	ReplyCookie uint64 `json:"reply_cookie"`
	Sender      string `json:"sender"`
	Destination string `json:"destination"`
	Interface   string `json:"interface"`
	Member      string `json:"member"`
	Payload     struct {
		Data []json.RawMessage `json:"data"`
	} `json:"payload"`
}

// monitor calls see with every message of the bus, which an actor may watch. It
// is for buses over which no descriptors are passed: a monitor would keep them.
//
// busctl does not report in every version when it has begun; with the first
// message that it shows, it has. Calls are made until it shows one.
func (b *Bus) monitor(as *Actor, see func(message)) {
	b.w.Helper()
	outR, outW, err := os.Pipe()
	if err != nil {
		b.w.Fatalf("cannot watch %s: %v", b.Address, err)
	}
	p := as.StartWith(func(c *exec.Cmd) { c.Stdout = outW }, "busctl", "--address="+b.Address, "--json=short", "monitor")
	outW.Close()
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer outR.Close()
		dec := json.NewDecoder(outR)
		for first := true; ; first = false {
			var m message
			if dec.Decode(&m) != nil {
				return
			}
			if first {
				close(begun)
			}
			see(m)
		}
	}()
	b.w.Cleanup(func() {
		p.Stop()
		<-done
	})
	for limit := time.After(30 * time.Second); ; {
		b.HasOwner(as, "org.freedesktop.DBus")
		select {
		case <-begun:
			return
		case <-done:
			b.w.Fatalf("cannot watch %s: busctl has ended:\n%s", b.Address, tail(p.Log(), 5))
		case <-limit:
			b.w.Fatalf("cannot watch %s: busctl shows nothing:\n%s", b.Address, tail(p.Log(), 5))
		default:
		}
	}
}

// HasOwner reports whether a name is owned on the bus, as an actor sees it.
func (b *Bus) HasOwner(as *Actor, name string) bool {
	b.w.Helper()
	r := as.Run("busctl", "--address="+b.Address, "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
		"NameHasOwner", "s", name)
	return r.Stdout == "b true\n"
}
