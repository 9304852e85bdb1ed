package scopes

import (
	"context"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/bustest"
)

// managerOnBus answers as systemd does. Before its job has failed, another connection reports that
// it is done.
type managerOnBus struct {
	t              *testing.T
	conn, stranger *dbus.Conn
}

type aux struct {
	Name       string
	Properties []property
}

func (m *managerOnBus) StartTransientUnit(msg dbus.Message, name, mode string, _ []property, _ []aux) (dbus.ObjectPath, *dbus.Error) {
	caller := msg.Headers[dbus.FieldSender].Value().(string)
	job := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	send := func(c *dbus.Conn, result string) {
		body := []any{uint32(7), job, name, result}
		msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(caller), dbus.FieldPath: dbus.MakeVariant(object), dbus.FieldInterface: dbus.MakeVariant(manager),
			dbus.FieldMember: dbus.MakeVariant("JobRemoved"), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...))}, Body: body}
		if call := c.Send(msg, nil); call != nil && call.Err != nil {
			m.t.Error(call.Err)
		}
		if err := c.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil { // the bus has it by now
			m.t.Error(err)
		}
	}
	send(m.stranger, "done")
	send(m.conn, "failed")
	return job, nil
}

func TestOnlySystemdEndsAJob(t *testing.T) {
	address := bustest.Start(t)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
	m := &managerOnBus{t: t}
	var err error
	for _, c := range []**dbus.Conn{&m.conn, &m.stranger} {
		if *c, err = dbus.Connect(address); err != nil {
			t.Fatal(err)
		}
		defer (*c).Close()
	}
	if err := m.conn.Export(m, object, manager); err != nil {
		t.Fatal(err)
	}
	if _, err := m.conn.RequestName(destination, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := dialBus(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.conn.Close()
	if err := b.start(ctx, "x.scope", "fail", []property{}, []aux{}); err == nil {
		t.Error("a stranger has ended the job")
	}
}
