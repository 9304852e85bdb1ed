package bus

import (
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
)

// Interface is one D-Bus interface on one object: the Export functions that
// the generator writes make them.
type Interface interface {
	info() *ifaceInfo
	invoke(c Caller, method string, body []any) ([]any, error)
	properties() propSource // nil if it has none
}

// Signal is a signal of an interface; the generator makes a type for each.
type Signal interface {
	// SignalName is the interface and the member, joined by a dot.
	SignalName() string
	body() []any
}

// ifaceInfo describes an interface of the XML to the runtime.
type ifaceInfo struct {
	name    string
	methods map[string]string // name → signature of what goes in
	props   []propInfo        // in the order of the fields of its struct
}

// Server is a connection that exports objects.
type Server struct {
	conn     *dbus.Conn
	callers  *callers
	limits   *limits
	managing Flight[Objects] // GetManagedObjects

	mu      sync.Mutex
	objects map[dbus.ObjectPath]map[string]Interface     // guarded by mu; inner maps are never changed
	manager dbus.ObjectPath                              // guarded by mu
	onPanic func(method string, value any, stack []byte) // guarded by mu
	onCall  func()                                       // guarded by mu
}

// Serve connects to the bus at address; an empty address means the system or the session
// bus. The caller exports objects and then requests the name.
func Serve(ctx context.Context, address string, system bool) (*Server, error) {
	s := &Server{callers: newCallers(), limits: newLimits(), objects: map[dbus.ObjectPath]map[string]Interface{}}
	conn, err := dial(ctx, address, system, func(opts ...dbus.ConnOption) (*dbus.Conn, error) {
		return dialer.Serve(address, system, s.user, append(opts, dbus.WithHandler(s))...)
	})
	if err != nil {
		return nil, err
	}
	// Until here no call can arrive: no client has the unique name.
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return s, nil
}

// user asks the bus for the user of a connection, and returns whose bounds its calls count for.
func (s *Server) user(sender string) (uint32, error) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return 0, errkind.New(errkind.Unavailable, "cannot identify the caller: the connection is not made yet")
	}
	c, err := s.callers.of(conn, sender)
	return accounts.Of(c.UID), err
}

// Conn returns the connection of the server, for calls to other services.
func (s *Server) Conn() *dbus.Conn { return s.conn }

// Closed returns a channel that is closed when the connection is lost or closed.
func (s *Server) Closed() <-chan struct{} { return s.conn.Context().Done() }

// Close closes the connection.
func (s *Server) Close() error { return s.conn.Close() }

// OnPanic registers f, which is called after a method has panicked. The caller of the
// method has received an internal error by then.
func (s *Server) OnPanic(f func(method string, value any, stack []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPanic = f
}

// OnCall registers f, which is called after the reply to each method call. It must not
// block.
func (s *Server) OnCall(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onCall = f
}

func (s *Server) called() {
	s.mu.Lock()
	f := s.onCall
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

func (s *Server) panicked(method string, value any) {
	s.mu.Lock()
	f := s.onPanic
	s.mu.Unlock()
	if f != nil {
		f(method, value, debug.Stack())
	}
}

// RequestName takes a well-known name, without queueing for it.
func (s *Server) RequestName(name string) error {
	reply, err := s.conn.RequestName(name, dbus.NameFlagDoNotQueue)
	if err != nil {
		return errkind.New(errkind.KindOf(FromBus(err)), "cannot take the name %s on the bus: %w", name, err).
			WithHint("the bus policy decides who may: see org.lull.Agent1.conf")
	}
	switch reply {
	case dbus.RequestNameReplyPrimaryOwner, dbus.RequestNameReplyAlreadyOwner:
		return nil
	}
	err = errkind.New(errkind.Exists, "cannot take the name %s on the bus: another process owns it", name)
	var pid uint32
	if s.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&pid) == nil {
		err = errkind.New(errkind.Exists, "cannot take the name %s on the bus: process %d owns it", name, pid)
	}
	return err
}

// Manage puts an ObjectManager for all objects below path on the object at
// path.
func (s *Server) Manage(path dbus.ObjectPath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manager = path
}

// Export puts an object with these interfaces at path and replaces the one before. If the
// path is managed it emits InterfacesAdded.
func (s *Server) Export(path dbus.ObjectPath, interfaces ...Interface) error {
	if !path.IsValid() {
		return errkind.New(errkind.Invalid, "cannot export an object at %q: this is no object path", path)
	}
	object := make(map[string]Interface, len(interfaces))
	for _, i := range interfaces {
		object[i.info().name] = i
	}
	s.mu.Lock()
	old := s.objects[path]
	s.objects[path] = object
	managed := s.managedLocked(path)
	manager := s.manager
	s.mu.Unlock()

	// Properties may change, with signals, from the moment they are attached:
	// the object has not been announced yet, so that nothing is missed.
	for _, i := range interfaces {
		if p := i.properties(); p != nil {
			p.attach(s, path, i.info())
		}
	}
	if !managed {
		return nil
	}
	if old != nil {
		if err := s.Emit(manager, interfacesRemoved{path, slices.Sorted(maps.Keys(old))}); err != nil {
			return err
		}
	}
	return s.Emit(manager, interfacesAdded{path, objectProperties(&Reading{}, object)})
}

// Unexport removes the object at path. A missing object is not an error.
func (s *Server) Unexport(path dbus.ObjectPath) error {
	s.mu.Lock()
	old := s.objects[path]
	delete(s.objects, path)
	managed := s.managedLocked(path)
	manager := s.manager
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	for _, i := range old {
		if p := i.properties(); p != nil {
			p.detach(path)
		}
	}
	if !managed {
		return nil
	}
	return s.Emit(manager, interfacesRemoved{path, slices.Sorted(maps.Keys(old))})
}

// managedLocked reports whether path is below an object manager.
func (s *Server) managedLocked(path dbus.ObjectPath) bool {
	return s.manager != "" && strings.HasPrefix(string(path), string(s.manager)+"/")
}

// Emit broadcasts a signal of the object at path.
func (s *Server) Emit(path dbus.ObjectPath, sig Signal) error { return s.send("", path, sig) }

// SendTo sends a signal to one connection, by its unique name.
func (s *Server) SendTo(dest string, path dbus.ObjectPath, sig Signal) error {
	if dest == "" {
		return errkind.New(errkind.Invalid, "cannot send %s without a receiver", sig.SignalName())
	}
	return s.send(dest, path, sig)
}

func (s *Server) send(dest string, path dbus.ObjectPath, sig Signal) error {
	name := sig.SignalName()
	dot := strings.LastIndexByte(name, '.')
	msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(name[:dot]),
		dbus.FieldMember:    dbus.MakeVariant(name[dot+1:]),
	}}
	if dest != "" {
		msg.Headers[dbus.FieldDestination] = dbus.MakeVariant(dest)
	}
	for _, v := range sig.body() {
		msg.Body = append(msg.Body, cleaned(v))
	}
	if len(msg.Body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
	}
	if !s.conn.Connected() {
		return errkind.New(errkind.Unavailable, "cannot send %s: the bus connection is closed", name)
	}
	if call := s.conn.Send(msg, nil); call != nil && call.Err != nil {
		return errkind.New(errkind.Unavailable, "cannot send %s: %w", name, call.Err)
	}
	return nil
}

func (s *Server) managerPath() dbus.ObjectPath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manager
}

// object returns the interfaces at path, or nil.
func (s *Server) object(path dbus.ObjectPath) map[string]Interface {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[path]
}

// children returns the names directly below path that lead to exported objects.
func (s *Server) children(path dbus.ObjectPath) []string {
	prefix := string(path)
	if prefix != "/" {
		prefix += "/"
	}
	names := map[string]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.objects {
		if rest, ok := strings.CutPrefix(string(p), prefix); ok && rest != "" {
			name, _, _ := strings.Cut(rest, "/")
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// managed returns all objects below the managed path.
func (s *Server) managed() map[dbus.ObjectPath]map[string]Interface {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[dbus.ObjectPath]map[string]Interface{}
	for p, object := range s.objects {
		if s.managedLocked(p) {
			m[p] = object
		}
	}
	return m
}
