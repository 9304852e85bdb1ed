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

		name := Scope(instance, pkg, random)
		if i, p, ok := ParseScope(name); !ok || i != instance || p != pkg.Short() {
			t.Fatalf("ParseScope(%q): got %q, %q, %v, want %q, %q and true", name, i, p, ok, instance, pkg.Short())
		}
		name = ServiceUnit(instance, service)
		if i, s, ok := ParseServiceUnit(name); !ok || i != instance || s != service {
			t.Fatalf("ParseServiceUnit(%q): got %q, %q, %v, want %q, %q and true", name, i, s, ok, instance, service)
		}
		name = Run(pkg, service, random)
		if p, s, ok := ParseRun(name); !ok || p != pkg.Short() || s != service {
			t.Fatalf("ParseRun(%q): got %q, %q, %v, want %q, %q and true", name, p, s, ok, pkg.Short(), service)
		}
		name = Run(pkg, "", random)
		if p, s, ok := ParseRun(name); !ok || p != pkg.Short() || s != "" {
			t.Fatalf("ParseRun(%q): got %q, %q, %v, want %q, no service and true", name, p, s, ok, pkg.Short())
		}
		for _, svc := range []bool{true, false} {
			name = FreezerGroup(instance, svc)
			if i, s, ok := ParseFreezerGroup(name); !ok || i != instance || s != svc {
				t.Fatalf("ParseFreezerGroup(%q): got %q, %v, %v, want %q, %v and true", name, i, s, ok, instance, svc)
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
			t.Errorf("ParseScope(%q): got %q and true, want false", name, i)
		}
	}
	for _, name := range []string{"lull-boot.service", "lull-userd.service", "lulld.service", "lull--x.service", "lull-x-.service", "lull-x-y.scope"} {
		if i, _, ok := ParseServiceUnit(name); ok {
			t.Errorf("ParseServiceUnit(%q): got %q and true, want false", name, i)
		}
	}
	for _, name := range []string{"", ".", "0123456789abcdef", "0123456789abcdef.", "0123456789abcdef.0123456", "0123456789abcdef.01234567.", "0123456789abcde.01234567"} {
		if _, _, ok := ParseRun(name); ok {
			t.Errorf("ParseRun(%q): got true, want false", name)
		}
	}
	for _, name := range []string{"", "lull", "lull.", "lull-svc.", "snap.x"} {
		if i, _, ok := ParseFreezerGroup(name); ok {
			t.Errorf("ParseFreezerGroup(%q): got %q and true, want false", name, i)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Scope("org.x-y.App_k", pkg, "01234567"))
	f.Add(ServiceUnit("org.x-y.App", "d-bus"))
	f.Fuzz(func(t *testing.T, s string) {
		if i, _, ok := ParseScope(s); ok && i == "" {
			t.Errorf("ParseScope(%q): got no instance and true, want an instance", s)
		}
		if i, svc, ok := ParseServiceUnit(s); ok && (i == "" || svc == "") {
			t.Errorf("ParseServiceUnit(%q): got %q, %q and true, want an instance and a service", s, i, svc)
		}
		if prefix, _, ok := ParseRun(s); ok && len(prefix) != 16 {
			t.Errorf("ParseRun(%q): got the package %q, want 16 digits", s, prefix)
		}
		if i, _, ok := ParseFreezerGroup(s); ok && i == "" {
			t.Error("a group of nobody")
		}
	})
}
