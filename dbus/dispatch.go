package bus

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/godbus/dbus/v5"
)

const (
	propertiesInterface     = "org.freedesktop.DBus.Properties"
	introspectableInterface = "org.freedesktop.DBus.Introspectable"
	peerInterface           = "org.freedesktop.DBus.Peer"
	objectManagerInterface  = "org.freedesktop.DBus.ObjectManager"
)

// The Server is the godbus handler of its connection, so that it sees the
// message of each call: it closes descriptors after the reply has left, and
// answers for paths that only lead to objects.

// LookupObject implements dbus.Handler.
func (s *Server) LookupObject(path dbus.ObjectPath) (dbus.ServerObject, bool) {
	return target{server: s, path: path}, true
}

// target is an address that is looked up piece by piece.
type target struct {
	server *Server
	path   dbus.ObjectPath
	iface  string
	method string
}

// LookupInterface implements dbus.ServerObject.
func (t target) LookupInterface(name string) (dbus.Interface, bool) {
	t.iface = name
	return t, true
}

// LookupMethod implements dbus.Interface.
func (t target) LookupMethod(name string) (dbus.Method, bool) {
	t.method = name
	return &call{target: t}, true
}

// call is one method call; it implements dbus.Method and dbus.ArgumentDecoder.
type call struct {
	target
	msg *dbus.Message
}

func (c *call) NumArguments() int     { return 0 }
func (c *call) NumReturns() int       { return 0 }
func (c *call) ArgumentValue(int) any { return nil }
func (c *call) ReturnValue(int) any   { return nil }

// DecodeArguments keeps the message; decoding waits until the method is known.
func (c *call) DecodeArguments(_ *dbus.Conn, _ string, msg *dbus.Message, _ []any) ([]any, error) {
	c.msg = msg
	return nil, nil
}

// Call runs the method. A panic in it is an internal error, not the end of
// the process.
func (c *call) Call(...any) (ret []any, err error) {
	defer c.server.called()
	defer func() {
		if v := recover(); v != nil {
			c.server.panicked(c.iface+"."+c.method, v)
			ret, err = nil, ToBus(fmt.Errorf("internal error: %s has panicked", c.method))
		}
	}()
	sender, _ := c.msg.Headers[dbus.FieldSender].Value().(string)
	leave, err := c.server.limits.enter(sender, sizeOf(c.msg.Body), c.caller().account)
	if err != nil {
		return nil, ToBus(err)
	}
	defer leave()
	ret, err = c.run()
	if err != nil {
		return nil, ToBus(err)
	}
	for i := range ret {
		ret[i] = cleaned(ret[i])
	}
	if !slices.ContainsFunc(ret, isFile) {
		return ret, nil
	}
	c.replyWithFiles(ret)
	return nil, nil
}

func isFile(v any) bool {
	_, ok := v.(*os.File)
	return ok
}

// replyWithFiles sends the reply itself, so that it can close the descriptors as soon as
// they are sent.
func (c *call) replyWithFiles(ret []any) {
	wanted := c.msg.Flags&dbus.FlagNoReplyExpected == 0
	c.msg.Flags |= dbus.FlagNoReplyExpected // keeps the library from replying, too
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(c.msg.Serial()),
	}}
	if sender, ok := c.msg.Headers[dbus.FieldSender]; ok {
		reply.Headers[dbus.FieldDestination] = sender
	}
	for _, v := range ret {
		if f, ok := v.(*os.File); ok {
			defer f.Close()
			v = dbus.UnixFD(f.Fd())
		}
		reply.Body = append(reply.Body, v)
	}
	reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
	if wanted {
		c.server.conn.Send(reply, nil) // returns when it is written or has failed
	}
}

// run finds the method and calls it.
func (c *call) run() ([]any, error) {
	object := c.server.object(c.path)
	signature, _ := c.msg.Headers[dbus.FieldSignature].Value().(dbus.Signature)
	switch c.iface {
	case introspectableInterface:
		if c.method != "Introspect" {
			return nil, c.unknownMethod()
		}
		return c.introspect(object)
	case objectManagerInterface:
		if c.path != c.server.managerPath() || c.method != "GetManagedObjects" {
			return nil, c.unknownMethod()
		}
		all, err := c.server.managing.Do(c.server.managedProperties)
		return []any{all}, err
	}
	if object == nil {
		return nil, dbus.NewError(errPrefix+"UnknownObject", []any{fmt.Sprintf("there is no object %s", c.path)})
	}
	if c.iface == propertiesInterface {
		return c.property(object, signature.String())
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if c.iface != "" && c.iface != name {
			continue
		}
		in, ok := object[name].info().methods[c.method]
		if !ok {
			continue
		}
		if in != signature.String() {
			return nil, badArguments("%s.%s takes (%s), not (%s)", name, c.method, in, signature)
		}
		return object[name].invoke(c.caller(), c.method, c.msg.Body)
	}
	if _, ok := object[c.iface]; !ok && c.iface != "" {
		return nil, dbus.NewError(errPrefix+"UnknownInterface", []any{fmt.Sprintf("%s has no interface %s", c.path, c.iface)})
	}
	return nil, c.unknownMethod()
}

func (c *call) caller() Caller {
	sender, _ := c.msg.Headers[dbus.FieldSender].Value().(string)
	return Caller{Sender: sender, Interactive: c.msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0, conn: c.server.conn, of: c.server.callers,
		creds: func() (Credentials, error) { return c.server.callers.of(c.server.conn, sender) }}
}

func (c *call) unknownMethod() error {
	return dbus.NewError(errPrefix+"UnknownMethod", []any{fmt.Sprintf("%s has no method %s.%s", c.path, c.iface, c.method)})
}

func badArguments(format string, args ...any) error {
	return dbus.NewError(errPrefix+"InvalidArgs", []any{fmt.Sprintf(format, args...)})
}

// property serves org.freedesktop.DBus.Properties.
func (c *call) property(object map[string]Interface, signature string) ([]any, error) {
	wants := map[string]string{"Get": "ss", "GetAll": "s", "Set": "ssv"}
	want, ok := wants[c.method]
	if !ok {
		return nil, c.unknownMethod()
	}
	if want != signature {
		return nil, badArguments("%s takes (%s), not (%s)", c.method, want, signature)
	}
	name := c.msg.Body[0].(string)
	i, ok := object[name]
	if !ok {
		if isStandard(name) && c.method == "GetAll" {
			return []any{map[string]dbus.Variant{}}, nil
		}
		return nil, dbus.NewError(errPrefix+"UnknownInterface", []any{fmt.Sprintf("%s has no interface %s", c.path, name)})
	}
	all := map[string]dbus.Variant{}
	if p := i.properties(); p != nil {
		r := &Reading{}
		if c.method == "Get" && i.info().announces(c.msg.Body[1].(string)) {
			r = nil // no other property is computed for it
		}
		all = p.variants(r, i.info())
	}
	if c.method == "GetAll" {
		return []any{all}, nil
	}
	prop := c.msg.Body[1].(string)
	v, ok := all[prop]
	switch {
	case !ok:
		return nil, dbus.NewError(errPrefix+"UnknownProperty", []any{fmt.Sprintf("%s has no property %s", name, prop)})
	case c.method == "Set":
		return nil, dbus.NewError(errPrefix+"PropertyReadOnly", []any{fmt.Sprintf("property %s cannot be set", prop)})
	}
	return []any{v}, nil
}

func isStandard(iface string) bool {
	switch iface {
	case propertiesInterface, introspectableInterface, peerInterface, objectManagerInterface:
		return true
	}
	return false
}
