package introspection_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
	*rig.Scene
	gate *gate
}

func set(t *testing.T) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc", "setpriv")
	require.Unified(t)
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "subtree"}})}
	s.gate = &gate{folder: http.FileServer(http.Dir(s.Repo)), opened: make(chan struct{})}
	return s
}

// start starts the agent with the repository behind a web server.
func (s *scene) start() {
	s.Helper()
	server := httptest.NewServer(s.gate)
	s.Cleanup(server.Close)
	s.Cleanup(s.gate.open)
	s.StartAgent()
	s.MustLull("repo", "add", "web", server.URL, "--trust", filepath.Join(s.Repo, "root.json"))
}

// small publishes a package of a few files.
func (s *scene) small(name, version string, files map[string]string) string {
	s.Helper()
	files["lull.yaml"] = fmt.Sprintf("name: %s\nversion: %q\nsummary: A test\n", name, version)
	return s.Publish(s.Tree("package-"+name+version, files))
}

// sample publishes a version of the application.
func (s *scene) sample(version string) string {
	s.Helper()
	sample.Write(s, s.Path(version), version)
	return s.Publish(s.Path(version))
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
	s.Helper()
	s.Decode(s.MustLull("inspect", "--json"), &v)
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
