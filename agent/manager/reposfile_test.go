package manager

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

// testFileOfRepository covers what the file of a repository says about its packages: their
// names, and its priority over other repositories.
func testFileOfRepository(t *testing.T, m *Manager) {
	a, b := newRepository(t, publish.Options{}, "org.vendor.pen 1", "org.other 1"), newRepository(t, publish.Options{}, "org.vendor.pen 2", "org.other 2")
	m.mustAdd(t, "va", a, a)
	m.mustAdd(t, "vb", b, b)
	defer func() {
		for _, name := range []string{"va", "vb"} {
			if err := m.repos.Remove(name); err != nil {
				t.Error(err)
			}
		}
	}()
	file := filepath.Join(m.settings.Repositories(), "va.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	configure := func(more string) {
		t.Helper()
		write(t, file, string(before)+more)
		if err := m.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	// chosen checks the repository of a name; "" means that it is ambiguous.
	chosen := func(name, want string) {
		t.Helper()
		from, err := m.offers.Choose(t.Context(), name, "", "stable")
		if want == "" && !errkind.Is(err, errkind.Invalid) || want != "" && (from != want || err != nil) {
			t.Errorf("%s: got %q and %v, want %q, which is an error of kind %s if it is empty", name, from, err, want, errkind.Invalid)
		}
	}
	resolved := func(want string) {
		t.Helper()
		r, err := m.opener.Resolve(t.Context(), "org.vendor.pen", "", "", "test", 0, nil)
		if err != nil {
			t.Fatalf("resolve: %v", err)
		}
		r.Dir.Close()
		r.Lease.Close()
		if r.Version != want {
			t.Errorf("resolved version %s, want %s", r.Version, want)
		}
	}

	chosen("org.vendor.pen", "")
	configure("priority: 1\n")
	chosen("org.vendor.pen", "va")
	resolved("1")
	configure("priority: -1\n")
	chosen("org.vendor.pen", "vb")
	resolved("2")
	// Both are resident now. Without their repositories the same one counts.
	for _, dir := range []string{a, b} {
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	resolved("2")
	for _, dir := range []string{a, b} {
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
	}

	configure("names: [org.vendor.*]\n")
	chosen("org.vendor.pen", "")
	chosen("org.other", "vb")
	if _, err := m.offers.Choose(t.Context(), "org.other", "va", "stable"); !errkind.Is(err, errkind.NotFound) || !strings.Contains(err.Error(), "its file names other packages") {
		t.Errorf("a name that its file does not have: got %v, want an error of kind %s that mentions the file", err, errkind.NotFound)
	}
	list, failed, err := m.offers.Available(t.Context(), "va", true)
	if err != nil || len(failed) > 0 || len(list) != 1 || list[0].Name != "org.vendor.pen" {
		t.Errorf("available: got %v, failed %v, error %v; want org.vendor.pen alone", list, failed, err)
	}
	configure("names: [org.other]\npriority: 7\n")
	chosen("org.vendor.pen", "vb")
	chosen("org.other", "va")
	if err := m.repos.SetURL(t.Context(), "va", "file://"+a); err != nil {
		t.Fatal(err)
	}
	if c := m.repos.ConfigOf("va"); !slices.Equal(c.Names, []string{"org.other"}) || c.Priority != 7 || c.URL != "file://"+a {
		t.Errorf("with another address: got names %v and priority %d at %s, want [org.other] and 7 at file://%s", c.Names, c.Priority, c.URL, a)
	}
}
