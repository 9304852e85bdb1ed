package manifest

import (
	"strings"
	"testing"
)

// TestVariables checks what a package may set, and that an error names its part.
func TestVariables(t *testing.T) {
	list := func(s ...string) Variable { return Variable{Prepend: s} }
	many := make([]string, 65)
	for i := range many {
		many[i] = "/x"
	}
	for _, c := range []struct {
		name       string
		v          Variable
		part, text string
	}{
		{"A", Variable{Value: "x $$HOME ${package}/a ${data}${common}${user_data}${user_common}"}, "", ""},
		{"HOME", Variable{Value: "${user_data}"}, "", ""},
		{"XDG_DATA_DIRS", list("${package}/usr/share", "/opt/x"), "", ""},
		{"LD_LIBRARY_PATH", list("${package}", "/usr/lib/x", "${data}/lib"), "", ""},
		{"LD_PRELOAD", Variable{Value: "${package}/lib/a.so:/lib/b.so"}, "", ""},
		{"PYTHONPATH", Variable{Append: []string{"${user_common}/site"}}, "", ""},
		{"1A", Variable{Value: "x"}, "", "want a name"},
		{"", Variable{Value: "x"}, "", "want a name"},
		{"A=B", Variable{Value: "x"}, "", "want a name"},
		{strings.Repeat("A", 129), Variable{Value: "x"}, "", "want a name"},
		{"LULL_PACKAGE_DIR", Variable{Value: "x"}, "", "packages cannot set this variable"},
		{"NOTIFY_SOCKET", Variable{Value: "/run/x"}, "", "packages cannot set this variable"},
		{"DBUS_SESSION_BUS_ADDRESS", Variable{Value: "x"}, "", "packages cannot set this variable"},
		{"A", Variable{}, "", "it has no value"},
		{"A", Variable{Value: "x", Append: []string{"/x"}}, "", "a value and elements"},
		{"A", list(many...), "", "65 elements"},
		{"A", Variable{Value: "a\nb"}, "", "a control character"},
		{"A", Variable{Value: "${home}/x"}, "", "unknown placeholder ${home}: known are ${package}, ${data}"},
		{"A", Variable{Value: "$HOME"}, "", "want $$ for a dollar sign"},
		{"A", Variable{Value: "${package"}, "", "want $$ for a dollar sign"},
		{"A", Variable{Append: []string{"/x", "${x}/y"}}, "append[1]", "unknown placeholder"},
		{"A", list("/x", "lib"), "prepend[1]", "not an absolute path"},
		{"A", list(""), "prepend[0]", "not an absolute path"},
		{"A", list("${package}lib"), "prepend[0]", "not an absolute path"},
		{"A", list("/a:/b"), "prepend[0]", "has a ':'"},
		{"A", list("${package}/../x"), "prepend[0]", "has '..'"},
		{"LD_LIBRARY_PATH", list("/tmp/x"), "prepend[0]", "code is loaded from it"},
		{"LD_LIBRARY_PATH", list("/usrx"), "prepend[0]", "code is loaded from it"},
		{"LD_PRELOAD", Variable{Value: "a.so"}, "", "not an absolute path"},
		{"PYTHONHOME", Variable{Value: "${package}/x:/home/x"}, "", "code is loaded from it"},
		{"BASH_ENV", Variable{Value: "/usr/../tmp/x"}, "", "has '..'"},
	} {
		part, err := CheckVariable(c.name, c.v)
		if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) || part != c.part {
			t.Errorf("%s %+v: %q, %v; want %q, %q", c.name, c.v, part, err, c.part, c.text)
		}
	}
}
