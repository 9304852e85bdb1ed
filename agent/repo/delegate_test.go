package repo_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

const vendorApp = "org.vendor.editor"

// vendor is another publisher, whose key may sign names in the repository of f.
type vendor struct {
	*fixture // has the directory of the keys beside its own
	f        *fixture
}

// The ways in which a repository lists its packages beside delegated names.
const (
	inOneList  = "in one list"
	inBins     = "in bins"
	inBinsThen = "in bins then" // delegated first
)

// eachListing runs a test with each of them.
func eachListing(t *testing.T, test func(t *testing.T, listing string)) {
	for _, listing := range []string{inOneList, inBins, inBinsThen} {
		t.Run(strings.ReplaceAll(listing, " ", "-"), func(t *testing.T) { test(t, listing) })
	}
}

func delegatedFixture(t *testing.T, listing string, before ...string) (f *fixture, v *vendor) {
	t.Helper()
	f = newFixtureOf(t, publish.Expiry{}, 1000)
	for _, name := range before {
		f.put(name, "1")
	}
	if listing == inBins {
		f.resign(publish.ResignOptions{Bins: true})
	}
	v = &vendor{&fixture{t: t, dir: filepath.Join(t.TempDir(), "vendor")}, f}
	keys := v.dir + ".keys"
	public, err := publish.ExportKey(t.Context(), "vendor", publish.Common{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(keys, "root.json"), f.root, 0o644); err != nil {
		t.Fatal(err)
	}
	o := publish.DelegateOptions{Common: publish.Common{Now: now}, Role: "vendor", Names: []string{"org.vendor.*", "net.vendor"}, Keys: []string{public}}
	if err := publish.Delegate(t.Context(), f.dir, o); err != nil {
		t.Fatal(err)
	}
	if listing == inBinsThen {
		f.resign(publish.ResignOptions{Bins: true})
	}
	return f, v
}

func (v *vendor) put(name, version string) (*publish.Result, error) {
	v.t.Helper()
	src := v.t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: "+name+"\nversion: \""+version+"\"\n"), 0o644); err != nil {
		v.t.Fatal(err)
	}
	return publish.Publish(v.t.Context(), v.f.dir, src, publish.Options{Common: publish.Common{Now: now, Keys: v.dir + ".keys"}})
}

// puts publishes, and the owner of the repository accepts.
func (v *vendor) puts(name, version string) {
	v.t.Helper()
	res, err := v.put(name, version)
	if err == nil {
		_, err = publish.Accept(v.t.Context(), v.f.dir, "vendor", publish.Common{Now: now})
	}
	if err != nil || res.Proposed != "vendor" {
		v.t.Fatal(res, err)
	}
}

// lists signs a list of the role as the owner of its key can, and names it in the snapshot, as
// a thief of the online keys can, too.
func (v *vendor) lists(change func(*metadata.TargetsType)) {
	v.t.Helper()
	m := metadata.Targets(now.Add(24 * time.Hour))
	m.Signed.Version = 50
	change(&m.Signed)
	v.f.write("metadata/50.vendor.json", sign(v.fixture, "vendor", m))
	v.f.signSnapshot(func(s *metadata.SnapshotType) { s.Meta["vendor.json"] = metadata.MetaFile(50) })
}

// offered is the newest version of a package for a client that reads the repository now.
func offered(t *testing.T, c *repo.Client, name string) (string, error) {
	t.Helper()
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := c.Channel(t.Context(), name, "stable")
	if err != nil {
		return "", err
	}
	return p.Version, nil
}

func listed(t *testing.T, c *repo.Client) (names []string) {
	t.Helper()
	list, err := c.Listings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		names = append(names, l.Name)
	}
	return names
}

// TestDelegation: another publisher's versions reach machines when the owner has accepted
// them; the owner continues to publish meanwhile.
func TestDelegation(t *testing.T) {
	eachListing(t, func(t *testing.T, listing string) {
		f, v := delegatedFixture(t, listing)
		c := f.client("", t.TempDir())
		if res, err := v.put(vendorApp, "1"); err != nil || res.Proposed != "vendor" {
			t.Fatal(res, err)
		}
		if version, err := offered(t, c, vendorApp); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("before it is accepted: %q, %v", version, err)
		}
		f.publish("1.1", publish.Expiry{})
		v.puts("net.vendor", "5") // with what was proposed before
		for name, want := range map[string]string{vendorApp: "1", "net.vendor": "5", app: "1.1"} {
			if version, err := offered(t, c, name); version != want {
				t.Errorf("%s: %q, want %v, %v", name, version, want, err)
			}
		}
		if names := listed(t, c); !slices.Equal(names, []string{"net.vendor", app, vendorApp}) {
			t.Errorf("listed are %q", names)
		}
		v.puts(vendorApp, "2")
		if version, err := offered(t, f.client("", t.TempDir()), vendorApp); version != "2" {
			t.Errorf("a new machine: %q, want 2, %v", version, err)
		}
		if _, err := publish.Accept(t.Context(), f.dir, "vendor", publish.Common{Now: now}); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("nothing new is accepted: %v", err)
		}
		if r, err := publish.Check(t.Context(), f.dir, publish.CheckOptions{Common: publish.Common{Now: now}}); err != nil || r.Channels != 3 || len(r.Faults) > 0 {
			t.Errorf("Check: got %+v, %v; want 3 channels, no faults and no error", r, err)
		}
		if _, err := publish.Prune(t.Context(), f.dir, publish.PruneOptions{Common: publish.Common{Now: now}}); err != nil {
			t.Error(err)
		}
		f.resign(publish.ResignOptions{All: true})
		if version, err := offered(t, c, vendorApp); version != "2" {
			t.Errorf("after maintenance: %q, want 2, %v", version, err)
		}
		if err := publish.Undelegate(t.Context(), f.dir, "vendor", publish.Common{Now: now}); err != nil {
			t.Fatal(err)
		}
		if version, err := offered(t, c, vendorApp); version != "2" {
			t.Errorf("after the end of the delegation: %q, want 2, %v", version, err)
		}
		f.put(vendorApp, "3")
		if version, err := offered(t, c, vendorApp); version != "3" {
			t.Errorf("published by the owner: %q, want 3, %v", version, err)
		}
	})
}

// TestNamesAreHandedOver: a name that the owner offers is offered without a gap until the
// first list with it is accepted.
func TestNamesAreHandedOver(t *testing.T) {
	eachListing(t, func(t *testing.T, listing string) {
		f, v := delegatedFixture(t, listing, "net.vendor")
		c := f.client("", t.TempDir())
		if version, err := offered(t, c, "net.vendor"); version != "1" {
			t.Errorf("%q, want 1, %v", version, err)
		}
		v.puts("net.vendor", "2")
		if version, err := offered(t, c, "net.vendor"); version != "2" {
			t.Errorf("%q, want 2, %v", version, err)
		}
	})
}

// TestStolenDelegatedKey: a delegated key harms its names alone, even with the online keys.
func TestStolenDelegatedKey(t *testing.T) {
	eachListing(t, func(t *testing.T, listing string) {
		f, v := delegatedFixture(t, listing)
		v.puts(vendorApp, "1")
		if _, err := v.put("org.example.other", "1"); err == nil {
			t.Error("a name that is not delegated is published")
		}
		evil := metadata.TargetFile()
		evil.Length, evil.Hashes["sha256"] = 5, make([]byte, 32)
		genuine := f.save()
		for what, change := range map[string]func(*metadata.TargetsType){
			"another name":        func(l *metadata.TargetsType) { l.Targets[repo.PointerPath(app, "stable")] = evil },
			"a new name":          func(l *metadata.TargetsType) { l.Targets[repo.PointerPath("org.example.new", "stable")] = evil },
			"an entry of nothing": func(l *metadata.TargetsType) { l.Targets[repo.PointerPath(vendorApp, "stable")] = nil },
			"another version":     func(l *metadata.TargetsType) { l.Version = 7 },
			"an expired list":     func(l *metadata.TargetsType) { l.Expires = now },
			"delegation": func(l *metadata.TargetsType) {
				l.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{{Name: "x", Threshold: 1, Paths: []string{"channels/*/*"}}}}
			},
		} {
			t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
				state := t.TempDir()
				if version, err := offered(t, f.client("", state), vendorApp); version != "1" {
					t.Fatal(version, err)
				}
				v.lists(change)
				defer f.restore(genuine)
				for _, c := range []*repo.Client{f.client("", state), f.client("", t.TempDir())} {
					if version, err := offered(t, c, app); version != "1.0" {
						t.Errorf("%q, want 1.0, %v", version, err)
					}
					if version, err := offered(t, c, vendorApp); version != "" {
						t.Errorf("the name of the vendor: %q, %v", version, err)
					}
					if _, err := c.Channel(t.Context(), "org.example.new", "stable"); !errkind.Is(err, errkind.NotFound) {
						t.Errorf("a name that is not delegated: got %v, want an error of kind %v", err, errkind.NotFound)
					}
					if names := listed(t, c); slices.ContainsFunc(names, func(n string) bool { return n != app && n != vendorApp }) || !slices.Contains(names, app) {
						t.Errorf("listed are %q, want %s, perhaps %s, and no other name", names, app, vendorApp)
					}
				}
			})
		}
		// The owner accepts nothing of that kind.
		next := metadata.Targets(now.Add(24 * time.Hour))
		next.Signed.Version = 2
		next.Signed.Targets[repo.PointerPath(app, "stable")] = evil
		f.write("metadata/2.vendor.json", sign(v.fixture, "vendor", next))
		if _, err := publish.Accept(t.Context(), f.dir, "vendor", publish.Common{Now: now}); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "not delegated to it") {
			t.Error(err)
		}
		f.write("metadata/2.vendor.json", sign(f, metadata.TIMESTAMP, next))
		if _, err := publish.Accept(t.Context(), f.dir, "vendor", publish.Common{Now: now}); !errkind.Is(err, errkind.Untrusted) {
			t.Error(err)
		}
	})
}

// TestDelegationsThatAreRefused: bad input has one clear error and changes nothing.
func TestDelegationsThatAreRefused(t *testing.T) {
	f, _ := delegatedFixture(t, inOneList)
	before := f.read("metadata/timestamp.json")
	delegate := func(role string, keys []string, names ...string) error {
		return publish.Delegate(t.Context(), f.dir, publish.DelegateOptions{Common: publish.Common{Now: now}, Role: role, Names: names, Keys: keys})
	}
	garbage := filepath.Join(t.TempDir(), "garbage.pub")
	if err := os.WriteFile(garbage, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		err  error
		kind errkind.Kind
	}{
		"a role of TUF":     {delegate("snapshot", nil, "a"), errkind.Usage},
		"a bad role":        {delegate("a/b", nil, "a"), errkind.Usage},
		"no name":           {delegate("other", nil), errkind.Usage},
		"all names":         {delegate("other", nil, "*"), errkind.Usage},
		"a pattern":         {delegate("other", nil, "a?c"), errkind.Usage},
		"a path":            {delegate("other", nil, "../a*"), errkind.Usage},
		"garbage as a key":  {delegate("other", []string{garbage}, "a"), errkind.Invalid},
		"another key":       {delegate("vendor", nil, "a"), errkind.Exists},
		"no such role":      {publish.Undelegate(t.Context(), f.dir, "other", publish.Common{Now: now}), errkind.NotFound},
		"the name of a bin": {delegate("bin-3ff", nil, "a"), errkind.Usage},
	} {
		if !errkind.Is(c.err, c.kind) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	if string(f.read("metadata/timestamp.json")) != string(before) {
		t.Error("something was signed")
	}
}
