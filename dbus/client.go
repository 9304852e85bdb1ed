package bus

import (
	"context"
	"os"
	"reflect"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
)

// remote is the far end of a proxy.
type remote struct {
	conn  *dbus.Conn
	dest  string
	path  dbus.ObjectPath
	iface string
}

// Path returns the path of the remote object.
func (r remote) Path() dbus.ObjectPath { return r.path }

// unattended is the key of Unattended.
type unattended struct{}

// Unattended returns a context for calls during which no password may be requested: one that
// needs a password is refused at once.
func Unattended(ctx context.Context) context.Context {
	return context.WithValue(ctx, unattended{}, true)
}

// call sends a method call and stores the results. The agent may ask the user
// for a password on the way, unless the context is Unattended.
func (r remote) call(ctx context.Context, method string, args []any, results ...any) error {
	_, err := r.callAt(ctx, method, args, results...)
	return err
}

// callAt is call, and returns the position of the reply among the messages that the
// connection has received.
func (r remote) callAt(ctx context.Context, method string, args []any, results ...any) (dbus.Sequence, error) {
	flags := dbus.FlagAllowInteractiveAuthorization // the library's own Call drops it
	if ctx.Value(unattended{}) != nil {
		flags = 0
	}
	msg := &dbus.Message{Type: dbus.TypeMethodCall, Flags: flags,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(r.dest),
			dbus.FieldPath:        dbus.MakeVariant(r.path),
			dbus.FieldInterface:   dbus.MakeVariant(r.iface),
			dbus.FieldMember:      dbus.MakeVariant(method),
		}}
	for _, a := range args {
		msg.Body = append(msg.Body, cleaned(a))
	}
	if len(msg.Body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
	}
	c := <-r.conn.SendWithContext(ctx, msg, make(chan *dbus.Call, 1)).Done
	if c.Err != nil {
		return c.ResponseSequence, FromBus(c.Err)
	}
	if err := store(c.Body, results...); err != nil {
		return c.ResponseSequence, errkind.New(errkind.Failed, "cannot read the agent's answer to %s: %w", method, err)
	}
	return c.ResponseSequence, nil
}

func (r remote) get(ctx context.Context, name string, into any) error {
	var v dbus.Variant
	p := remote{r.conn, r.dest, r.path, propertiesInterface}
	if err := p.call(ctx, "Get", []any{r.iface, name}, &v); err != nil {
		return err
	}
	if err := dbus.Store([]any{v.Value()}, into); err != nil {
		return errkind.New(errkind.Failed, "cannot read property %s: %w", name, err)
	}
	return nil
}

func getAll[T any](ctx context.Context, r remote, info *ifaceInfo) (T, error) {
	t, _, err := getAllAt[T](ctx, r, info)
	return t, err
}

func getAllAt[T any](ctx context.Context, r remote, info *ifaceInfo) (T, dbus.Sequence, error) {
	var t T
	var m map[string]dbus.Variant
	p := remote{r.conn, r.dest, r.path, propertiesInterface}
	at, err := p.callAt(ctx, "GetAll", []any{r.iface}, &m)
	if err != nil {
		return t, at, err
	}
	return t, at, applyProperties(&t, info, m)
}

// ReadAt is Properties for callers that follow the signals as well. A signal with a lower
// Sequence than that of the reply came before it. If it came before the request it is
// older than the reply; otherwise the order is unknown.
func (p RefreshProxy) ReadAt(ctx context.Context) (RefreshProperties, dbus.Sequence, error) {
	return getAllAt[RefreshProperties](ctx, p.remote, infoRefresh)
}

// applyProperties stores the values that have a field in the struct.
func applyProperties[T any](t *T, info *ifaceInfo, m map[string]dbus.Variant) error {
	rv := reflect.ValueOf(t).Elem()
	for i, p := range info.props {
		v, ok := m[p.name]
		if !ok {
			continue
		}
		field := reflect.New(rv.Field(i).Type()) // Store would append to what is there
		if err := dbus.Store([]any{v.Value()}, field.Interface()); err != nil {
			return errkind.New(errkind.Failed, "cannot read property %s: %w", p.name, err)
		}
		rv.Field(i).Set(field.Elem())
	}
	return nil
}

func file(fd dbus.UnixFD, name string) *os.File { return os.NewFile(uintptr(fd), name) }

// Objects are what an object manager manages: path → interface → properties.
type Objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant

// ManagedObjects asks for all objects below path at once.
func ManagedObjects(ctx context.Context, conn *dbus.Conn, dest string, path dbus.ObjectPath) (Objects, error) {
	var m Objects
	err := remote{conn, dest, path, objectManagerInterface}.call(ctx, "GetManagedObjects", nil, &m)
	return m, err
}
