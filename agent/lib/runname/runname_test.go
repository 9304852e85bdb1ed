package runname

import (
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/digest"
)

var pkg = digest.Of([]byte("a package"))

func TestNamesAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		instance := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9.-]{0,62}(_[A-Za-z0-9][A-Za-z0-9.-]{0,20})?`).Draw(t, "instance")
		service := rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9._-]{0,40}`).Draw(t, "service")
		random := Random()

		if i, p, ok := ParseScope(Scope(instance, pkg, random)); !ok || i != instance || p != pkg.Short() {
			t.Fatalf("scope %q: %q %q %v", Scope(instance, pkg, random), i, p, ok)
		}
		if i, s, ok := ParseServiceUnit(ServiceUnit(instance, service)); !ok || i != instance || s != service {
			t.Fatalf("unit %q: %q %q %v", ServiceUnit(instance, service), i, s, ok)
		}
		if p, s, ok := ParseRun(Run(pkg, service, random)); !ok || p != pkg.Short() || s != service {
			t.Fatalf("run: %q %q %v", p, s, ok)
		}
		if p, s, ok := ParseRun(Run(pkg, "", random)); !ok || p != pkg.Short() || s != "" {
			t.Fatalf("run: %q %q %v", p, s, ok)
		}
		for _, svc := range []bool{true, false} {
			if i, s, ok := ParseFreezerGroup(FreezerGroup(instance, svc)); !ok || i != instance || s != svc {
				t.Fatalf("group: %q %v %v", i, s, ok)
			}
		}
		if got, want := Escape(instance), unit.UnitNameEscape(instance); got != want {
			t.Fatalf("escaped %q as %q, systemd as %q; want %v", instance, got, want, want)
		}
	})
}

func TestForeignNames(t *testing.T) {
	for _, name := range []string{
		"", ".scope", "app-lull-.scope", "app-lull-x.scope", "app-lull-x-1234.scope",
		"app-gnome-x-0123456789abcdef01234567.scope", "app-lull-x-0123456789ABCDEF01234567.scope",
		"app-lull-x-0123456789abcdef01234567.service", `app-lull-x\-0123456789abcdef01234567.scope`,
		`app-lull-x\x2f-0123456789abcdef01234567.scope`, "app-lull--0123456789abcdef01234567.scope",
	} {
		if i, _, ok := ParseScope(name); ok {
			t.Errorf("scope %q belongs to %q", name, i)
		}
	}
	for _, name := range []string{"lull-boot.service", "lull-userd.service", "lulld.service", "lull--x.service", "lull-x-.service", "lull-x-y.scope"} {
		if i, _, ok := ParseServiceUnit(name); ok {
			t.Errorf("unit %q belongs to %q", name, i)
		}
	}
	for _, name := range []string{"", ".", "0123456789abcdef", "0123456789abcdef.", "0123456789abcdef.0123456", "0123456789abcdef.01234567.", "0123456789abcde.01234567"} {
		if _, _, ok := ParseRun(name); ok {
			t.Errorf("%q is a run", name)
		}
	}
	for _, name := range []string{"", "lull", "lull.", "lull-svc.", "snap.x"} {
		if i, _, ok := ParseFreezerGroup(name); ok {
			t.Errorf("group %q belongs to %q", name, i)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Scope("org.x-y.App_k", pkg, "01234567"))
	f.Add(ServiceUnit("org.x-y.App", "d-bus"))
	f.Fuzz(func(t *testing.T, s string) {
		if i, _, ok := ParseScope(s); ok && i == "" {
			t.Error("a scope of nobody")
		}
		if i, svc, ok := ParseServiceUnit(s); ok && (i == "" || svc == "") {
			t.Error("a unit of nobody")
		}
		if prefix, _, ok := ParseRun(s); ok && len(prefix) != 16 {
			t.Errorf("a run of package %q", prefix)
		}
		if i, _, ok := ParseFreezerGroup(s); ok && i == "" {
			t.Error("a group of nobody")
		}
	})
}
