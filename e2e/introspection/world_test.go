package introspection_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const limit = 60 * time.Second

// scene is a world with an agent that fetches from a web server.
type scene struct {
	*rig.World
	t    *testing.T
	api  *rig.API
	gate *gate
}

func set(t *testing.T, policy string) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc", "setpriv")
	require.Unified(t)
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", "schedule: {check: 31d}\ndefaults: {auto-refresh: false}\n"+policy)
	w.MustLull("repo", "init", w.Repo)
	s := &scene{World: w, t: t, api: w.Bus.Watch(), gate: &gate{folder: http.FileServer(http.Dir(w.Repo)), opened: make(chan struct{})}}
	return s
}

// start starts the agent with the repository behind a web server.
func (s *scene) start() {
	s.t.Helper()
	server := httptest.NewServer(s.gate)
	s.t.Cleanup(server.Close)
	s.t.Cleanup(s.gate.open)
	s.StartAgent()
	s.MustLull("repo", "add", "web", server.URL, "--trust", filepath.Join(s.Repo, "root.json"))
}

// publish publishes a directory of the world and returns its hash.
func (s *scene) publish(dir string, flags ...string) string {
	s.t.Helper()
	var p struct{ Package string }
	s.decode(s.MustLull(append([]string{"publish", "--json", "--repo", s.Repo, dir}, flags...)...), &p)
	if len(p.Package) != 64 {
		s.t.Fatalf("%q is no package hash", p.Package)
	}
	return p.Package
}

// small publishes a package of a few files.
func (s *scene) small(name, version string, files map[string]string) string {
	s.t.Helper()
	dir := s.Path("package-" + name + version)
	files["lull.yaml"] = fmt.Sprintf("name: %s\nversion: %q\nsummary: A test\n", name, version)
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.publish(dir)
}

// sample publishes a version of the application.
func (s *scene) sample(version string) string {
	s.t.Helper()
	sample.Write(s, s.Path(version), version)
	return s.publish(s.Path(version))
}

func (s *scene) decode(r rig.Result, into any) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		s.t.Fatalf("%v\n%v", err, r)
	}
}

// gate is a web server for a directory that, once it is closed, sends the
// first half of the blob that is requested first, and then nothing until it is
// opened. Other requests meanwhile wait as well.
type gate struct {
	folder http.Handler

	mu     sync.Mutex
	shut   bool
	opened chan struct{}
	once   sync.Once
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

func (g *gate) close() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut && strings.Contains(r.URL.Path, "/blobs/") {
		w = &half{ResponseWriter: w, opened: g.opened, gone: r.Context().Done()}
	}
	g.folder.ServeHTTP(w, r)
}

// half waits in the middle of what is long, and before the end of it.
type half struct {
	http.ResponseWriter
	opened, gone <-chan struct{}
	sent         int
}

func (h *half) Write(b []byte) (int, error) {
	select {
	case <-h.opened:
		return h.ResponseWriter.Write(b)
	default:
	}
	const most = 300_000
	now := b[:min(len(b), max(0, most-h.sent))]
	n, err := h.ResponseWriter.Write(now)
	h.sent += n
	if err != nil || n == len(b) && h.sent < most {
		return n, err
	}
	h.ResponseWriter.(http.Flusher).Flush()
	select {
	case <-h.opened:
	case <-h.gone:
		return n, io.ErrClosedPipe
	}
	m, err := h.ResponseWriter.Write(b[n:])
	return n + m, err
}

// held is one package in an index.
type held struct {
	Package, Holder string
	PID             uint32
}

// transfer is one of those under way.
type transfer struct {
	Package string    `json:"package"`
	Name    string    `json:"name"`
	Holder  string    `json:"holder"`
	Done    uint64    `json:"bytes-done"`
	Total   uint64    `json:"bytes-total"`
	Missing uint32    `json:"blobs-missing"`
	Since   time.Time `json:"since"`
}

// inspection is what the tests need of `lull inspect`.
type inspection struct {
	Indices    map[string][]held
	Transfers  []transfer
	Collected  time.Time
	Collection struct {
		Blobs, Packages, Strays int
		Bytes                   uint64
	}
	Runs         []struct{ Instance, Service string }
	Repositories struct{ Read map[string]time.Time }
	Refreshes    []struct {
		Instance, State string
		Since           time.Time
	}
}

func (s *scene) inspect() (v inspection) {
	s.t.Helper()
	s.decode(s.MustLull("inspect", "--json"), &v)
	return v
}

// packages lists the packages of an index, each once.
func (v *inspection) packages(name string) (list []string) {
	for _, h := range v.Indices[name] {
		list = append(list, h.Package)
	}
	slices.Sort(list)
	return slices.Compact(list)
}
