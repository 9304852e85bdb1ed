package rig

import (
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// The agent's name and places on the bus.
const (
	AgentName = "org.lull.Agent1"
	AgentPath = "/org/lull/Agent1"
)

// API is the agent as any program sees it: by plain bus calls and signals,
// without lull's own client code.
type API struct {
	w    *World
	conn *dbus.Conn

	mu      sync.Mutex
	changes []Change
}

// Change is one property that has changed, and when that was heard.
type Change struct {
	At        time.Time
	Path      string
	Interface string
	Property  string
	Value     any
}

// Watch follows the agent's properties from now on.
func (b *Bus) Watch() *API {
	b.w.Helper()
	a := &API{w: b.w, conn: b.Connect()}
	signals := make(chan *dbus.Signal, 1024)
	a.conn.Signal(signals)
	if err := a.conn.AddMatchSignal(dbus.WithMatchPathNamespace(AgentPath)); err != nil {
		b.w.Fatalf("cannot follow the agent: %v", err)
	}
	go func() {
		for s := range signals { // closed with the connection
			a.note(s)
		}
	}()
	return a
}

// note keeps the content of a signal, and lets Until re-check.
func (a *API) note(s *dbus.Signal) {
	defer a.w.wake()
	now := time.Now()
	add := func(iface string, props map[string]dbus.Variant) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for name, v := range props {
			a.changes = append(a.changes, Change{now, string(s.Path), iface, name, v.Value()})
		}
	}
	switch {
	case s.Name == "org.freedesktop.DBus.Properties.PropertiesChanged":
		var iface string
		var props map[string]dbus.Variant
		var gone []string
		if dbus.Store(s.Body, &iface, &props, &gone) == nil {
			add(iface, props)
		}
	case s.Name == "org.freedesktop.DBus.ObjectManager.InterfacesAdded":
		var path dbus.ObjectPath
		var ifaces map[string]map[string]dbus.Variant
		if dbus.Store(s.Body, &path, &ifaces) == nil {
			for iface, props := range ifaces {
				s.Path = path
				add(iface, props)
			}
		}
	}
}

// Changes returns all values that a property was heard to take, oldest first;
// iface is without the agent's name before it.
func (a *API) Changes(iface, property string) []Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []Change
	for _, c := range a.changes {
		if c.Interface == AgentName+"."+iface && c.Property == property {
			found = append(found, c)
		}
	}
	return found
}

// Call calls a method of the agent.
func (a *API) Call(method string, args ...any) *dbus.Call {
	return a.conn.Object(AgentName, AgentPath).CallWithContext(a.w.Context(), AgentName+"."+method, 0, args...)
}

// Property reads a property; path is relative to the agent's.
func (a *API) Property(path, property string) any {
	a.w.Helper()
	v, err := a.conn.Object(AgentName, dbus.ObjectPath(AgentPath+path)).GetProperty(AgentName + "." + property)
	if err != nil {
		a.w.Fatalf("cannot read %s of %s: %v", property, AgentPath+path, err)
	}
	return v.Value()
}

// Object is the properties of one of the agent's objects.
type Object struct {
	Path  string
	Props map[string]dbus.Variant
}

// Str returns a property that is text.
func (o Object) Str(name string) string { s, _ := o.Props[name].Value().(string); return s }

// Num returns a property that is a whole number.
func (o Object) Num(name string) uint64 {
	switch v := o.Props[name].Value().(type) {
	case uint32:
		return uint64(v)
	case uint64:
		return v
	}
	return 0
}

// Go is Call in the background; the channel is closed when it has ended.
func (a *API) Go(method string, args ...any) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Call(method, args...)
	}()
	return done
}

// Objects returns the agent's objects of an interface (Package, Refresh).
func (a *API) Objects(iface string) []Object {
	a.w.Helper()
	found, err := a.objects(iface)
	if err != nil {
		a.w.Fatalf("cannot list the agent's objects: %v", err)
	}
	return found
}

func (a *API) objects(iface string) ([]Object, error) {
	var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	call := a.conn.Object(AgentName, AgentPath).CallWithContext(a.w.Context(), "org.freedesktop.DBus.ObjectManager.GetManagedObjects", 0)
	if err := call.Store(&all); err != nil {
		return nil, err
	}
	var found []Object
	for path, ifaces := range all {
		if props, ok := ifaces[AgentName+"."+iface]; ok {
			found = append(found, Object{string(path), props})
		}
	}
	return found, nil
}

// Package returns the object of an instance.
func (a *API) Package(instance string) (Object, bool) {
	a.w.Helper()
	for _, o := range a.Objects("Package") {
		if o.Str("Instance") == instance {
			return o, true
		}
	}
	return Object{}, false
}

// Refresh returns the newest refresh of an instance that is for a version, or
// for any if that is empty.
func (a *API) Refresh(instance, version string) (Object, bool) {
	a.w.Helper()
	newest, err := a.TryRefresh(instance, version)
	if err != nil {
		a.w.Fatalf("cannot list the agent's objects: %v", err)
	}
	return newest, newest.Path != ""
}

// TryRefresh is Refresh for an agent that may be away.
func (a *API) TryRefresh(instance, version string) (Object, error) {
	all, err := a.objects("Refresh")
	var newest Object
	for _, o := range all {
		if o.Str("Instance") == instance && (version == "" || o.Str("ToVersion") == version) && newer(o.Path, newest.Path) {
			newest = o
		}
	}
	return newest, err
}

// newer compares the paths of two refreshes, which end in a number.
func newer(a, b string) bool {
	if len(a) != len(b) {
		return len(a) > len(b)
	}
	return a > b
}

// Process is one process that the agent names.
type Process struct {
	PID, UID uint32
	Command  string
}

// Processes reads a property of type a(uus).
func Processes(v dbus.Variant) []Process {
	var list []Process
	rows, _ := v.Value().([][]any)
	for _, row := range rows {
		var p Process
		if dbus.Store(row, &p.PID, &p.UID, &p.Command) == nil {
			list = append(list, p)
		}
	}
	return list
}

// Terminate asks the process to end.
func (p Process) Terminate() { syscall.Kill(int(p.PID), syscall.SIGTERM) }
