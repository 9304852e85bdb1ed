package manager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/runctl/inotify"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/wallclock"
	"github.com/lull/lull/policy"
)

// repository is one that is configured.
type repository struct {
	repo.Config
	client *repo.Client
}

// repositories are all of them, and how the last look into them went.
type repositories struct {
	mu        sync.Mutex // guards what follows
	clients   map[string]*repository
	lastCheck time.Time // when all were last read without error
	lastError string
	read      map[string]time.Time // when each was last read without error
}

// RepositoryState is what there is to say about the repositories.
type RepositoryState struct {
	Addresses [][2]string // name and address, by name
	LastCheck time.Time
	LastError string
	Read      map[string]time.Time // when each was last read without error, since the agent started
}

// Repositories says which there are and how the last look into them went.
func (m *Manager) Repositories() (s RepositoryState) {
	m.repos.mu.Lock()
	defer m.repos.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.repos.clients)) {
		s.Addresses = append(s.Addresses, [2]string{name, m.repos.clients[name].URL})
	}
	s.LastCheck, s.LastError, s.Read = m.repos.lastCheck, m.repos.lastError, maps.Clone(m.repos.read)
	return s
}

// trialPrefix begins the names of folders in which repositories are tried.
const trialPrefix = ".repo-"

// tidyRepositories removes what a crash has left, before anybody writes there.
func (m *Manager) tidyRepositories() error {
	top, err := os.ReadDir(m.Root)
	for _, f := range top {
		if strings.HasPrefix(f.Name(), trialPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(m.Root, f.Name())))
		}
	}
	states := filepath.Join(m.Root, "repos")
	err = errors.Join(err, durable.Tidy(m.reposDir()), filepath.WalkDir(states, func(path string, d fs.DirEntry, err error) error {
		switch {
		case path == states && errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil && d.IsDir():
			return durable.Tidy(path)
		}
		return err
	}))
	return err
}

// loadRepositories opens what repos.d configures. A repository that has not
// changed keeps its client.
func (m *Manager) loadRepositories() error {
	configs, err := repo.LoadConfigs(m.reposDir())
	if err != nil {
		return err
	}
	m.repos.mu.Lock()
	defer m.repos.mu.Unlock()
	next := map[string]*repository{}
	for _, c := range configs {
		if old := m.repos.clients[c.Name]; old != nil && old.URL == c.URL && bytes.Equal(old.Root, c.Root) {
			next[c.Name] = old
			continue
		}
		client, err := repo.Open(c, filepath.Join(m.Root, "repos"))
		if err != nil {
			return err
		}
		next[c.Name] = &repository{c, client}
	}
	m.repos.clients = next
	maps.DeleteFunc(m.repos.read, func(name string, _ time.Time) bool { return next[name] == nil })
	return nil
}

// read reads a repository anew.
func (m *Manager) read(ctx context.Context, name string) (*repo.Client, error) {
	client, err := m.client(name)
	if err == nil {
		err = client.Update(ctx)
	}
	if err != nil {
		return nil, err
	}
	m.repos.mu.Lock()
	defer m.repos.mu.Unlock()
	if m.repos.clients[name] != nil {
		m.repos.read[name] = time.Now()
	}
	return client, nil
}

func (m *Manager) client(name string) (*repo.Client, error) {
	m.repos.mu.Lock()
	defer m.repos.mu.Unlock()
	if r := m.repos.clients[name]; r != nil {
		return r.client, nil
	}
	if len(m.repos.clients) == 0 {
		return nil, problem.New(problem.NotFound, "cannot find repository %q: none is configured", name).
			WithHint("lull repo add NAME ADDRESS --trust ROOT.JSON adds one")
	}
	return nil, problem.New(problem.NotFound, "cannot find repository %q: there are %s", name,
		strings.Join(slices.Sorted(maps.Keys(m.repos.clients)), ", "))
}

// AddRepository trusts a repository from now on. It is read once before it is
// written down, so that a wrong address or root shows at once.
func (m *Manager) AddRepository(ctx context.Context, name, url string, root []byte) error {
	if err := meta.ValidName(name); err != nil {
		return problem.New(problem.Invalid, "cannot add repository: %w", err)
	}
	if err := m.mayChange("add repository " + name); err != nil {
		return err
	}
	config := repo.Config{Name: name, URL: url, Root: root}
	trial, err := os.MkdirTemp(m.Root, trialPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(trial)
	client, err := repo.Open(config, trial)
	if err != nil {
		return err
	}
	if err := client.Update(ctx); err != nil {
		return err
	}
	// A JSON string is a YAML string, whatever is in it.
	quoted, err := json.Marshal(url)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "url: %s\nroot: %s.root.json\n", quoted, name)
	dir := m.reposDir()
	err = errors.Join(durable.MkdirAll(dir, 0o755),
		durable.WriteFile(filepath.Join(dir, name+".root.json"), root, 0o644),
		durable.WriteFile(filepath.Join(dir, name+".yaml"), text, 0o644))
	if err != nil {
		return err
	}
	if err := m.loadRepositories(); err != nil {
		return err
	}
	m.nudge()
	m.observer.RepositoriesChanged()
	return nil
}

// chooseRepository finds the one that offers the package, unless one is named.
func (m *Manager) chooseRepository(ctx context.Context, name, repository, channel string) (string, error) {
	if err := repo.ValidChannel(channel); err != nil {
		return "", err
	}
	names := []string{repository}
	if repository == "" {
		names = nil
		for _, a := range m.Repositories().Addresses {
			names = append(names, a[0])
		}
	}
	if len(names) == 0 {
		_, err := m.client("")
		return "", err
	}
	var errs []error
	for _, n := range names {
		client, err := m.read(ctx, n)
		if err == nil {
			_, err = client.Channel(ctx, name, channel)
		}
		if err == nil {
			return n, nil
		}
		errs = append(errs, err)
	}
	// A repository that could not be believed matters more than one that has no such package.
	slices.SortStableFunc(errs, func(a, b error) int {
		found := func(err error) int {
			if problem.Is(err, problem.NotFound) {
				return 1
			}
			return 0
		}
		return found(a) - found(b)
	})
	return "", errs[0]
}

// Check looks into all repositories. It starts a refresh for each instance that
// has something newer and is among only, or, with only nil, is refreshed by
// itself. What could be started is returned beside the error.
func (m *Manager) Check(ctx context.Context, only []string) ([]refresh.Refresh, error) {
	if err := m.mayChange("refresh " + cmp.Or(strings.Join(only, ", "), "what is installed")); err != nil {
		m.noteCheck([]error{err})
		return nil, err
	}
	names, err := m.links.Instances()
	if err != nil {
		return nil, err
	}
	if err := m.known(only); err != nil {
		return nil, err
	}
	good, errs := m.updateRepositories(ctx)
	var started []refresh.Refresh
	for _, n := range names {
		if only != nil && !slices.Contains(only, n) || only == nil && !m.Policy().For(n).AutoRefresh {
			continue
		}
		r, err := m.checkOne(ctx, n, good, only != nil)
		if err != nil {
			errs = append(errs, err)
			m.Log.Warn("cannot look for a newer version", "instance", n, "error", err)
		}
		if r != nil {
			started = append(started, *r)
		}
	}
	m.noteCheck(errs)
	return started, errors.Join(errs...)
}

// RefreshTogether looks into all repositories and starts the refreshes of those
// of the instances that have something newer, so that all of them happen or none.
func (m *Manager) RefreshTogether(ctx context.Context, names []string) ([]refresh.Refresh, error) {
	if err := m.known(names); err != nil {
		return nil, err
	}
	good, errs := m.updateRepositories(ctx)
	m.noteCheck(errs)
	var requests []refresh.Request
	for i, n := range names {
		q, err := m.offer(ctx, n, good, true)
		if errs = append(errs, err); err == nil && q != nil && !slices.Contains(names[:i], n) {
			requests = append(requests, *q)
		}
	}
	if err := errors.Join(errs...); err != nil || len(requests) == 0 {
		return nil, err
	}
	return m.engine.SubmitTogether(ctx, requests)
}

// known returns an error unless all of the instances are installed. A link that
// somebody has broken is mended.
func (m *Manager) known(names []string) error {
	for _, n := range names {
		if _, err := m.Package(n); err == nil {
			continue
		} else if mended, _ := m.engine.Mend(n); !mended {
			return err
		}
		if _, err := m.Package(n); err != nil {
			return err
		}
	}
	return nil
}

// updateRepositories reads all repositories anew; good are those that could be read and believed.
func (m *Manager) updateRepositories(ctx context.Context) (good map[string]bool, errs []error) {
	good = map[string]bool{}
	for _, a := range m.Repositories().Addresses {
		_, err := m.read(ctx, a[0])
		good[a[0]] = err == nil
		if err != nil {
			errs = append(errs, err)
			m.Log.Warn("cannot read a repository", messages.Key, messages.RepositoryUnreadable, "repository", a[0], "error", err)
		}
	}
	return good, errs
}

func (m *Manager) noteCheck(errs []error) {
	m.repos.mu.Lock()
	if len(errs) == 0 {
		m.repos.lastCheck, m.repos.lastError = time.Now(), ""
		m.noteLastCheck(m.repos.lastCheck)
	} else {
		m.repos.lastError = errs[0].Error()
	}
	m.repos.mu.Unlock()
	m.observer.RepositoriesChanged()
}

// checkOne starts a refresh if there is an offer, and returns what is under way.
// An atomic group that waits is not broken up by a newer version of one of its members.
func (m *Manager) checkOne(ctx context.Context, name string, good map[string]bool, asked bool) (*refresh.Refresh, error) {
	q, err := m.offer(ctx, name, good, asked)
	if old := m.underWay(name); err != nil || q == nil || !asked && old != nil && old.Group != "" {
		return old, err
	}
	r, err := m.engine.Submit(ctx, *q)
	if problem.Is(err, problem.Exists) {
		return m.underWay(name), nil
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// offer is the refresh that the channel of the instance makes possible, if it has
// something else than what is current. What was reverted is not offered again; what
// failed its health check not before its time, unless somebody asks for it.
func (m *Manager) offer(ctx context.Context, name string, good map[string]bool, asked bool) (*refresh.Request, error) {
	inst, err := m.state.Instance(name)
	if err != nil {
		return nil, err
	}
	if err := m.repositoryOf(ctx, &inst); err != nil {
		return nil, err
	}
	client, err := m.client(inst.Repository)
	if err != nil {
		return nil, err
	}
	if !good[inst.Repository] {
		return nil, nil // why was said once for all
	}
	base, _ := meta.SplitInstance(name)
	p, err := client.Channel(ctx, base, inst.Channel)
	if err != nil {
		return nil, err
	}
	_, cur, err := m.links.Read(name)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Package == cur, slices.Contains(inst.Refused, p.Package):
		return nil, nil
	case !asked && inst.Backoff != nil && inst.Backoff.Package == p.Package && backsOff(inst.Backoff, wallclock.Now()):
		return nil, nil
	case !asked && !p.Offers(m.machineID()):
		return nil, nil
	}
	return &refresh.Request{Kind: refresh.Update, Instance: name, Package: p.Package,
		Version: p.Version, Urgency: string(p.Urgency), Published: p.Published, Now: asked}, nil
}

// backsOff says whether it is too early for another try. A delay that was reckoned
// with a clock that was wrong ends when the clock is right.
func backsOff(b *state.Backoff, now time.Time) bool {
	return policy.ClockAfter().Lasts(b.Until.Add(-b.Delay), b.Until, now)
}

func (m *Manager) underWay(name string) *refresh.Refresh {
	if r, ok := m.engine.Of(name); ok && r.Kind == refresh.Update {
		return &r
	}
	return nil
}

// machineID stays the same on a machine, for rollouts by share of the machines.
func (m *Manager) machineID() string {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil {
		return string(bytes.TrimSpace(b))
	}
	return m.Root
}

// followRepositories looks into the repositories by schedule, and into local
// ones the moment they change.
func (m *Manager) followRepositories() {
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	changed := make(chan struct{}, 1)
	alarm := wallclock.New()
	defer alarm.Close()
	var due schedule
	arm := func() {
		due = after(wallclock.Now(), m.Policy().Schedule.Check)
		alarm.Set(due.at)
	}
	rearm := func() {
		watch := m.watchLocal(changed) // first: nothing is published unheard
		if stop != nil {
			stop()
		}
		stop = watch
		due = next(wallclock.Now(), m.Repositories().LastCheck, m.Policy().Schedule.Check)
		alarm.Set(due.at)
	}
	rearm()
	for {
		select {
		case <-m.rewatch:
			rearm()
			continue
		case <-m.ctx.Done():
			return
		case <-changed:
		case <-alarm.C():
			if now := wallclock.Now(); !due.over(now) {
				alarm.Set(due.at)
				continue
			}
		}
		arm()
		if _, err := m.Check(m.ctx, nil); err != nil && m.ctx.Err() == nil {
			m.Log.Warn("not everything could be looked at", "error", err)
		}
	}
}

// watchLocal tells changed when a repository in a local folder was published to:
// its timestamp is replaced last.
func (m *Manager) watchLocal(changed chan<- struct{}) (stop func()) {
	w, err := inotify.New()
	if err != nil {
		m.Log.Warn("local repositories are looked at by schedule only", "error", err)
		return nil
	}
	m.repos.mu.Lock()
	for name, r := range m.repos.clients {
		dir := r.client.Watch()
		if dir == "" {
			continue
		}
		if _, err := w.Add(dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR); err != nil {
			m.Log.Warn("a local repository is looked at by schedule only", "repository", name, "error", err)
		}
	}
	m.repos.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			events, err := w.Read()
			if err != nil {
				return // closed
			}
			for _, e := range events {
				if e.Overflow() || strings.HasPrefix(e.Name, "timestamp") {
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			}
		}
	}()
	return func() { w.Close(); <-done }
}
