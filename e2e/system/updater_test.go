package system_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// gate is a web server of the repository that holds requests back.
type gate struct {
	*httptest.Server
	mu      sync.Mutex // guards what follows
	held    string     // a request whose path contains it waits; empty means none
	reached chan struct{}
	open    chan struct{}
}

func (s *scene) gate() *gate {
	g := &gate{}
	files := http.FileServer(http.Dir(s.Repo))
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		held, reached, open := g.held != "" && strings.Contains(r.URL.Path, g.held), g.reached, g.open
		if held {
			g.held = ""
		}
		g.mu.Unlock()
		if held {
			close(reached)
			select {
			case <-open:
			case <-r.Context().Done():
				return
			}
		}
		files.ServeHTTP(w, r)
	}))
	s.Cleanup(g.Close)
	return g
}

// hold holds the next request for a blob back until open is closed.
func (g *gate) hold(blob string) (reached, open chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.reached, g.open = blob, make(chan struct{}), make(chan struct{})
	return g.reached, g.open
}

var none = map[string]dbus.Variant{}

func text(c *dbus.Call) string {
	var e dbus.Error
	if errors.As(c.Err, &e) {
		return e.Name + " " + e.Error()
	}
	return fmt.Sprint(c.Err)
}

// TestUpdatersOwnResolve: a system updater of its own resolves what is retained,
// and nothing else; what it resolves is never open. The retained index is replaced
// as a whole, lasts, and may change while something of it is being written.
func TestUpdatersOwnResolve(t *testing.T) {
	s := set(t, 0, rig.Options{})
	a, b := s.Publish(s.write("org.test.a", "1", 1, "", nil)), s.Publish(s.write("org.test.b", "1", 1, "", nil))
	g := s.gate()
	s.StartAgent()
	s.MustLull("repo", "add", "web", g.URL, "--trust", filepath.Join(s.Repo, "root.json"))

	resolve := func(hash string) *dbus.Call { return s.API.Call("Retained.Resolve", hash, none) }
	refused := "org.lull.Error.InvalidArgument cannot resolve package " + a[:16] + " for a system update: it is not retained"
	if got := text(resolve(a)); !strings.HasPrefix(got, refused) {
		t.Errorf("not retained: %s", got)
	}
	if got := text(resolve("hello")); !strings.HasPrefix(got, "org.lull.Error.InvalidArgument") || !strings.Contains(got, "hello") {
		t.Errorf("no hash: %s", got)
	}
	retain := func(hashes ...string) {
		t.Helper()
		if c := s.API.Call("Retained.Set", notNil(hashes)); c.Err != nil {
			t.Fatal(c.Err)
		}
	}
	retain(a)
	s.Agent().Crash()
	s.StartAgent()
	s.isIn(true, a, "Retained") // it lasts
	if got := text(resolve(b)); !strings.Contains(got, "it is not retained") {
		t.Errorf("not retained: %s", got)
	}

	// The index is replaced, and all is collected, while a is being written.
	api := s.Bus.Watch()
	reached, open := g.hold(s.blobOf("org.test.a", "1"))
	ended := make(chan *dbus.Call, 1)
	go func() { ended <- resolve(a) }()
	select {
	case <-reached:
	case c := <-ended:
		t.Fatalf("resolved too soon: %v", c.Err)
	}
	s.isIn(true, a, "Writing", "Retained")
	s.isIn(false, a, "Open")
	retain(b)
	s.MustLull("gc")
	close(open)
	if c := <-ended; c.Err != nil {
		t.Errorf("it was not written to its end: %v", c.Err)
	}
	s.has(true, a)
	if r := s.Lull("verify"); r.Code != 0 {
		t.Errorf("got %v, want exit status 0", r)
	}
	s.MustLull("gc")
	s.has(false, a)
	if c := resolve(b); c.Err != nil {
		t.Errorf("got %v, want no error", c.Err)
	}
	s.has(true, b)
	s.MustLull("gc")
	s.has(true, b)
	for _, c := range api.Changes("Space", "Open") {
		if list := fmt.Sprint(c.Value); list != "[]" {
			t.Errorf("open was %s, want []", list)
		}
	}
	if out := s.MustLull("why", b).Stdout; !strings.HasPrefix(out, "retained") || strings.Count(out, "\n") != 1 {
		t.Errorf("why: want one line, which begins with retained, got\n%s", out)
	}
	if c := s.API.Call("Retained.Clear"); c.Err != nil {
		t.Error(c.Err)
	}
	s.MustLull("gc")
	s.has(false, b)
}

// TestRetainedIsReplacedWhole kills the agent while the index is being
// replaced repeatedly. Afterwards it is the last value, or the one that was
// being set, whole.
func TestRetainedIsReplacedWhole(t *testing.T) {
	s := set(t, 0, rig.Options{})
	var sets [3][]string
	for i := range sets {
		for j := range 40 * (i + 1) {
			sets[i] = append(sets[i], fmt.Sprintf("%064x", 1000*i+j+1))
		}
	}
	s.StartAgent()
	for round := range 5 {
		done := make(chan int, 1)
		acknowledged := make(chan int, 1000)
		go func() {
			defer close(acknowledged)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if s.API.Call("Retained.Set", sets[i%3]).Err != nil {
					return
				}
				acknowledged <- i
			}
		}()
		last := -1
		for i := range acknowledged {
			if last = i; last == 5+7*round {
				break
			}
		}
		s.Agent().Crash()
		close(done)
		for i := range acknowledged {
			last = i
		}
		s.StartAgent()
		got := fmt.Sprint(s.API.Property("", "Retained.Packages"))
		if got != fmt.Sprint(sets[last%3]) && got != fmt.Sprint(sets[(last+1)%3]) {
			t.Errorf("after call %d retained is %d bytes, want the set of that call (%d bytes) or of the next (%d bytes): %.200s", last, len(got), len(fmt.Sprint(sets[last%3])), len(fmt.Sprint(sets[(last+1)%3])), got)
		}
	}
	if c := s.API.Call("Retained.Clear"); c.Err != nil {
		t.Fatal(c.Err)
	}
	s.Agent().Crash()
	s.StartAgent()
	if got := fmt.Sprint(s.API.Property("", "Retained.Packages")); got != "[]" {
		t.Errorf("cleared, retained is %s, want []", got)
	}
}

// blobOf is the hash of the noise in a package that was written.
func (s *scene) blobOf(name, version string) string {
	s.Helper()
	r := s.Admin.Must("sha256sum", filepath.Join(s.Path("sources"), name+"-"+version, "content"))
	return r.Stdout[:64]
}

// TestRight: without the right to update the system no user does; with it
// alone, a user does that and nothing else.
func TestRight(t *testing.T) {
	require.Program(t, "busctl", "unshare")
	require.File(t, "/usr/lib/polkit-1/polkitd")
	s := set(t, 0, rig.Options{})
	two := s.update(update{version: "1", imagesMB: 0.1})
	may := s.Ordinary("games")
	s.StartPolkit(`polkit.addRule(function(action, subject) {
	if (action.id == "org.lull.system-update" && subject.user == "` + may.Name + `") return polkit.Result.YES;
});`)
	s.StartAgent()
	s.MustLull("repo", "add", "local", s.Repo)
	call := func(as *rig.Actor, iface, method string, args ...string) rig.Result {
		return as.Run("busctl", append([]string{"--address=" + s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName + "." + iface, method}, args...)...)
	}
	calls := [][]string{
		{"Retained", "Set", "as", "1", two.base[0]}, {"Retained", "Resolve", "sa{sv}", two.base[0], "0"}, {"Retained", "Clear"},
		{"System", "Stage", "sa{sv}", osName, "0"}, {"System", "Rollback"},
	}
	for _, c := range append(calls, []string{"System", "Commit"}) {
		if r := call(s.User, c[0], c[1], c[2:]...); r.Code == 0 || !strings.Contains(r.Stderr, "cannot update the system as user") {
			t.Errorf("got %v, want a failure and %q in the error output", r, "cannot update the system as user")
		}
	}
	r := s.User.Lull("system", "stage", osName)
	if r.Code != 77 || !strings.HasPrefix(r.Stderr, "lull: cannot update the system as user "+s.User.Name) {
		t.Errorf("got %v, want exit status 77 and error output that begins with %q", r, "lull: cannot update the system as user "+s.User.Name)
	}
	s.has(false, two.base...)
	if r := s.User.Lull("system", "status"); r.Code != 0 || r.Stdout != "In effect:  as the machine came\nNext:       nothing is staged\n" {
		t.Errorf("everybody may look: got %v, want exit status 0 and output %q", r, "In effect:  as the machine came\nNext:       nothing is staged\n")
	}
	for _, c := range calls {
		if r := call(may, c[0], c[1], c[2:]...); r.Code != 0 {
			t.Errorf("got %v, want exit status 0", r)
		}
	}
	if r := call(may, "Space", "Collect", "a{sv}", "0"); r.Code == 0 || !strings.Contains(r.Stderr, "ermitted") && !strings.Contains(r.Stderr, "cannot collect") {
		t.Errorf("Space.Collect with the right to update the system: got %v; want a failure that it is not permitted", r)
	}
}
