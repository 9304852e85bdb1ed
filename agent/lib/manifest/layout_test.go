package manifest

import (
	"fmt"
	"strings"
	"testing"
)

// TestLayout checks which places a package can have.
func TestLayout(t *testing.T) {
	for _, c := range []struct{ at, part, text string }{
		{"/opt/App", "opt/App", ""}, {"/usr/share/app", "share", ""}, {"/usr/lib/x86_64-linux-gnu/app", "lib", ""},
		{"/usr/share/perl5/App", "x", ""}, {"/usr/share/glib-2.0/schemas/org.example.app.gschema.xml", "x", ""}, {"/usr/lib/app/sub", "x", ""},
		{"/usr/share/locale", "usr/share/locale", ""}, {"/usr/share/locale/de", "x", ""},
		{"opt/App", "x", "want an absolute path"}, {"/opt/App/", "x", "want an absolute path"}, {"/opt/../etc", "x", "want an absolute path"},
		{"/", "x", "a package can have a place in /opt"}, {"/opt", "x", "a package can have a place in"}, {"/usr", "x", "a package can have a place in"},
		{"/usr/share", "x", "a package can have a place in"}, {"/usr/bin/app", "x", "a package can have a place in"}, {"/etc/app", "x", ""}, {"/etc/xdg/app", "x", ""}, {"/etc", "x", "a package can have a place in"}, {"/etc/fonts", "x", "other programs' files"},
		{"/home/x", "x", "a package can have a place in"}, {"/var/lib/app", "x", "a package can have a place in"}, {"/proc/app", "x", "a package can have a place in"},
		{"/usr/share/icons", "x", "other programs' files"}, {"/usr/lib/x86_64-linux-gnu", "x", "other programs' files"}, {"/usr/lib/python3", "x", "other programs' files"},
		{"/usr/lib/aarch64-linux-gnu/qt6", "x", "other programs' files"},
		{"/opt/a:b", "x", "cannot be mounted"}, {"/opt/a,b", "x", "cannot be mounted"}, {"/opt/a\nb", "x", "a control character"},
		{"/opt/" + strings.Repeat("x", 256), "x", "a component has more than 255"},
		{"/opt/App", "", "an empty path"}, {"/opt/App", "../x", `".." is not allowed`}, {"/opt/App", "/etc", "the path is absolute"}, {"/opt/App", ".lull/x", "reserved"},
	} {
		if err := CheckLayout(c.at, c.part); (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %s: %v, want %q", c.at, c.part, err, c.text)
		}
	}
	many := map[string]string{}
	for i := range MaxLayout + 1 {
		many[fmt.Sprint("/opt/", i)] = "x"
	}
	if err := checkLayout(many); err == nil || !strings.Contains(err.Error(), "33 paths, where 32 are allowed") {
		t.Error(err)
	}
	if err := checkLayout(map[string]string{"/opt/a": "x", "/opt/a/b/c": "x"}); err == nil || !strings.Contains(err.Error(), "/opt/a/b/c is below /opt/a") {
		t.Error(err)
	}
}
