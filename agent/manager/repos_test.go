package manager

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
)

// newRepository makes a repository with the packages "NAME VERSION".
func newRepository(t *testing.T, o publish.Options, packages ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	if err := publish.Init(t.Context(), dir, publish.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		publishTo(t, dir, p, o)
	}
	return dir
}

func publishTo(t *testing.T, dir, pkg string, o publish.Options) {
	t.Helper()
	src := t.TempDir()
	name, version, _ := strings.Cut(pkg, " ")
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), fmt.Appendf(nil, "name: %s\nversion: %q\n", name, version), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "from"), []byte(dir), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Publish(t.Context(), dir, src, o); err != nil {
		t.Fatal(err)
	}
}

func rootOf(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (m *Manager) mustAdd(t *testing.T, name, url, dir string) {
	t.Helper()
	if err := m.repos.Add(t.Context(), name, url, rootOf(t, dir)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestRepositories covers an administrator's changes of repositories, and their effects. All
// of it uses one manager, because a machine can have only one of its tracker.
func TestRepositories(t *testing.T) {
	m := newManager(t, "schedule: {check: 0}\n")

	t.Run("a broken file leaves out one repository", func(t *testing.T) {
		good := newRepository(t, publish.Options{}, "calc 1")
		m.mustAdd(t, "good", good, good)
		bad := filepath.Join(m.settings.Repositories(), "bad.yaml")
		for _, text := range []string{"url: /x\n  root: r\n", "", "url: /x\nroot: nowhere\n", "url: /x\nroot: bad.yaml\n", "\x00"} {
			write(t, bad, text)
			if err := m.Reload(); !errkind.Is(err, errkind.BadPolicy) || !strings.Contains(err.Error(), bad) {
				t.Errorf("%q: %v; want an error of kind %v and %q in the error", text, err, errkind.BadPolicy, bad)
			}
			if err := m.ConfigError(); err == nil || !strings.Contains(err.Error(), bad) || m.refused() != nil {
				t.Errorf("%q: got configuration error %v and refused policy %v, want an error about %s and none", text, err, m.refused(), bad)
			}
			if from, err := m.offers.Choose(t.Context(), "calc", "", "stable"); from != "good" || err != nil {
				t.Errorf("%q: the good one: %q, %v; want from %q and no error", text, from, err, "good")
			}
			if _, err := m.repos.Client("bad"); !errkind.Is(err, errkind.BadPolicy) || !strings.Contains(err.Error(), bad) {
				t.Errorf("%q: the bad one: %v; want an error of kind %v and %q in the error", text, err, errkind.BadPolicy, bad)
			}
			if c := verdict(t, m, "repository bad"); c.State != doctor.Fail || !strings.Contains(c.Seen, "left out") {
				t.Errorf("%q: the doctor says %+v; want state %v and %q", text, c, doctor.Fail, "left out")
			}
		}
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
		if err := m.Reload(); err != nil || m.ConfigError() != nil {
			t.Errorf("Reload: got %v and configuration error %v, want neither", err, m.ConfigError())
		}
	})

	t.Run("a name that is taken keeps its root of trust", func(t *testing.T) {
		other := newRepository(t, publish.Options{}, "calc 2")
		before := m.repos.ConfigOf("good").Root
		err := m.repos.Add(t.Context(), "good", other, rootOf(t, other))
		if !errkind.Is(err, errkind.Exists) || errkind.HintOf(err) == "" {
			t.Errorf("got %v (%s, hint %q), want an error of kind %s with a hint", err, errkind.KindOf(err), errkind.HintOf(err), errkind.Exists)
		}
		if r := m.repos.ConfigOf("good"); string(r.Root) != string(before) {
			t.Error("the root of trust was replaced")
		}
	})

	t.Run("passwords", func(t *testing.T) {
		dir := newRepository(t, publish.Options{}, "secretive 1")
		var seen atomic.Value
		files := http.FileServer(http.Dir(dir))
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			seen.Store(user + " " + password)
			files.ServeHTTP(w, r)
		}))
		defer s.Close()
		url := strings.Replace(s.URL, "http://", "http://ann:s3cret@", 1)
		m.mustAdd(t, "private", url, dir)
		if _, err := m.repos.Read(t.Context(), "private", false); err != nil || seen.Load() != "ann s3cret" {
			t.Errorf("%v, the server saw %v, want ann s3cret", err, seen.Load())
		}
		for _, name := range []string{"private.yaml", "private.credentials"} {
			fi, err := os.Stat(filepath.Join(m.settings.Repositories(), name))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: got %v (%v), want mode 0600", name, fi, err)
			}
		}
		inspected, err := m.reports.Inspect()
		if err != nil || strings.Contains(string(inspected), "s3cret") || strings.Contains(fmt.Sprintf("%+v", m.repos.State()), "s3cret") {
			t.Errorf("got report %s (%v) and state %+v, want no password in them", inspected, err, m.repos.State())
		}
		s.Close()
		_, err = m.repos.Read(t.Context(), "private", false)
		if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(fmt.Sprintf("%+v", m.Doctor().Examine(t.Context())), "s3cret") {
			t.Errorf("got error %v and report %+v, want an error, and no password in either", err, m.Doctor().Examine(t.Context()))
		}
		if h := m.health(t, "private"); h.Error == "" || h.Failed.IsZero() || h.Read.IsZero() {
			t.Errorf("got %+v, want an error and the times of the last success and the last failure", h)
		}
		if err := m.repos.Remove("private"); err != nil {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(m.settings.Repositories(), "private*"))
		if err != nil || len(left) > 0 {
			t.Errorf("got %q left (%v), want nothing", left, err)
		}
		if err := m.repos.Remove("private"); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("Remove a second time: got %v, want an error of kind %s", err, errkind.NotFound)
		}
	})

	t.Run("another address", func(t *testing.T) {
		dir := newRepository(t, publish.Options{}, "mover 1")
		m.mustAdd(t, "moving", dir, dir)
		s := httptest.NewServer(http.FileServer(http.Dir(dir)))
		defer s.Close()
		if err := m.repos.SetURL(t.Context(), "moving", s.URL); err != nil {
			t.Fatal(err)
		}
		if h := m.health(t, "moving"); h.Address != s.URL {
			t.Errorf("got %+v, want address %v", h, s.URL)
		}
		other := newRepository(t, publish.Options{}, "mover 2")
		if err := m.repos.SetURL(t.Context(), "moving", other); err == nil {
			t.Error("another repository is taken for it")
		}
		if h := m.health(t, "moving"); h.Address != s.URL {
			t.Errorf("got %+v, want address %v", h, s.URL)
		}
		if err := m.repos.Remove("moving"); err != nil {
			t.Error(err)
		}
	})

	t.Run("two offer a name", func(t *testing.T) {
		a, b := newRepository(t, publish.Options{}, "editor 1"), newRepository(t, publish.Options{}, "editor 2", "only 1")
		m.mustAdd(t, "va", a, a)
		m.mustAdd(t, "vb", b, b)
		_, err := m.requests.Install(t.Context(), "editor", "", "", "", false)
		if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "va and vb") || errkind.HintOf(err) == "" {
			t.Errorf("an ambiguous name: got %v (%s, hint %q), want \"va and vb\" of kind %s with a hint", err, errkind.KindOf(err), errkind.HintOf(err), errkind.Invalid)
		}
		if from, err := m.offers.Choose(t.Context(), "editor", "vb", "stable"); from != "vb" || err != nil {
			t.Errorf("%q, %v; want from %q and no error", from, err, "vb")
		}
		if from, err := m.offers.Choose(t.Context(), "only", "", "stable"); from != "vb" || err != nil {
			t.Errorf("%q, %v; want from %q and no error", from, err, "vb")
		}
		// A repository that is unreadable now has offered it before.
		if err := os.Rename(a, a+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.offers.Choose(t.Context(), "editor", "", "stable"); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("an ambiguous name, of which one is away: got %v, want an error of kind %v", err, errkind.Invalid)
		}
		// A request to one repository is answered from there or not at all.
		if r, err := m.opener.Resolve(t.Context(), "editor", "vb", "", "test", 0, nil); err != nil {
			t.Error(err)
		} else {
			r.Dir.Close()
			r.Lease.Close()
		}
		if _, err := m.opener.Resolve(t.Context(), "editor", "va", "", "test", 0, nil); !errkind.Is(err, errkind.Unavailable) {
			t.Errorf("from va, which is away: got %v, want an error of kind %v", err, errkind.Unavailable)
		}
		for _, name := range []string{"va", "vb"} {
			if err := m.repos.Remove(name); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("what the file says", func(t *testing.T) { testFileOfRepository(t, m) })

	t.Run("a bound name", func(t *testing.T) {
		a, b := newRepository(t, publish.Options{}, "tool 1"), newRepository(t, publish.Options{}, "tool 2")
		m.mustAdd(t, "va", a, a)
		err := m.state.UpdateInstance("tool_work", func(i *state.Instance) error {
			i.Repository, i.Channel, i.Revisions = "va", "stable", []state.Revision{{Number: 1}}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		m.mustAdd(t, "vb", b, b)
		resolve := func(repository string) (version string, offline bool, err error) {
			r, err := m.opener.Resolve(t.Context(), "tool", repository, "", "test", 0, nil)
			if err == nil {
				r.Dir.Close()
				r.Lease.Close()
			}
			return r.Version, r.Offline != nil, err
		}
		other, err := m.offers.Offered(t.Context(), "tool", "vb", "stable", false)
		if err != nil {
			t.Fatal(err)
		}
		if version, _, err := resolve("vb"); version != "2" || err != nil {
			t.Fatalf("version %q, %v; want 2 from the named repository", version, err)
		}
		// The other one is resident and in the cache index, and is not taken all the same.
		m.indices.SetCache([]index.Root{{Package: other.Package}})
		defer m.indices.SetCache(nil)
		away := a + ".away"
		if err := os.Rename(a, away); err != nil {
			t.Fatal(err)
		}
		if version, _, err := resolve(""); !errkind.Is(err, errkind.Unavailable) {
			t.Errorf("version %q, %v; want an error of kind %v: the repository of the installed instance is away", version, err, errkind.Unavailable)
		}
		if err := os.Rename(away, a); err != nil {
			t.Fatal(err)
		}
		if version, offline, err := resolve(""); version != "1" || offline || err != nil {
			t.Errorf("version %q, offline %v, %v; want 1 from the repository of the installed instance", version, offline, err)
		}
		if err := os.Rename(a, away); err != nil {
			t.Fatal(err)
		}
		if version, offline, err := resolve(""); version != "1" || !offline || err != nil {
			t.Errorf("version %q, offline %v, %v; want the last offer of the repository of the installed instance", version, offline, err)
		}
		if err := m.state.RemoveInstance("tool_work", 0); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"va", "vb"} {
			if err := m.repos.Remove(name); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("a slow repository holds up no other", func(t *testing.T) {
		dir := newRepository(t, publish.Options{}, "slow 1")
		good := newRepository(t, publish.Options{}, "quick 1")
		var drips atomic.Bool
		ended := make(chan struct{}, 8)
		files := http.FileServer(http.Dir(dir))
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !drips.Load() {
				files.ServeHTTP(w, r)
				return
			}
			defer func() { ended <- struct{}{} }()
			w.Header().Set("Content-Length", "4000")
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		defer s.Close()
		m.mustAdd(t, "drip", s.URL, dir)
		m.mustAdd(t, "quick", good, good)
		drips.Store(true)
		if from, err := m.offers.Choose(t.Context(), "quick", "", "stable"); from != "quick" || err != nil {
			t.Errorf("%q, %v; want from %q and no error", from, err, "quick")
		}
		select {
		case <-ended:
			t.Error("the slow one was waited for")
		default:
		}
		if h := m.health(t, "drip"); h.Checking.IsZero() {
			t.Errorf("got %+v, want the time since when it is being read", h)
		}
		<-ended // by its own deadline
		for m.health(t, "drip").Error == "" {
			time.Sleep(10 * time.Millisecond)
		}
		if h := m.health(t, "drip"); !h.Checking.IsZero() && h.Failed.IsZero() || !strings.Contains(h.Error, "stands still") && !strings.Contains(h.Error, "too slow") {
			t.Errorf("got %+v, want a failure that \"stands still\" or is \"too slow\", and nothing being read", h)
		}
		if c := verdict(t, m, "repository drip"); c.State != doctor.Fail {
			t.Errorf("the doctor says %+v; want state %v", c, doctor.Fail)
		}
		for _, name := range []string{"drip", "quick"} {
			if err := m.repos.Remove(name); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("rollout", func(t *testing.T) {
		none := 0
		dir := newRepository(t, publish.Options{Rollout: &none}, "rolling 1")
		m.mustAdd(t, "rolling", dir, dir)
		if _, err := m.requests.Install(t.Context(), "rolling", "", "", "", false); !errkind.Is(err, errkind.Held) || !strings.Contains(err.Error(), "rolled out") {
			t.Errorf("a rollout of nothing is installed: got %v, want an error of kind %v and %q in the error", err, errkind.Held, "rolled out")
		}
		if p, err := m.offers.Offered(t.Context(), "rolling", "rolling", "stable", true); err != nil || p.Version != "1" {
			t.Errorf("%v, %v; want no error and version %q", p, err, "1")
		}
	})

	t.Run("a version that needs a later lull", func(t *testing.T) {
		dir := newRepository(t, publish.Options{}, "needing 1")
		src := t.TempDir()
		put := func(name, version, needs string) {
			t.Helper()
			err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte(fmt.Sprintf("name: %s\nversion: %q\nneeds-lull: %q\n", name, version, needs)), 0o644)
			if err == nil {
				_, err = publish.Publish(t.Context(), dir, src, publish.Options{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		put("needing", "2", "0.4")
		put("modern", "7", "0.4")
		m.mustAdd(t, "needing", dir, dir)
		offered := func(lull, name string, now bool) string {
			defer func(version string) { m.offers.Version = version }(m.offers.Version)
			m.offers.Version = lull
			p, err := m.offers.Offered(t.Context(), name, "needing", "stable", now)
			if err != nil {
				return err.Error()
			}
			return p.Version
		}
		for _, c := range []struct{ lull, name, want string }{
			{"0.3.9", "needing", "1"}, {"0.4.0", "needing", "2"}, {"development build", "needing", "2"}, {"0.4", "modern", "7"},
			{"0.3.9", "modern", "cannot install modern: version 7 needs lull 0.4, and this is 0.3.9"},
		} {
			for _, now := range []bool{false, true} {
				if got := offered(c.lull, c.name, now); got != c.want {
					t.Errorf("lull %s gets %s of %s, want %s", c.lull, got, c.name, c.want)
				}
			}
		}
	})

	t.Run("a local repository that is replaced", func(t *testing.T) {
		top := t.TempDir()
		dir := newRepository(t, publish.Options{}, "placed 1")
		next := newRepository(t, publish.Options{}, "placed 2")
		path := filepath.Join(top, "link", "repo")
		if err := errors.Join(os.Mkdir(filepath.Join(top, "real"), 0o755), os.Symlink("real", filepath.Join(top, "link")), os.Rename(dir, path), os.Rename(dir+".keys", path+".keys")); err != nil {
			t.Fatal(err)
		}
		m.mustAdd(t, "placed", path, path)
		var changed, moved chan struct{}
		watch := func() func() {
			changed, moved = make(chan struct{}, 1), make(chan struct{}, 1)
			return m.repos.WatchLocal(changed, moved)
		}
		for _, c := range []struct {
			name string
			do   func() error
			on   *chan struct{}
		}{
			{"published to", func() error { publishTo(t, path, "placed 3", publish.Options{}); return nil }, &changed},
			{"moved away", func() error { return os.Rename(path, path+".old") }, &moved},
			{"another one in its place", func() error { return os.Rename(next, path) }, &moved},
			{"its metadata replaced", func() error {
				return errors.Join(os.Rename(path+"/metadata", path+"/metadata.old"), os.Mkdir(path+"/metadata", 0o755))
			}, &moved},
			{"the directory above moved", func() error { return os.Rename(filepath.Join(top, "real"), filepath.Join(top, "real2")) }, &moved},
			{"the link leads elsewhere", func() error {
				return errors.Join(os.Symlink("real2", filepath.Join(top, "l")), os.Rename(filepath.Join(top, "l"), filepath.Join(top, "link")))
			}, &moved},
		} {
			stop := watch()
			if err := c.do(); err != nil {
				t.Fatal(c.name, err)
			}
			select {
			case <-*c.on:
			case <-time.After(time.Minute):
				t.Errorf("%s: it is not noticed", c.name)
			}
			stop()
		}
	})
}

// TestUnknownSystem: while the list of the system's packages was never read, any package may
// belong to the system.
func TestUnknownSystem(t *testing.T) {
	m := newManagerWith(t, map[string]string{"system.yaml": "base: x\n"})
	if roots := m.doubtfulSystem(); len(roots) != 1 || !roots[0].Package.IsZero() {
		t.Errorf("the roots are %v, want one without a package", roots)
	}
	if err := os.Remove(m.settings.SystemFile()); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); err != nil || m.doubtfulSystem() != nil {
		t.Errorf("after a reload: %v, %v, want neither error nor doubt", err, m.doubtfulSystem())
	}
}

func (m *Manager) health(t *testing.T, name string) repositories.Health {
	t.Helper()
	all := m.repos.State().All
	i := slices.IndexFunc(all, func(h repositories.Health) bool { return h.Name == name })
	if i < 0 {
		t.Fatalf("there is no repository %s", name)
	}
	return all[i]
}
