package story

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// stepBus: everything is on the bus, as in the XML.
func (s *story) stepBus() {
	s.Step(8, "All of this is on the bus as objects and properties")
	address := "--address=" + s.Bus.Address
	tree := s.Admin.Must("busctl", address, "--no-pager", "tree", rig.AgentName)
	s.Ran(tree)
	o, ok := s.api.Package(s.name)
	s.check(ok, "the package has no object")
	r, ok := s.api.Refresh(s.name, V4)
	s.check(ok, "the refresh has no object")
	for _, path := range []string{rig.AgentPath, o.Path, r.Path} {
		s.check(strings.Contains(tree.Stdout, path), "busctl tree does not show %s:\n%s", path, tree.Stdout)
	}
	for path, want := range map[string]string{
		rig.AgentPath: "org.lull.Agent1.Manager", o.Path: `"4.0"`, r.Path: `"done"`,
	} {
		text := s.Admin.Must("busctl", address, "--no-pager", "introspect", rig.AgentName, path).Stdout
		s.check(strings.Contains(text, want), "busctl introspect of %s does not show %s:\n%s", path, want, text)
	}
	job := regexp.MustCompile(rig.AgentPath + `/job/_\w+`).FindString(tree.Stdout) // of the collections before
	s.check(job != "", "no job has an object:\n%s", tree.Stdout)
	checked := s.sameXML(s.Admin, address, rig.AgentName, "org.lull.Agent1.xml", rig.AgentPath, o.Path, r.Path, job)
	session := s.sameXML(s.User, "--address="+s.Session.Address, "org.lull.Session1", "org.lull.Session1.xml", "/org/lull/Session1")
	s.Say("the live introspection of %d interfaces equals the XML in dbus/", checked+session)
}

// node is a D-Bus introspection document, as far as it has meaning.
type node struct {
	Interfaces []iface `xml:"interface"`
}

type iface struct {
	Name        string       `xml:"name,attr"`
	Methods     []member     `xml:"method"`
	Signals     []member     `xml:"signal"`
	Properties  []member     `xml:"property"`
	Annotations []annotation `xml:"annotation"`
}

type member struct {
	Name        string       `xml:"name,attr"`
	Type        string       `xml:"type,attr"`
	Access      string       `xml:"access,attr"`
	Args        []arg        `xml:"arg"`
	Annotations []annotation `xml:"annotation"`
}

type arg struct {
	Name      string `xml:"name,attr"`
	Type      string `xml:"type,attr"`
	Direction string `xml:"direction,attr"`
}

type annotation struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

// sameXML compares the introspection of objects with the XML source, and
// returns the number of interfaces: all of the file must be there.
func (s *story) sameXML(as *rig.Actor, address, name, file string, paths ...string) int {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(rig.Module(), "dbus", file))
	if err != nil {
		s.Fatalf("%v", err)
	}
	var truth node
	if err := xml.Unmarshal(b, &truth); err != nil {
		s.Fatalf("%s: %v", file, err)
	}
	live := map[string]iface{}
	for _, path := range paths {
		text := as.Must("busctl", address, "--no-pager", "introspect", "--xml-interface", name, path).Stdout
		var n node
		if err := xml.Unmarshal([]byte(text), &n); err != nil {
			s.Fatalf("introspection of %s: %v\n%s", path, err, text)
		}
		for _, i := range n.Interfaces {
			live[i.Name] = i
		}
	}
	// An object that exists only while an application has it: e2e/notices covers it.
	truth.Interfaces = slices.DeleteFunc(truth.Interfaces, func(i iface) bool { return i.Name == "org.lull.Agent1.UpdateMonitor" })
	for _, want := range truth.Interfaces {
		got, ok := live[want.Name]
		s.check(ok, "no object has the interface %s", want.Name)
		s.check(reflect.DeepEqual(got, want), "the live %s differs from %s:\n%+v\nwant\n%+v", want.Name, file, got, want)
	}
	return len(truth.Interfaces)
}
