package bus

import (
	"reflect"
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"
)

// emits is the effect of a property's change: the value of its EmitsChangedSignal
// annotation.
type emits uint8

const (
	emitsValue      emits = iota // true: the signal carries the value
	emitsInvalidate              // invalidates: the signal carries the name
	emitsNothing                 // it is computed on each query
	emitsConst                   // const: it does not change while the object is there
)

type propInfo struct {
	name  string
	emits emits
}

// propSource is the untyped face of Props.
type propSource interface {
	attach(*Server, dbus.ObjectPath, *ifaceInfo)
	detach(dbus.ObjectPath)
	variants(*Reading, *ifaceInfo) map[string]dbus.Variant
}

// Reading is one query of properties: of one interface, or of all objects by
// GetManagedObjects.
type Reading struct {
	once   sync.Once
	shared any
}

// Shared returns the result of the first compute of this reading, so that objects that are
// read together need one pass over what they all show.
func (r *Reading) Shared(compute func() any) any {
	r.once.Do(func() { r.shared = compute() })
	return r.shared
}

// Props holds the properties of one interface of one object; T is one of the
// generated Properties structs.
type Props[T any] struct {
	mu     sync.Mutex
	values T               // guarded by mu
	live   liveFunc[T]     // guarded by mu
	server *Server         // guarded by mu; nil while not exported
	path   dbus.ObjectPath // guarded by mu
	info   *ifaceInfo      // guarded by mu
}

type liveFunc[T any] func(*Reading, *T)

// Values returns a copy of the properties as last set. Slices in it are shared
// and must not be changed.
func (p *Props[T]) Values() T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values
}

// Update applies change and sends one PropertiesChanged with the properties that differ,
// or none. Change must replace slices, not write into them, and must not use p.
func (p *Props[T]) Update(change func(*T)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.values
	change(&p.values)
	if p.server == nil {
		return
	}
	sig := propertiesChanged{iface: p.info.name, changed: map[string]dbus.Variant{}, invalidated: []string{}}
	a, b := reflect.ValueOf(&old).Elem(), reflect.ValueOf(&p.values).Elem()
	for i, info := range p.info.props {
		if info.emits == emitsNothing || info.emits == emitsConst || reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		if info.emits == emitsInvalidate {
			sig.invalidated = append(sig.invalidated, info.name)
		} else {
			sig.changed[info.name] = dbus.MakeVariant(cleaned(b.Field(i).Interface()))
		}
	}
	if len(sig.changed)+len(sig.invalidated) > 0 {
		// Under the lock, so that signals leave in the order of the updates.
		// A failure means that the bus is gone, which Closed reports.
		_ = p.server.Emit(p.path, sig)
	}
}

// Set replaces all properties, as Update does.
func (p *Props[T]) Set(values T) { p.Update(func(t *T) { *t = values }) }

// Live registers f, which computes at each read the properties whose changes are not
// announced with their value. Changes that f makes to other properties are ignored.
func (p *Props[T]) Live(f func(*Reading, *T)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live = f
}

func (p *Props[T]) attach(s *Server, path dbus.ObjectPath, info *ifaceInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server, p.path, p.info = s, path, info
}

func (p *Props[T]) detach(path dbus.ObjectPath) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == path {
		p.server = nil
	}
}

// announces reports whether each change of a property is announced with its value.
func (i *ifaceInfo) announces(property string) bool {
	return slices.ContainsFunc(i.props, func(p propInfo) bool {
		return p.name == property && p.emits != emitsNothing && p.emits != emitsInvalidate
	})
}

// variants returns all properties. With a nil Reading none is computed.
func (p *Props[T]) variants(r *Reading, info *ifaceInfo) map[string]dbus.Variant {
	p.mu.Lock()
	values, live := p.values, p.live
	p.mu.Unlock()
	fresh := values
	if live != nil && r != nil {
		live(r, &fresh)
	}
	a, b := reflect.ValueOf(values), reflect.ValueOf(fresh)
	m := make(map[string]dbus.Variant, len(info.props))
	for i, prop := range info.props {
		v := a
		if prop.emits == emitsNothing || prop.emits == emitsInvalidate {
			v = b
		}
		m[prop.name] = dbus.MakeVariant(cleaned(v.Field(i).Interface()))
	}
	return m
}

// propertiesChanged is the signal of org.freedesktop.DBus.Properties.
type propertiesChanged struct {
	iface       string
	changed     map[string]dbus.Variant
	invalidated []string
}

func (propertiesChanged) SignalName() string { return propertiesInterface + ".PropertiesChanged" }
func (s propertiesChanged) body() []any      { return []any{s.iface, s.changed, s.invalidated} }

// interfacesAdded and interfacesRemoved are those of the object manager.
type interfacesAdded struct {
	path       dbus.ObjectPath
	interfaces map[string]map[string]dbus.Variant
}

func (interfacesAdded) SignalName() string { return objectManagerInterface + ".InterfacesAdded" }
func (s interfacesAdded) body() []any      { return []any{s.path, s.interfaces} }

type interfacesRemoved struct {
	path       dbus.ObjectPath
	interfaces []string
}

func (interfacesRemoved) SignalName() string { return objectManagerInterface + ".InterfacesRemoved" }
func (s interfacesRemoved) body() []any      { return []any{s.path, s.interfaces} }

// objectProperties is the entry of one object in the object manager.
func objectProperties(r *Reading, object map[string]Interface) map[string]map[string]dbus.Variant {
	m := make(map[string]map[string]dbus.Variant, len(object))
	for name, i := range object {
		m[name] = map[string]dbus.Variant{}
		if p := i.properties(); p != nil {
			m[name] = p.variants(r, i.info())
		}
	}
	return m
}

func (s *Server) managedProperties() (Objects, error) {
	m, r := Objects{}, &Reading{}
	for path, object := range s.managed() {
		m[path] = objectProperties(r, object)
	}
	return m, nil
}
