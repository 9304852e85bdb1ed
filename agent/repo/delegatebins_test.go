package repo_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// offers fails the test unless machines that know the repository, and new ones, are offered
// these versions. "" means that the name is not offered.
func (f *fixture) offers(what string, known *repo.Client, want map[string]string) {
	f.t.Helper()
	for kind, c := range map[string]*repo.Client{"known": known, "new": f.client("", f.t.TempDir())} {
		if err := c.Update(f.t.Context()); err != nil {
			f.t.Fatalf("%s, a %s machine: %v", what, kind, err)
		}
		var names []string
		for name, version := range want {
			if version != "" {
				names = append(names, name)
			}
			if got, err := offered(f.t, c, name); got != version || version == "" && !errkind.Is(err, errkind.NotFound) {
				f.t.Errorf("%s, a %s machine: %s is offered in version %q, want %q: %v", what, kind, name, got, version, err)
			}
		}
		slices.Sort(names)
		if got := listed(f.t, c); !slices.Equal(got, names) {
			f.t.Errorf("%s, a %s machine: listed are %q, want %q", what, kind, got, names)
		}
	}
}

func (f *fixture) delegate(role string, threshold int, keys []string, names ...string) {
	f.t.Helper()
	o := publish.DelegateOptions{Common: publish.Common{Now: now}, Role: role, Names: names, Keys: keys, Threshold: threshold}
	if err := publish.Delegate(f.t.Context(), f.dir, o); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) undelegate(role string) {
	f.t.Helper()
	if err := publish.Undelegate(f.t.Context(), f.dir, role, publish.Common{Now: now}); err != nil {
		f.t.Fatal(err)
	}
}

// delegations returns what the newest targets delegate.
func (f *fixture) delegations() *metadata.Delegations {
	f.t.Helper()
	targets, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
	if err != nil {
		f.t.Fatal(err)
	}
	return targets.Signed.Delegations
}

// TestDelegationBesideBins: offers move between the bins and the delegated roles without a
// gap, in each phase of the repository's life.
func TestDelegationBesideBins(t *testing.T) {
	f, v := delegatedFixture(t, inBins, "net.vendor", vendorApp, "org.vendor.viewer", "org.vendors")
	c := f.client("", t.TempDir())
	want := map[string]string{app: "1.0", "net.vendor": "1", vendorApp: "1", "org.vendor.viewer": "1", "org.vendors": "1", "org.vendor.new": ""}
	f.offers("delegated", c, want)
	v.puts(vendorApp, "2")
	want[vendorApp] = "2"
	f.offers("one is accepted", c, want)
	v.puts("net.vendor", "2")
	v.puts("org.vendor.new", "1")
	want["net.vendor"], want["org.vendor.new"] = "2", "1"
	f.offers("others are accepted", c, want)
	f.publish("1.1", publish.Expiry{})
	f.put("org.vendor.viewer", "2") // which the vendor has not published
	want[app], want["org.vendor.viewer"] = "1.1", "2"
	f.offers("the owner publishes", c, want)
	if _, err := v.put("org.example.other", "1"); !errkind.Is(err, errkind.NotPermitted) {
		t.Errorf("a name that is not delegated: %s, %v, want %s", errkind.KindOf(err), err, errkind.NotPermitted)
	}
	if _, err := v.put("org.vendor.NEW", "1"); !errkind.Is(err, errkind.Conflict) {
		t.Errorf("a name that differs by case: %s, %v, want %s", errkind.KindOf(err), err, errkind.Conflict)
	}

	// Two publishers, one of them without any offer.
	f.delegate("empty", 1, nil, "org.nothing.*")
	f.offers("a second role", c, want)
	for _, role := range []string{"targets", "timestamp"} {
		if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}, Roles: []string{role}}); err != nil {
			t.Fatal(err)
		}
		f.offers("a rotation of "+role, c, want)
	}
	f.resign(publish.ResignOptions{All: true})
	f.put("org.vendors", "2")
	want["org.vendors"] = "2"
	f.offers("re-signed", c, want)
	f.remove("metadata/timestamp.json")
	f.resign(publish.ResignOptions{})
	f.offers("a lost timestamp", c, want)
	if r, err := publish.Check(t.Context(), f.dir, publish.CheckOptions{Common: publish.Common{Now: now}}); err != nil || r.Channels != 6 || len(r.Faults) > 0 {
		t.Errorf("%+v, %v, want 6 channels and no fault", r, err)
	}
	if _, err := publish.Prune(t.Context(), f.dir, publish.PruneOptions{Common: publish.Common{Now: now}}); err != nil {
		t.Error(err)
	}
	f.offers("pruned", c, want)

	// Fewer names: the vendor's list still has the others, and they are not offered.
	f.undelegate("empty")
	f.offers("the empty role has ended", c, want)
	f.undelegate("vendor")
	f.offers("the vendor's role has ended", c, want)
	if d := f.delegations(); d.SuccinctRoles == nil || len(d.Roles) > 0 {
		t.Errorf("the targets delegate to %v, want bins alone, which earlier versions of lull read", d.Roles)
	}
	f.put(vendorApp, "3")
	f.put("net.vendor", "3")
	want[vendorApp], want["net.vendor"] = "3", "3"
	f.offers("the owner publishes all", c, want)

	// And once more, by another role.
	f.delegate("second", 1, nil, "org.vendor.*")
	f.put(vendorApp, "4") // the key is beside those of the owner
	want[vendorApp] = "4"
	f.offers("delegated again", c, want)
}

// TestRequestsBesideDelegation: delegation costs a machine nothing that has no package of the
// other publisher, but one small file when it reads the repository first.
func TestRequestsBesideDelegation(t *testing.T) {
	f, v := delegatedFixture(t, inBins)
	for i := range 20 {
		f.put(fmt.Sprintf("other%d", i), "1")
	}
	v.puts(vendorApp, "1")
	h := &recorder{files: tagged(f.dir)}
	c := f.client(f.serve(h), t.TempDir())
	asks := func(what string, want ...string) {
		t.Helper()
		if err := c.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Offers(t.Context(), app, "stable"); err != nil {
			t.Fatal(err)
		}
		var roles []string
		for _, asked := range h.take() {
			name := strings.TrimSuffix(filepath.Base(asked), ".json")
			role := name[strings.LastIndexByte(name, '.')+1:]
			if strings.HasPrefix(role, "bin-") {
				role = "bin"
			}
			roles = append(roles, role)
		}
		if !slices.Equal(roles, want) {
			t.Errorf("%s: it requests %q, want %q", what, roles, want)
		}
	}
	asks("first", "root", "timestamp", "snapshot", "targets", repo.BinsRole, "bin", "stable")
	asks("nothing new", "timestamp")
	f.publish("1.1", publish.Expiry{})
	asks("a new version", "timestamp", "snapshot", "bin", "offers")
	v.puts(vendorApp, "2")
	asks("a version of the other publisher", "timestamp", "snapshot")
}

// TestOtherClients: a client of TUF that does not know lull finds the same targets.
func TestOtherClients(t *testing.T) {
	eachListing(t, func(t *testing.T, listing string) {
		f, v := delegatedFixture(t, listing, "net.vendor", "org.other")
		v.puts(vendorApp, "2")
		server := f.serve(http.FileServer(http.Dir(f.dir)))
		cfg, err := config.New(server+"/metadata", f.root)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DisableLocalCache = true
		up, err := updater.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		up.UnsafeSetRefTime(now.Add(time.Hour))
		for _, name := range []string{app, "net.vendor", "org.other", vendorApp} {
			if _, err := up.GetTargetInfo(repo.PointerPath(name, "stable")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if info, err := up.GetTargetInfo(repo.PointerPath("org.vendor.none", "stable")); err == nil {
			t.Errorf("a name that is not offered: %v", info)
		}
	})
}

// TestThresholdBesideBins: a list of a role with two keys needs the signatures of both.
func TestThresholdBesideBins(t *testing.T) {
	f, v := delegatedFixture(t, inBins)
	keys, public := v.dir+".keys", []string{}
	for _, name := range []string{"pair", "second"} {
		path, err := publish.ExportKey(t.Context(), name, publish.Common{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		public = append(public, path)
	}
	second := filepath.Join(keys, "pair.2.pem")
	if err := os.Rename(filepath.Join(keys, "second.pem"), second); err != nil {
		t.Fatal(err)
	}
	f.delegate("pair", 2, public, "com.pair.*")
	if res, err := v.put("com.pair.tool", "1"); err != nil || res.Proposed != "pair" {
		t.Fatalf("both keys sign: %+v, %v, want a proposed version", res, err)
	}
	if _, err := publish.Accept(t.Context(), f.dir, "pair", publish.Common{Now: now}); err != nil {
		t.Fatal(err)
	}
	f.offers("accepted", f.client("", t.TempDir()), map[string]string{app: "1.0", "com.pair.tool": "1"})
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	if _, err := v.put("com.pair.tool", "2"); err == nil || !strings.Contains(err.Error(), "it needs 2 keys") {
		t.Errorf("one key signs: %v, want that it needs 2 keys", err)
	}
}

// TestOnlineKeysBesideBins: another publisher with the keys of snapshot and timestamp reaches
// machines at once, also when the lists of the owner are past half of their lifetime.
func TestOnlineKeysBesideBins(t *testing.T) {
	f, v := delegatedFixture(t, inBins)
	for _, role := range []string{"snapshot", "timestamp"} {
		data, err := os.ReadFile(filepath.Join(f.dir+".keys", role+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(v.dir+".keys", role+".pem"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, later := t.TempDir(), now.AddDate(0, 7, 0)
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: "+vendorApp+"\nversion: \"1\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	res, err := publish.Publish(t.Context(), f.dir, src, publish.Options{Common: publish.Common{Now: later, Keys: v.dir + ".keys"}})
	if err != nil || res.Proposed != "" {
		t.Fatalf("%+v, %v, want a version that is offered at once", res, err)
	}
	c := f.client("", t.TempDir())
	c.SetNow(later.Add(time.Hour))
	if version, err := offered(t, c, vendorApp); version != "1" {
		t.Errorf("version %q is offered, want 1: %v", version, err)
	}
}

// TestHostileListOfBins: a repository cannot bring a list of bins that the keys of the targets
// have not signed, or make a machine mistake the list of another publisher for a bin.
func TestHostileListOfBins(t *testing.T) {
	f, v := delegatedFixture(t, inBins)
	v.puts(vendorApp, "1")
	path := "metadata/1." + repo.BinsRole + ".json"
	genuine, list := f.save(), f.read(path)
	evil, _ := delegatedFixture(t, inBins)
	refuses := func(what, want string) {
		t.Helper()
		defer f.restore(genuine)
		c := f.client("", t.TempDir())
		if err := install(t.Context(), c); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v, want %q", what, errkind.KindOf(err), err, want)
		}
		if _, err := c.Listings(t.Context()); !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("%s: it is listed: %v", what, err)
		}
	}
	for what, data := range map[string][]byte{"other keys": evil.read(path), "garbage": []byte("{}"), "the targets": f.read(f.newest("targets"))} {
		f.write(path, data)
		refuses(what, repo.BinsRole)
	}
	for what, change := range map[string]func(*metadata.TargetsType){
		"no bins":        func(l *metadata.TargetsType) { l.Delegations = nil },
		"further roles":  func(l *metadata.TargetsType) { l.Delegations = f.delegations() },
		"too many bins":  func(l *metadata.TargetsType) { l.Delegations.SuccinctRoles.BitLength = 20 },
		"it has expired": func(l *metadata.TargetsType) { l.Expires = now },
	} {
		m, err := metadata.Targets().FromBytes(list)
		if err != nil {
			t.Fatal(err)
		}
		change(&m.Signed)
		f.write(path, sign(f, metadata.TARGETS, m))
		refuses(what, "")
	}
	// The owner has given another publisher the name of the bin of a package.
	targets, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := metadata.Targets().FromBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := repo.Role(&parts.Signed, repo.PointerPath(app, "stable"))
	if err != nil {
		t.Fatal(err)
	}
	targets.Signed.Delegations.Roles[0].Name, targets.Signed.Version = bin, 90
	f.write("metadata/90.targets.json", sign(f, metadata.TARGETS, targets))
	f.signSnapshot(func(s *metadata.SnapshotType) { s.Meta["targets.json"] = metadata.MetaFile(90) })
	refuses("a role with the name of a bin", "the name of a bin")
}
