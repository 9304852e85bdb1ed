package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
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

// put publishes a small package.
func (f *fixture) put(name, version string) {
	f.t.Helper()
	src := f.t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: "+name+"\nversion: \""+version+"\"\n"), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if _, err := publish.Publish(f.t.Context(), f.dir, src, publish.Options{Common: publish.Common{Now: now}}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) resign(o publish.ResignOptions) {
	f.t.Helper()
	if o.Now.IsZero() {
		o.Now = now
	}
	if err := publish.Resign(f.t.Context(), f.dir, o); err != nil {
		f.t.Fatal(err)
	}
}

// binnedFixture is a repository whose packages are listed in bins.
func binnedFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixtureOf(t, publish.Expiry{}, 1000)
	for i := range 20 {
		f.put(fmt.Sprintf("other%d", i), "1")
	}
	f.resign(publish.ResignOptions{Bins: true})
	return f
}

// binOf is the newest file of the bin that lists the application.
func (f *fixture) binOf(name string) string {
	f.t.Helper()
	targets, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
	if err != nil {
		f.t.Fatal(err)
	}
	role, err := repo.Role(&targets.Signed, repo.PointerPath(name, "stable"))
	if err != nil || role == "" {
		f.t.Fatal(role, err)
	}
	return f.newest(role)
}

// TestBins: a converted repository offers the same to a machine that has seen it before and
// to a new one, and both read only the files that they need.
func TestBins(t *testing.T) {
	f := newFixtureOf(t, publish.Expiry{}, 1000)
	for i := range 20 {
		f.put(fmt.Sprintf("other%d", i), "1")
	}
	h := &recorder{files: tagged(f.dir)}
	url := f.serve(h)
	known := f.client(url, t.TempDir())
	if err := install(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	f.resign(publish.ResignOptions{Bins: true})
	before := f.save()
	f.resign(publish.ResignOptions{Bins: true}) // only the timestamp
	if now := f.save(); len(now) != len(before) {
		t.Error("a repository with bins is converted again")
	}
	fresh := f.client(url, t.TempDir())
	for name, c := range map[string]*repo.Client{"known": known, "fresh": fresh} {
		h.take()
		if err := install(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var bins []string
		for _, asked := range h.take() {
			if strings.Contains(asked, "bin-") {
				bins = append(bins, asked)
			}
		}
		if want := "/" + f.binOf(app); len(bins) != 1 || bins[0] != want {
			t.Errorf("%s: it has asked for the bins %q, want %s", name, bins, want)
		}
		if !c.Lists(app, "stable") || c.Lists("none", "stable") {
			t.Errorf("%s: Lists: got %v for %s and %v for a name that is not there, want true and false", name, c.Lists(app, "stable"), app, c.Lists("none", "stable"))
		}
		if _, err := c.Offers(t.Context(), "none", "stable"); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("%s: %v; want an error of kind %v", name, err, errkind.NotFound)
		}
		if l, err := c.Listings(t.Context()); err != nil || len(l) != 21 || !slices.IsSortedFunc(l, func(a, b repo.Listing) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s: Listings: got %d, %v, %v; want 21 sorted by name, and no error", name, len(l), l, err)
		}
	}

	// One change: the timestamp, the snapshot, a bin and a pointer.
	f.publish("1.1", publish.Expiry{})
	h.take()
	if err := fresh.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := version(t, fresh); v != "1.1" {
		t.Errorf("version %s is offered, want 1.1", v)
	}
	if asked := h.take(); len(asked) != 4 {
		t.Errorf("a change costs %q; want 4 asked", asked)
	}
	// A change of another package: no bin.
	for i := 0; ; i++ {
		if name := fmt.Sprintf("other%d", i); f.binOf(name) != f.binOf(app) {
			f.put(name, "2")
			break
		}
	}
	h.take()
	if err := fresh.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := version(t, fresh); v != "1.1" {
		t.Errorf("version %s is offered, want 1.1", v)
	}
	if asked := h.take(); len(asked) != 2 {
		t.Errorf("a change of another package costs %q; want 2 asked", asked)
	}
	// The bin is on disk.
	again, err := repo.Open(repo.Config{Name: "main", URL: url, Root: f.root}, filepath.Dir(filepath.Dir(fresh.State())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	again.SetNow(now.Add(time.Hour))
	if err := again.Update(t.Context()); err != nil || version(t, again) != "1.1" {
		t.Error(err)
	}
	for _, asked := range h.take() {
		if strings.Contains(asked, "bin-") {
			t.Errorf("%s is fetched, want no bin fetched that is on disk", asked)
		}
	}
	// Names that differ by case only are refused here, too.
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: Other1\nversion: \"1\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Publish(t.Context(), f.dir, src, publish.Options{Common: publish.Common{Now: now}}); !errkind.Is(err, errkind.Conflict) {
		t.Errorf("a name that differs by case: got %v, want an error of kind %v", err, errkind.Conflict)
	}
}

// TestBinsSurvive: rotations, an interrupted one too, a lost timestamp, and renewed
// signatures.
func TestBinsSurvive(t *testing.T) {
	f := binnedFixture(t)
	c := f.client("", t.TempDir())
	works := func(what, want string) {
		t.Helper()
		for name, c := range map[string]*repo.Client{"known": c, "fresh": f.client("", t.TempDir())} {
			if err := install(t.Context(), c); err != nil {
				t.Errorf("%s, %s: %v", what, name, err)
			} else if v := version(t, c); v != want {
				t.Errorf("%s, %s: version %s is offered, want %v", what, name, v, want)
			}
			if l, err := c.Listings(t.Context()); err != nil || len(l) != 21 {
				t.Errorf("%s, %s: %d listings, %v; want no error and 21 of them", what, name, len(l), err)
			}
		}
	}
	works("converted", "1.0")
	// Killed before its root was published.
	keys := f.dir + ".keys"
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(keys)); err != nil {
		t.Fatal(err)
	}
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(filepath.Join(keys, "signed.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(keys), os.CopyFS(keys, os.DirFS(saved)), os.WriteFile(filepath.Join(keys, "signed.json"), signed, 0o600), os.Chmod(keys, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, pem := range []string{"root", "targets", "snapshot", "timestamp"} {
		if err := os.Chmod(filepath.Join(keys, pem+".pem"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.remove("metadata/2.root.json")
	f.write("root.json", f.root)
	works("rotation killed", "1.0")
	f.publish("1.1", publish.Expiry{})
	works("published after that", "1.1")
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
		t.Fatal(err)
	}
	works("rotated", "1.1")
	f.publish("1.2", publish.Expiry{})
	works("published with the next keys", "1.2")
	f.remove("metadata/timestamp.json")
	f.resign(publish.ResignOptions{})
	works("timestamp lost", "1.2")
	f.resign(publish.ResignOptions{Common: publish.Common{Now: now.AddDate(0, 11, 0)}, All: true})
	c.SetNow(now.AddDate(1, 6, 0))
	if err := install(t.Context(), c); err != nil {
		t.Errorf("after a year: %v", err)
	}
}

// TestHostileBins: a server cannot offer another state of a bin than the signed one.
func TestHostileBins(t *testing.T) {
	f := binnedFixture(t)
	old := f.read(f.binOf(app))
	f.publish("1.1", publish.Expiry{})
	bin := f.binOf(app)
	var none string
	for i := 0; none == ""; i++ {
		if other := f.binOf(fmt.Sprintf("other%d", i)); other != bin {
			none = other
		}
	}
	evil := binnedFixture(t)
	for name, h := range map[string]struct {
		answer []byte
		kind   errkind.Kind
		want   string
	}{
		"rolled back": {old, errkind.Untrusted, "rolled back or mixed up"},
		"other keys":  {evil.read(evil.binOf(app)), errkind.Untrusted, "its signature is wrong"},
		"altered":     {bytes.Replace(f.read(bin), []byte("sha256"), []byte("sha255"), 1), errkind.Untrusted, "its signature is wrong"},
		"garbage":     {[]byte("{}"), errkind.Untrusted, "its signature is wrong"},
		"too large":   {make([]byte, 5<<20), errkind.Untrusted, "it is too large"},
		"targets":     {f.read(f.newest("targets")), errkind.Untrusted, "bin-"},
		"a web page":  {[]byte("<html>"), errkind.Unavailable, "a web page came back"},
		"another bin": {f.read(none), errkind.Untrusted, ""},
		"not there":   {nil, errkind.Unavailable, "it is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &recorder{files: http.FileServer(http.Dir(f.dir))}
			s.set(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/"+bin {
					return false
				}
				if h.answer == nil {
					http.NotFound(w, r)
				} else {
					_, _ = w.Write(h.answer)
				}
				return true
			})
			c := f.client(f.serve(s), t.TempDir())
			if err := install(t.Context(), c); !errkind.Is(err, h.kind) || !strings.Contains(err.Error(), h.want) {
				// Another bin of the same version has the same signer: it
				// does not list this application.
				if name != "another bin" || !errkind.Is(err, errkind.NotFound) {
					t.Errorf("%s: %v; want name %q and an error of kind %v", errkind.KindOf(err), err, "another bin", errkind.NotFound)
				}
			}
			s.set(nil)
			if err := install(t.Context(), c); err != nil {
				t.Errorf("genuine: %v", err)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		c := f.client("", t.TempDir())
		f.resign(publish.ResignOptions{Common: publish.Common{Now: now.AddDate(0, 11, 0)}})
		f.put("other0", "2") // renews the snapshot, and the targets, which are past half of their lifetime
		c.SetNow(now.AddDate(1, 0, 1))
		_, err := c.Offers(t.Context(), app, "stable")
		if !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "expired on 2027-05-01") {
			t.Errorf("got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "expired on 2027-05-01")
		}
	})
	t.Run("delegation", func(t *testing.T) {
		f := binnedFixture(t)
		targets, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
		if err != nil {
			t.Fatal(err)
		}
		for _, bits := range []int{-1, 0, 15, 33, 64} {
			targets.Signed.Delegations.SuccinctRoles.BitLength = bits
			targets.Signed.Version = 9
			f.write("metadata/9.targets.json", sign(f, metadata.TARGETS, targets))
			f.signSnapshot(func(m *metadata.SnapshotType) { m.Meta["targets.json"] = metadata.MetaFile(9) })
			if err := install(t.Context(), f.client("", t.TempDir())); !errkind.Is(err, errkind.Untrusted) {
				t.Errorf("%d bits: %v; want an error of kind %v", bits, err, errkind.Untrusted)
			}
		}
	})
}
