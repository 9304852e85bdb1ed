package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/schedule"
)

// every is the interval of checks in the policy.
const every = 6 * time.Hour

// machine follows the repository as an agent does, and keeps in memory what an agent would
// install.
type machine struct {
	*testing.T
	id      string
	dir     string
	office  bool // on from eight to six only
	wants   []repo.Listing
	network *network

	up chan struct{} // the network has come up

	mu     sync.Mutex
	has    map[string]installed // by package name
	blobs  map[digest.Digest]bool
	checks []check
}

type installed struct {
	pkg     digest.Digest
	version string
}

// check is one check of the repository.
type check struct {
	begun, ended time.Time
	err          error
	again        time.Duration // after which the server wants to be asked again
	first        bool          // since the machine was switched on
	fresh        bool          // the machine has read the repository never before
	news         int           // versions installed
	traffic
}

func newMachine(t *testing.T, n *network, dir, root string, id string) *machine {
	m := &machine{T: t, id: id, dir: filepath.Join(dir, id), network: n, has: map[string]installed{}, blobs: map[digest.Digest]bool{}, up: make(chan struct{}, 1)}
	must(t, os.MkdirAll(filepath.Join(m.dir, "repos.d"), 0o755))
	must(t, os.WriteFile(filepath.Join(m.dir, "repos.d", "main.yaml"), fmt.Appendf(nil, "url: http://%s.fleet\nroot: %s\n", id, root), 0o644))
	return m
}

// on runs the machine until the context ends.
func (m *machine) on(ctx context.Context) {
	quiet := slog.New(slog.DiscardHandler)
	set := repositories.New(repositories.Config{Root: m.dir, Dir: filepath.Join(m.dir, "repos.d"), Log: quiet, Changed: func() {}, Dial: m.network.dial})
	must(m.T, errors.Join(set.Load(), set.LoadLastCheck()))
	first := true
	checker := schedule.New(schedule.Config{
		Repositories: set, Log: quiet,
		Every:     func() time.Duration { return every },
		Installed: func(string) bool { return true },
		Check: func(ctx context.Context, _ []string) error {
			c := check{begun: time.Now(), first: first, fresh: len(m.has) == 0}
			first = false
			before := m.network.of(m.id)
			c.news, c.err = m.check(ctx, set)
			after := m.network.of(m.id)
			c.traffic = traffic{after.requests - before.requests, after.faults - before.faults, after.bytes - before.bytes}
			c.ended, c.again = time.Now(), repo.RetryAfter(c.err)
			if ctx.Err() != nil {
				return c.err
			}
			set.NoteCheck(true, c.err, nil)
			m.mu.Lock()
			m.checks = append(m.checks, c)
			m.mu.Unlock()
			return c.err
		},
		Alarm:   wallclock.NewRuntime,
		Network: func() (<-chan struct{}, func(), error) { return m.up, func() {}, nil },
	})
	checker.Follow(ctx)
	if c, err := set.Client("main"); err == nil {
		c.Close()
	}
}

// comesUp reports to the machine that its network has come up.
func (m *machine) comesUp() {
	select {
	case m.up <- struct{}{}:
	default:
	}
}

// check reads the repository, and installs for each package the newest offer that reaches the
// machine, unless it has a newer one.
func (m *machine) check(ctx context.Context, set *repositories.Set) (news int, err error) {
	c, err := set.Read(ctx, "main", true)
	if err != nil {
		return 0, err
	}
	c.Prepare(ctx, m.wants)
	for _, l := range m.wants {
		list, err := c.Offers(ctx, l.Name, l.Channel)
		if err != nil {
			return news, err
		}
		m.mu.Lock()
		have := m.has[l.Name].pkg
		m.mu.Unlock()
		if at := slices.IndexFunc(list, func(o repo.Offer) bool { return o.Package == have }); at >= 0 {
			list = list[:at]
		}
		at := slices.IndexFunc(list, func(o repo.Offer) bool { return o.Reaches(m.id, c.Time()) })
		if at < 0 {
			continue
		}
		if err := m.install(ctx, c, list[at].Package); err != nil {
			return news, err
		}
		news++
		m.mu.Lock()
		m.has[l.Name] = installed{pkg: list[at].Package, version: list[at].Version}
		m.mu.Unlock()
	}
	return news, nil
}

// install fetches the blobs of a package that are not here.
func (m *machine) install(ctx context.Context, c *repo.Client, pkg digest.Digest) error {
	data, err := m.blob(ctx, c, pkg)
	if err != nil {
		return err
	}
	meta, err := manifest.Parse(data)
	if err != nil {
		return err
	}
	for _, b := range meta.Blobs() {
		if m.blobs[b.Digest] {
			continue
		}
		if _, err := m.blob(ctx, c, b.Digest); err != nil {
			return err
		}
		m.blobs[b.Digest] = true
	}
	return nil
}

var errDiffers = errors.New("the content of a blob is another one")

func (m *machine) blob(ctx context.Context, c *repo.Client, d digest.Digest) ([]byte, error) {
	r, err := c.Blob(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err == nil && digest.Of(data) != d {
		err = errDiffers
	}
	return data, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
