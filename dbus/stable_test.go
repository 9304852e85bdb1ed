package bus

import (
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
)

// described is an interface as it is introspected.
type described struct {
	Name        string       `xml:"name,attr"`
	Annotations []annotation `xml:"annotation"`
	Methods     []member     `xml:"method"`
	Signals     []member     `xml:"signal"`
	Properties  []member     `xml:"property"`
}

type member struct {
	Name        string       `xml:"name,attr"`
	Type        string       `xml:"type,attr"`
	Direction   string       `xml:"direction,attr"`
	Annotations []annotation `xml:"annotation"`
	Args        []member     `xml:"arg"`
}

type annotation struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

func valueOf(list []annotation, name string) string {
	for _, a := range list {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// interfaces are all, as a live service introspects them.
func interfaces(t *testing.T) (list []described) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(fragments())) {
		var d described
		if err := xml.Unmarshal([]byte(fragments()[name]), &d); err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

// TestEverythingIsDocumented: every interface, method, signal and property has its
// documentation in the live introspection, and every interface of the agent the units
// and the names of all errors.
func TestEverythingIsDocumented(t *testing.T) {
	const doc = "org.gtk.GDBus.DocString"
	source, err := os.ReadFile("../agent/lib/errkind/errkind.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "(\w+)"`).FindAllSubmatch(source, -1)
	if len(kinds) < 15 {
		t.Fatalf("got %d kinds of errors in errkind.go, want at least 15", len(kinds))
	}
	for _, d := range interfaces(t) {
		if valueOf(d.Annotations, doc) == "" {
			t.Errorf("%s has no documentation", d.Name)
		}
		for _, m := range slices.Concat(d.Methods, d.Signals, d.Properties) {
			if valueOf(m.Annotations, doc) == "" {
				t.Errorf("%s.%s has no documentation", d.Name, m.Name)
			}
		}
		if !strings.HasPrefix(d.Name, AgentName) {
			continue
		}
		conventions := valueOf(d.Annotations, "org.lull.Conventions")
		for _, k := range kinds {
			if name := string(k[1]); name != string(errkind.Usage) && !strings.Contains(conventions, errkind.Prefix+name+" (") &&
				!strings.Contains(conventions, errkind.Prefix+name+",") {
				t.Errorf("%s does not name %s", d.Name, errkind.Prefix+name)
			}
		}
		for _, unit := range []string{"microseconds", "bytes", "hexadecimal"} {
			if !strings.Contains(conventions, unit) {
				t.Errorf("%s does not speak of %s", d.Name, unit)
			}
		}
	}
}

// forHelpers are between lulld and lull-userd, and may change.
var forHelpers = []string{AgentName + ".Helper", AgentName + ".Manager.RegisterHelper", AgentName + ".Manager.SetSessions", AgentName + ".Manager.WorkDone"}

// promised lists what must not change, one line each.
func promised(t *testing.T) (lines []string) {
	t.Helper()
	add := func(what string, list []annotation, format string, args ...any) {
		if slices.ContainsFunc(forHelpers, func(h string) bool { return what == h || strings.HasPrefix(what, h+".") }) {
			return
		}
		lines = append(lines, strings.TrimSpace(what+" "+fmt.Sprintf(format, args...)))
		for _, name := range []string{"org.lull.Struct", "org.lull.Dict"} {
			words := strings.Fields(valueOf(list, name))
			switch {
			case len(words) == 0:
			case name == "org.lull.Struct":
				lines = append(lines, what+" has the fields "+strings.Join(words[1:], " "))
			default:
				for _, key := range words[1:] {
					lines = append(lines, what+" has the key "+key)
				}
			}
		}
	}
	for _, d := range interfaces(t) {
		for _, m := range slices.Concat(d.Methods, d.Signals) {
			add(d.Name+"."+m.Name, nil, "")
			for i, a := range m.Args {
				add(d.Name+"."+m.Name, a.Annotations, "%d %s %s %s", i, a.Direction, a.Type, a.Name)
			}
		}
		for _, p := range d.Properties {
			add(d.Name+"."+p.Name, p.Annotations, "property %s", p.Type)
		}
	}
	return lines
}

// TestStability: what testdata/stable.txt lists is still there as it was; what is new
// is added to the list.
func TestStability(t *testing.T) {
	b, err := os.ReadFile("testdata/stable.txt")
	if err != nil {
		t.Fatal(err)
	}
	have, want := promised(t), strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range want {
		if !slices.Contains(have, line) {
			t.Errorf("got no %q in the interfaces, want it as testdata/stable.txt has it", line)
		}
	}
	for _, line := range have {
		if !slices.Contains(want, line) {
			t.Errorf("add this to testdata/stable.txt: %s", line)
		}
	}
}
