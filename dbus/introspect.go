package bus

import (
	"embed"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
)

//go:embed *.xml
var xmlFiles embed.FS

// XML returns the introspection data of this package: file name to content.
func XML() map[string][]byte {
	m := map[string][]byte{}
	entries, err := xmlFiles.ReadDir(".")
	if err != nil {
		panic("internal error: " + err.Error()) // it is linked in
	}
	for _, e := range entries {
		m[e.Name()], _ = xmlFiles.ReadFile(e.Name())
	}
	return m
}

// fragments are the texts of the interfaces, cut out of the XML files unchanged, so that a
// service introspects with the text of the files.
var fragments = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, data := range XML() {
		d := xml.NewDecoder(strings.NewReader(string(data)))
		for {
			start := d.InputOffset()
			t, err := d.Token()
			if err != nil {
				break
			}
			e, ok := t.(xml.StartElement)
			if !ok || e.Name.Local != "interface" {
				continue
			}
			if d.Skip() != nil {
				break
			}
			for _, a := range e.Attr {
				if a.Name.Local == "name" {
					m[a.Value] = string(data[start:d.InputOffset()])
				}
			}
		}
	}
	return m
})

const introspectHeader = `<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
`

const standardPeer = `  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
`

const standardIntrospectable = `  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
`

const standardProperties = `  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="props" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
`

const standardObjectManager = `  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object_path" type="o"/>
      <arg name="interfaces_and_properties" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object_path" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
`

// introspect serves Introspect for objects and for the paths that lead to them.
func (c *call) introspect(object map[string]Interface) ([]any, error) {
	children := c.server.children(c.path)
	if object == nil && len(children) == 0 && c.path != "/" {
		return nil, dbus.NewError(errPrefix+"UnknownObject", []any{fmt.Sprintf("there is no object %s", c.path)})
	}
	var b strings.Builder
	b.WriteString(introspectHeader + "<node>\n" + standardPeer + standardIntrospectable)
	if object != nil {
		b.WriteString(standardProperties)
	}
	if c.path == c.server.managerPath() {
		b.WriteString(standardObjectManager)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		b.WriteString("  " + fragments()[name] + "\n")
	}
	for _, child := range children {
		fmt.Fprintf(&b, "  <node name=%q/>\n", child)
	}
	b.WriteString("</node>\n")
	return []any{b.String()}, nil
}
