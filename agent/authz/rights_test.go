package authz

import (
	"encoding/xml"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRightsAreWritten: docs/rights.md has a row for every method that the XML
// describes, with the results of its action's defaults. A test with a real
// polkitd, in e2e/container, checks that calls have these results.
func TestRightsAreWritten(t *testing.T) {
	read := func(path string, v any) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err == nil && v != nil {
			err = xml.Unmarshal(b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var bus struct {
		Interfaces []struct {
			Name    string `xml:"name,attr"`
			Methods []struct {
				Name string `xml:"name,attr"`
			} `xml:"method"`
		} `xml:"interface"`
	}
	var polkit struct {
		Actions []struct {
			ID       string `xml:"id,attr"`
			Any      string `xml:"defaults>allow_any"`
			Inactive string `xml:"defaults>allow_inactive"`
			Active   string `xml:"defaults>allow_active"`
		} `xml:"action"`
	}
	read("../../dbus/org.lull.Agent1.xml", &bus)
	read("../../policy/org.lull.policy", &polkit)
	means := map[string]string{"yes": "yes", "no": "no", "auth_admin": "password", "auth_admin_keep": "password"}
	defaults := map[string][]string{"": {"yes", "yes", "yes", "yes"}}
	for _, a := range polkit.Actions {
		defaults[a.ID] = []string{"yes", means[a.Active], means[a.Inactive], means[a.Any]}
	}

	rows, used := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(read("../../docs/rights.md", nil))) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 || !strings.Contains(cells[0], ".") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		method, _, _ := strings.Cut(cells[0], ",")
		rows[method], used[cells[1]] = true, true
		if cells[6] == "" {
			t.Errorf("%s: got no effect on other users, want one, or \"nothing\"", cells[0])
		}
		if want := defaults[cells[1]]; !slices.Equal(cells[2:6], want) {
			t.Errorf("%s: got %v, want %v, the defaults of %q", cells[0], cells[2:6], want, cells[1])
		}
	}
	methods := map[string]bool{}
	for _, i := range bus.Interfaces {
		for _, m := range i.Methods {
			name := strings.TrimPrefix(i.Name, "org.lull.Agent1.") + "." + m.Name
			methods[name] = true
			if !rows[name] {
				t.Errorf("%s has no row in docs/rights.md", name)
			}
		}
	}
	var session struct {
		Methods []struct {
			Name string `xml:"name,attr"`
		} `xml:"interface>method"`
	}
	read("../../dbus/org.lull.Session1.xml", &session)
	text := string(read("../../docs/rights.md", nil))
	for _, m := range session.Methods {
		_, row, ok := strings.Cut(text, "\n| `Session1."+m.Name+"` | ")
		if effect, _, _ := strings.Cut(row, "|"); !ok || strings.TrimSpace(effect) == "" {
			t.Errorf("Session1.%s: got the effect %q on other users in docs/rights.md, want one, or \"nothing\"", m.Name, effect)
		}
	}
	for name := range rows {
		if !methods[name] {
			t.Errorf("docs/rights.md has a row for %s, which is no method", name)
		}
	}
	for _, action := range Actions() {
		if !used[action] {
			t.Errorf("no row needs %s", action)
		}
	}
}
