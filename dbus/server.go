package bus

import (
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/dbus/dialer"
)

// Interface is one D-Bus interface on one object: the Export functions that
// the generator writes make them.
type Interface interface {
	info() *ifaceInfo
	invoke(c Caller, method string, body []any) ([]any, error)
	properties() propSource // nil: it has none
}

// Signal is a signal of an interface; the generator makes a type for each.
type Signal interface {
	// SignalName is the interface and the member, joined by a dot.
	SignalName() string
	body() []any
}

// ifaceInfo is what the runtime must know of an interface of the XML.
type ifaceInfo struct {
	name    string
	methods map[string]string // name → signature of what goes in
	props   []propInfo        // in the order of the fields of its struct
}

// Server is a connection that exports objects.
type Server struct {
	conn    *dbus.Conn
	callers callers

	mu      sync.Mutex
	objects map[dbus.ObjectPath]map[string]Interface     // guarded by mu; inner maps are never changed
	manager dbus.ObjectPath                              // guarded by mu
	onPanic func(method string, value any, stack []byte) // guarded by mu
	onCall  func()                                       // guarded by mu
}

// Serve connects to the bus at address, or, where that is empty, to the system
// or the session bus. Export objects, then take the name.
func Serve(ctx context.Context, address string, system bool) (*Server, error) {
	s := &Server{objects: map[dbus.ObjectPath]map[string]Interface{}}
	conn, err := dial(ctx, address, system, dialer.Answers, dbus.WithHandler(s))
	if err != nil {
		return nil, err
	}
	// Until here no call can arrive: nobody knows the unique name.
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return s, nil
}

// Conn is the connection under the server, for calls to other services.
func (s *Server) Conn() *dbus.Conn { return s.conn }

// Closed is closed when the connection is lost or given up.
func (s *Server) Closed() <-chan struct{} { return s.conn.Context().Done() }

// Close leaves the bus.
func (s *Server) Close() error { return s.conn.Close() }

// OnPanic has f called when a method has panicked; its caller has been told of
// an internal error.
func (s *Server) OnPanic(f func(method string, value any, stack []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPanic = f
}

// OnCall has f called after each method call that was answered. It must not block.
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
		return problem.New(problem.KindOf(FromBus(err)), "cannot take the name %s on the bus: %w", name, err).
			WithHint("the bus policy decides who may: see org.lull.Agent1.conf")
	}
	switch reply {
	case dbus.RequestNameReplyPrimaryOwner, dbus.RequestNameReplyAlreadyOwner:
		return nil
	}
	err = problem.New(problem.Exists, "cannot take the name %s on the bus: another process owns it", name)
	var pid uint32
	if s.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&pid) == nil {
		err = problem.New(problem.Exists, "cannot take the name %s on the bus: process %d owns it", name, pid)
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

// Export puts an object with these interfaces at path, in place of what is
// there, and tells the world if the path is managed.
func (s *Server) Export(path dbus.ObjectPath, interfaces ...Interface) error {
	if !path.IsValid() {
		return problem.New(problem.Invalid, "cannot export an object at %q: this is no object path", path)
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

	// Properties may change, and say so, from the moment they are attached:
	// nobody has been told of the object yet, so that nothing is missed.
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
	return s.Emit(manager, interfacesAdded{path, objectProperties(object)})
}

// Unexport takes the object at path away. What is not there is gone already.
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

// managedLocked says whether signals of an object manager are due for path.
func (s *Server) managedLocked(path dbus.ObjectPath) bool {
	return s.manager != "" && strings.HasPrefix(string(path), string(s.manager)+"/")
}

// Emit sends a signal of the object at path to everybody who listens.
func (s *Server) Emit(path dbus.ObjectPath, sig Signal) error { return s.send("", path, sig) }

// SendTo sends a signal to the one connection of that unique name.
func (s *Server) SendTo(dest string, path dbus.ObjectPath, sig Signal) error {
	if dest == "" {
		return problem.New(problem.Invalid, "cannot send %s to nobody", sig.SignalName())
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
		return problem.New(problem.Unavailable, "cannot send %s: the bus connection is closed", name)
	}
	if call := s.conn.Send(msg, nil); call != nil && call.Err != nil {
		return problem.New(problem.Unavailable, "cannot send %s: %w", name, call.Err)
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

// children are the names right below path on the way to exported objects.
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
