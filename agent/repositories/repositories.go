// Package repositories is the set of repositories that repos.d configures: their clients, the
// result of the last read of each, and an administrator's changes to the set.
//
// Words: to read a repository means to fetch its metadata by package repo. A repository is
// broken if its file cannot be used. It is left out, and the others work. A wanted instance
// is one whose refresh a user requested while its repository could not be reached.
//
// Concurrency: a Set may be used from any goroutine. Its mutex is held over memory only;
// readings of different repositories are concurrent. Edits (Add, AddApt, AddWatched, Remove, SetURL) and
// Load have another lock, over the files in repos.d: one of them runs at a time.
package repositories

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/repo"
)

// Config has the paths of a Set, and its callbacks.
type Config struct {
	Root    string // of the agent: states of repositories are in repos below it
	Dir     string // repos.d
	Log     *slog.Logger
	Changed func() // is called after each change of the state; must not block
	// Ended, which may be nil, is called after each reading with its error, or with that of a
	// package or file that could not be followed; must not block.
	Ended   func(repository string, err error)
	Dial    repo.Dialer
	Network repo.Network
	// Replica makes the repository of this machine that follows a source of apt or a
	// directory, unless it exists. It returns its address and root of trust.
	Replica func(config repo.Config) (dir string, root []byte, err error)
	// Follow publishes the offers of such a source in its replica. failed has the error of
	// each package or file that could not be published, by name.
	Follow func(ctx context.Context, config repo.Config) (failed map[string]error, err error)
	// Unfollow deletes the replica of that name, if there is one.
	Unfollow func(name string) error
	// TryApt reads a source of apt once, without a replica.
	TryApt func(ctx context.Context, name string, source *repo.Apt) error
	// TryDir returns why a directory cannot be watched.
	TryDir func(dir string) error
	// MayChange returns why repos.d cannot be changed, as the error of doing what.
	MayChange func(what string) error
	// Edited is called after each edit; must not block.
	Edited func()
}

// repository is a configured and usable repository.
type repository struct {
	repo.Config
	client *repo.Client
}

// Set is the set of repositories.
type Set struct {
	Config

	editing   sync.Mutex // one edit or Load at a time
	mu        sync.Mutex // guards the fields below; held over memory only
	clients   map[string]*repository
	broken    map[string]error     // those whose file cannot be used, with the error
	unlisted  error                // why repos.d could not be listed, or nil
	reads     map[string]*reading  // by name, also of broken ones
	lastCheck time.Time            // when all were last read without error
	lastError string               // of the last check as a whole
	wanted    map[string]time.Time // instances, and when each was requested
}

// reading is the state of the readings of one repository.
type reading struct {
	busy     int       // readings in progress
	checking time.Time // since when; zero means that no reading is in progress
	read     time.Time // when it was last read without error, by this agent or an earlier one
	failed   time.Time // when the last reading failed; zero means that it succeeded
	err      error     // of the last reading
	// notBefore is the earliest time for the next scheduled read, as the server has
	// requested.
	notBefore time.Time
	requested int              // readings in progress that a user has requested
	without   map[string]error // packages of a source of apt, or files of a directory, that could not be followed, by name
}

// New returns an empty set: see Load.
func New(c Config) *Set {
	return &Set{Config: c, clients: map[string]*repository{}, reads: map[string]*reading{}}
}

// Health is the state of one repository.
type Health struct {
	Name     string    `json:"name"`
	Address  string    `json:"address"`           // without a password; "" for a repository that is left out
	Checking time.Time `json:"checking,omitzero"` // since when it is being read
	Read     time.Time `json:"read,omitzero"`     // last without error
	Failed   time.Time `json:"failed,omitzero"`   // when the last reading failed
	Error    string    `json:"error,omitempty"`   // of the last reading, or the reason why it is left out
	LeftOut  bool      `json:"left-out,omitempty"`
	Exposed  bool      `json:"exposed,omitempty"` // every user can read its password

	Mirrors []repo.Mirror `json:"mirrors,omitempty"`
}

// State is the state of all repositories.
type State struct {
	Addresses  [][2]string // name and address, by name, of those in use
	All        []Health    // by name, those that are left out included
	LastCheck  time.Time
	LastError  string               // of all readings and of the last check
	CheckError string               `json:"-"` // of the last check as a whole, apart from readings
	Unlisted   error                `json:"-"` // why repos.d could not be listed, or nil
	Read       map[string]time.Time // when each was last read without error
}

// State returns the state of all repositories, with the result of their last reading.
func (r *Set) State() (s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Read = map[string]time.Time{}
	s.LastCheck, s.LastError, s.CheckError, s.Unlisted = r.lastCheck, r.lastError, r.lastError, r.unlisted
	names := slices.Collect(maps.Keys(r.clients))
	for name := range r.broken {
		if r.clients[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var failed []string
	for _, name := range names {
		h := Health{Name: name}
		if c := r.clients[name]; c != nil {
			h.Address, h.Exposed, h.Mirrors = c.Address(), c.Exposed, c.client.Mirrors()
			s.Addresses = append(s.Addresses, [2]string{name, h.Address})
		}
		if p := r.reads[name]; p != nil {
			h.Checking, h.Read, h.Failed = p.checking, p.read, p.failed
			if p.err != nil {
				h.Error = p.err.Error()
			}
			if !p.read.IsZero() {
				s.Read[name] = p.read
			}
		}
		if err := r.broken[name]; err != nil {
			h.LeftOut, h.Error = true, err.Error()
		}
		if h.Error != "" {
			failed = append(failed, h.Error)
		}
		s.All = append(s.All, h)
	}
	if r.unlisted != nil {
		failed = append(failed, r.unlisted.Error())
	}
	if s.LastError != "" {
		failed = append(failed, s.LastError)
	}
	s.LastError = strings.Join(failed, "; ")
	return s
}

// trialPrefix begins the names of directories for the trial of repositories.
const trialPrefix = ".repo-"

// Tidy removes the files of an interrupted run. It is called before the first write.
func (r *Set) Tidy() error {
	top, err := os.ReadDir(r.Root)
	for _, f := range top {
		if strings.HasPrefix(f.Name(), trialPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.Root, f.Name())))
		}
	}
	states := filepath.Join(r.Root, "repos")
	err = errors.Join(err, durable.Tidy(r.Dir), filepath.WalkDir(states, func(path string, d fs.DirEntry, err error) error {
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

// Load opens the repositories that repos.d configures. An unchanged repository keeps its
// client. One whose file cannot be used is left out. The error names all omitted ones.
func (r *Set) Load() error {
	r.editing.Lock()
	defer r.editing.Unlock()
	return r.load()
}

// load is Load for callers with the lock over edits.
func (r *Set) load() error {
	configs, broken, listed := repo.LoadConfigs(r.Dir)
	r.mu.Lock()
	old := maps.Clone(r.clients)
	r.mu.Unlock()
	next, left := map[string]*repository{}, map[string]error{}
	for _, b := range broken {
		left[b.Name] = b.Err
	}
	for _, c := range configs {
		var err error
		if c.Follows() {
			c.URL, c.Root, err = r.Replica(c)
		}
		if have := old[c.Name]; err == nil && have != nil && have.Equal(c) {
			next[c.Name] = &repository{c, have.client}
			continue
		}
		var client *repo.Client
		r.connect(&c)
		if err == nil {
			client, err = repo.Open(c, filepath.Join(r.Root, "repos"))
		}
		if err != nil {
			left[c.Name] = err
			continue
		}
		next[c.Name] = &repository{c, client}
	}
	if listed != nil {
		next = old // the previous ones may still exist
	}
	earlier := map[string]time.Time{}
	for name := range next {
		if fi, err := os.Lstat(r.readFile(name)); err == nil {
			earlier[name] = fi.ModTime()
		}
	}
	r.mu.Lock()
	r.clients, r.broken, r.unlisted = next, left, listed
	maps.DeleteFunc(r.reads, func(name string, _ *reading) bool {
		return next[name] == nil || old[name] == nil || next[name].client != old[name].client
	})
	for name, at := range earlier {
		if r.reads[name] == nil {
			r.reads[name] = &reading{read: at}
		}
	}
	r.mu.Unlock()
	errs := []error{listed}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		r.Log.Error("a repository is left out", messages.Key, messages.RepositoryLeftOut, "repository", name, "error", left[name])
		errs = append(errs, errkind.New(errkind.KindOf(left[name]), "cannot use repository %q: %w", name, left[name]))
	}
	if listed != nil {
		r.Log.Error("repositories cannot be read", messages.Key, messages.PolicyRefused, "error", listed)
	}
	return errors.Join(errs...)
}

// Broken returns the reasons why repositories are left out. Nil means that none is.
func (r *Set) Broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := []error{r.unlisted}
	for _, name := range slices.Sorted(maps.Keys(r.broken)) {
		errs = append(errs, r.broken[name])
	}
	return errors.Join(errs...)
}

// Read re-reads a repository. With quick it sends one conditional request if nothing is new,
// and none before the time that the server has requested.
func (r *Set) Read(ctx context.Context, name string, quick bool) (*repo.Client, error) {
	client, config, err := r.client(name)
	if err != nil {
		return nil, err
	}
	var early error
	begun := time.Now()
	r.noteReading(name, client, func(last *reading) {
		if quick && time.Now().Before(last.notBefore) {
			early = last.err
			return
		}
		if last.busy++; last.busy == 1 {
			last.checking = time.Now()
		}
		if !quick {
			last.requested++
		}
	})
	if early != nil {
		return nil, early
	}
	var without map[string]error
	if config.Follows() {
		// A request of a user waits for the reading in progress.
		follow := ctx
		if quick {
			follow = repo.Unrequested(ctx, func() bool { return r.requested(name) })
		}
		without, err = r.Follow(follow, config)
	}
	switch {
	case err != nil:
	case quick:
		err = client.Check(ctx)
	default:
		err = client.Update(ctx)
	}
	news := true // the first failure of its kind since the last success
	r.noteReading(name, client, func(last *reading) {
		news = last.err == nil || err == nil || last.err.Error() != err.Error()
		if last.busy--; last.busy == 0 {
			last.checking = time.Time{}
		}
		if !quick {
			last.requested--
		}
		switch {
		case err == nil:
			last.read, last.failed, last.err, last.notBefore = begun, time.Time{}, nil, time.Time{}
			if last.without = without; len(without) > 0 {
				last.failed, last.err = time.Now(), first(without)
			}
		case !errkind.Is(err, errkind.Interrupted):
			last.failed, last.err, last.notBefore = time.Now(), err, time.Now().Add(repo.RetryAfter(err))
		}
	})
	if err == nil {
		r.stamp(r.readFile(name), begun)
	}
	if r.Ended != nil {
		result := err
		if err == nil && len(without) > 0 {
			result = first(without)
		}
		r.Ended(name, result)
	}
	if err != nil {
		level := slog.LevelDebug
		if news && !errkind.Is(err, errkind.Interrupted) {
			level = slog.LevelWarn
		}
		r.Log.Log(ctx, level, "cannot read a repository", messages.Key, messages.RepositoryUnreadable, "repository", name, "error", err)
		return nil, err
	}
	return client, nil
}

// connect adds how servers are reached to the configuration of a repository.
func (r *Set) connect(c *repo.Config) {
	c.Dial, c.Limit, c.Proxy = r.Dial, r.Network.Limit, r.Network.Proxy
	c.MirrorsChanged = r.Changed
}

// requested reports whether a user has requested a reading that is in progress.
func (r *Set) requested(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.reads[name]
	return last != nil && last.requested > 0
}

// noteReading changes the state of a repository's readings, unless another repository of that
// name has replaced it.
func (r *Set) noteReading(name string, client *repo.Client, change func(*reading)) {
	r.mu.Lock()
	if c := r.clients[name]; c != nil && c.client == client {
		if r.reads[name] == nil {
			r.reads[name] = &reading{}
		}
		change(r.reads[name])
	}
	r.mu.Unlock()
	r.Changed()
}

// first returns the error of the first package by name, and the number of the others.
func first(without map[string]error) error {
	names := slices.Sorted(maps.Keys(without))
	err := without[names[0]]
	if len(names) > 1 {
		return errkind.New(errkind.KindOf(err), "%w (and %d more)", err, len(names)-1)
	}
	return err
}

// Failed returns why the last reading of a repository failed; nil means that it succeeded, or
// that there was none.
func (r *Set) Failed(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.reads[name]; last != nil {
		return last.err
	}
	return nil
}

// Without returns the reason why a package of a source of apt could not be followed at the
// last read. Nil means that it could.
func (r *Set) Without(repository, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.reads[repository]; p != nil {
		return p.without[name]
	}
	return nil
}

// Client returns the client of a repository. Kind BadPolicy means that its file cannot be
// used. NotFound means that there is none of that name; the text then names those that exist.
func (r *Set) Client(name string) (*repo.Client, error) {
	client, _, err := r.client(name)
	return client, err
}

// adds is the hint of errors about missing repositories.
const adds = "lull repo add NAME ADDRESS --trust ROOT.JSON adds one"

// client is Client, and also returns the configuration of the repository.
func (r *Set) client(name string) (*repo.Client, repo.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[name]; c != nil {
		return c.client, c.Config, nil
	}
	if err := r.broken[name]; err != nil {
		return nil, repo.Config{}, errkind.New(errkind.BadPolicy, "cannot use repository %q: %w", name, err).
			WithHint("mend the file; lull policy reload reads it again")
	}
	switch {
	case len(r.clients) == 0 && name == "":
		return nil, repo.Config{}, errkind.New(errkind.NotFound, "cannot find a repository: none is known").WithHint(adds)
	case len(r.clients) == 0:
		return nil, repo.Config{}, errkind.New(errkind.NotFound, "cannot find repository %q: none is known", name).WithHint(adds)
	}
	return nil, repo.Config{}, errkind.New(errkind.NotFound, "cannot find repository %q: known are %s", name,
		strings.Join(slices.Sorted(maps.Keys(r.clients)), ", "))
}

// Names returns the names of the repositories in use, sorted.
func (r *Set) Names() (names []string) {
	for _, a := range r.State().Addresses {
		names = append(names, a[0])
	}
	return names
}

// Lists reports whether a repository that cannot be read now offered a package at the last
// successful read.
func (r *Set) Lists(repository, name, channel string) bool {
	client, err := r.Client(repository)
	return err == nil && client.Lists(name, channel)
}
