package dialer

import (
	"encoding/xml"
	"os"
	"strings"
	"testing"
)

// TestAwaitedIsComplete: every method of the agent that returns descriptors is in the
// list, with its signature. The descriptors of any other reply are dropped.
func TestAwaitedIsComplete(t *testing.T) {
	b, err := os.ReadFile("../../../dbus/org.lull.Agent1.xml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Interfaces []struct {
			Name    string `xml:"name,attr"`
			Methods []struct {
				Name string `xml:"name,attr"`
				Args []struct {
					Type      string `xml:"type,attr"`
					Direction string `xml:"direction,attr"`
				} `xml:"arg"`
			} `xml:"method"`
		} `xml:"interface"`
	}
	if err := xml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, i := range file.Interfaces {
		for _, m := range i.Methods {
			sig := ""
			for _, a := range m.Args {
				if a.Direction == "out" {
					sig += a.Type
				}
			}
			if !strings.Contains(sig, "h") {
				continue
			}
			found++
			if name := i.Name + "." + m.Name; carriers[name] != sig {
				t.Errorf("%s returns %s, the list has %q", name, sig, carriers[name])
			}
		}
	}
	if found < 3 {
		t.Errorf("found %d methods that return descriptors, want at least 3", found)
	}
}
