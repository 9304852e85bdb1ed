package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/apt"
)

// Replicas are the replicas of this machine. They may be used from any goroutine; operations
// on one replica are serialised.
type Replicas struct {
	Local *Store // its root, converter and bounds are shared
	Below string // directory of their repositories below the root
	// Convert makes a source, like Store.Convert.
	Convert func(ctx context.Context, inputs []Input, o Options) (*Source, error)

	Log     *slog.Logger
	Network repo.Network

	mu    sync.Mutex // guards turns and their fields; held over memory only
	turns map[string]*turn
}

// turn serialises the operations on a replica.
type turn struct {
	taken chan struct{}      // capacity 1
	end   context.CancelFunc // of the current holder
	gone  bool               // the replica is removed: waiting callers are refused
}

// followTime bounds a read of a source with all its downloads. The files that were fetched by
// then are kept, and the next read continues with them.
const followTime = 15 * time.Minute

// MaxFollowed bounds the packages that are followed in one source.
const MaxFollowed = 200

// replica is the state of a replica, for its source. It is the file state.json.
type replica struct {
	Line       string                   `json:"line"`    // of the source; another line resets the state
	Follows    []string                 `json:"follows"` // the packages, as configured
	Date       time.Time                `json:"date"`    // of the newest release accepted; an older one is refused
	ValidUntil time.Time                `json:"valid-until,omitzero"`
	Tag        string                   `json:"tag,omitempty"`     // of the release
	Indices    map[string]digest.Digest `json:"indices,omitempty"` // of the release; only if all packages are done
	Packages   map[string]made          `json:"packages"`          // by name
}

// made is the result of the last conversion of a source's packages.
type made struct {
	Of        []apt.Package `json:"of"`                  // published, or refused
	Refused   string        `json:"refused,omitempty"`   // why it was not published
	Converter int           `json:"converter,omitempty"` // version of the converter that refused it
	Published string        `json:"published,omitempty"` // the version that the replica offers
}

func (m *Replicas) dir(name string) string { return filepath.Join(m.Local.Root, m.Below, name) }

// Store is the repository of a replica.
func (m *Replicas) Store(name string) *Store {
	s := *m.Local
	s.At = filepath.Join(m.dir(name), "repository")
	return &s
}

// Make makes the repository of a replica, unless it exists, and returns its address and root
// of trust.
func (m *Replicas) Make(ctx context.Context, name string) (dir string, root []byte, err error) {
	s := m.Store(name)
	if root, err = s.Make(ctx); err != nil {
		return "", nil, errkind.New(errkind.KindOf(err), "cannot follow repository %q: %w", name, err)
	}
	return s.Dir(), root, nil
}

// Remove deletes a replica. Current and waiting users of it are interrupted.
func (m *Replicas) Remove(name string) error {
	m.mu.Lock()
	t := m.turnLocked(name)
	t.gone = true
	if t.end != nil {
		t.end()
	}
	m.mu.Unlock()
	t.taken <- struct{}{}
	defer func() {
		m.mu.Lock()
		delete(m.turns, name)
		m.mu.Unlock()
		<-t.taken
	}()
	return durable.RemoveAll(m.dir(name))
}

func (m *Replicas) turnLocked(name string) *turn {
	if m.turns == nil {
		m.turns = map[string]*turn{}
	}
	if m.turns[name] == nil {
		m.turns[name] = &turn{taken: make(chan struct{}, 1)}
	}
	return m.turns[name]
}

// turn waits until no other caller uses a replica. The context ends with ctx, and when the
// replica is removed.
func (m *Replicas) turn(ctx context.Context, name string) (_ context.Context, release func(), err error) {
	m.mu.Lock()
	t := m.turnLocked(name)
	m.mu.Unlock()
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, errkind.New(errkind.Interrupted, "cannot read repository %q: %w", name, context.Cause(ctx))
	}
	ctx, cancel := context.WithCancel(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.gone {
		cancel()
		<-t.taken
		return nil, nil, errkind.New(errkind.Interrupted, "cannot read repository %q: it is removed", name)
	}
	t.end = cancel
	return ctx, func() {
		m.mu.Lock()
		t.end = nil
		m.mu.Unlock()
		cancel()
		<-t.taken
	}, nil
}

// Followed checks the list of packages of a source, and returns the packages of the source
// that each name needs. Kind Invalid.
func Followed(source *repo.Apt) (map[string][]string, error) {
	follow := map[string][]string{}
	for _, text := range source.Packages {
		name, packages, err := apt.ParsePackage(text)
		if err == nil {
			err = manifest.ValidName(name)
		}
		if err != nil {
			return nil, err
		}
		if follow[name] != nil {
			return nil, errkind.New(errkind.Invalid, "cannot follow %s twice", name)
		}
		follow[name] = packages
	}
	if len(follow) == 0 || len(follow) > MaxFollowed {
		return nil, errkind.New(errkind.Invalid, "cannot follow %d packages: want 1 to %d", len(follow), MaxFollowed)
	}
	return follow, nil
}

// Try reads a source once, and returns an error if it cannot be followed.
func (m *Replicas) Try(ctx context.Context, name string, source *repo.Apt) error {
	follow, err := Followed(source)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(m.Local.Root, scratchPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	c, err := apt.Open(name, *source, m.Network)
	if err != nil {
		return err
	}
	defer c.Close()
	release, _, err := c.Release(ctx, time.Time{}, "")
	if err != nil {
		return err
	}
	found, err := c.Packages(ctx, release, apt.All(follow), scratch)
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(follow)) {
		if err := missing(name, n, follow[n], found); err != nil {
			return err
		}
	}
	return nil
}

func missing(repository, name string, packages []string, found map[string]apt.Package) error {
	if list := apt.Missing(packages, found); len(list) > 0 {
		return errkind.New(errkind.NotFound, "cannot follow %s: repository %q has no package %s for %s", name, repository, strings.Join(list, ", "), apt.Architecture())
	}
	return nil
}

// Follow reads a source, and publishes the newest versions of its packages in the replica.
// failed has the error of each package that could not be published, by name; the replica
// still offers its last published version. Kind Untrusted: verification of the source fails;
// Unavailable: it cannot be read.
func (m *Replicas) Follow(ctx context.Context, name string, source *repo.Apt) (failed map[string]error, err error) {
	mine, done, err := m.turn(ctx, name)
	if err != nil {
		return nil, err
	}
	defer done()
	return inTime(mine, name, func(limited context.Context) (map[string]error, error) { return m.follow(limited, name, source) })
}

// inTime reads a repository for at most followTime. Kind Unavailable: that was not enough.
func inTime(ctx context.Context, name string, read func(context.Context) (map[string]error, error)) (failed map[string]error, err error) {
	limited, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	failed, err = read(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = errkind.New(errkind.Unavailable, "cannot read repository %q within %s: the next read goes on where this one has ended", name, followTime)
	}
	return failed, err
}

// follow is Follow for a caller that holds the turn.
func (m *Replicas) follow(ctx context.Context, name string, source *repo.Apt) (failed map[string]error, err error) {
	if !m.Store(name).Made() {
		return nil, errkind.New(errkind.NotFound, "cannot read repository %q: its replica is gone", name)
	}
	follow, err := Followed(source)
	if err != nil {
		return nil, err
	}
	st, err := m.read(name, source)
	if err != nil {
		return nil, err
	}
	c, err := apt.Open(name, *source, m.Network)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	complete := st.Indices != nil && slices.Equal(st.Follows, source.Packages) && !st.obsolete(follow)
	tag := ""
	if complete && (st.ValidUntil.IsZero() || time.Now().Before(st.ValidUntil)) {
		tag = st.Tag
	}
	release, newTag, err := c.Release(ctx, st.Date, tag)
	if err != nil {
		return nil, err
	}
	if release == nil {
		return st.refused(follow), nil
	}
	indices, err := c.Indices(release)
	if err != nil {
		return nil, err
	}
	st.Date, st.ValidUntil, st.Follows = release.Date, release.ValidUntil, source.Packages
	if complete && maps.Equal(indices, st.Indices) {
		st.Tag = newTag
		return st.refused(follow), m.write(name, st)
	}
	st.Tag, st.Indices = "", nil
	if err := m.write(name, st); err != nil { // the date is in force from here on
		return nil, err
	}
	found, err := c.Packages(ctx, release, apt.All(follow), m.dir(name))
	if err != nil {
		return nil, err
	}
	failed = map[string]error{}
	transient, keep := false, map[string]bool{} // hashes of packages
	for _, n := range slices.Sorted(maps.Keys(follow)) {
		var of []apt.Package
		for _, p := range follow[n] {
			if found[p].Name != "" {
				of = append(of, found[p])
			}
		}
		err := missing(name, n, follow[n], found)
		if err == nil {
			err = m.bring(ctx, c, name, n, of, source, st)
		} else {
			st.Packages[n] = st.Packages[n].not(of, err)
		}
		if err != nil {
			failed[n] = err
			if !slices.Equal(st.Packages[n].Of, of) { // will be retried
				transient = true
				for _, p := range of {
					keep[p.SHA256.String()] = true
				}
			}
		}
		if errkind.Is(err, errkind.Interrupted) {
			return failed, err
		}
	}
	if !transient {
		st.Tag, st.Indices = newTag, indices
	}
	maps.DeleteFunc(st.Packages, func(n string, _ made) bool { return follow[n] == nil })
	return failed, errors.Join(m.write(name, st), m.tidy(name, keep))
}

// obsolete reports whether a package was refused by another version of the converter.
func (st *replica) obsolete(follow map[string][]string) bool {
	for n := range follow {
		if v := st.Packages[n]; v.Refused != "" && v.Converter != convert.Version {
			return true
		}
	}
	return false
}

// refused returns the packages that were refused, by name.
func (st *replica) refused(follow map[string][]string) map[string]error {
	failed := map[string]error{}
	for n := range follow {
		if v := st.Packages[n]; v.Refused != "" {
			failed[n] = errkind.New(errkind.Invalid, "%s", v.Refused)
		}
	}
	return failed
}

// not returns the result for packages that were refused for a permanent reason.
func (v made) not(of []apt.Package, why error) made {
	return made{Of: of, Refused: why.Error(), Converter: convert.Version, Published: v.Published}
}

// bring converts packages and publishes the result in the replica, unless it has that version
// or a newer one. A failed conversion is not retried with the same converter.
func (m *Replicas) bring(ctx context.Context, c *apt.Client, repository, name string, of []apt.Package, source *repo.Apt, st *replica) error {
	last := st.Packages[name]
	var err error
	switch same := slices.Equal(last.Of, of); {
	case same && last.Refused == "":
		return nil
	case same && last.Converter == convert.Version:
		return errkind.New(errkind.Invalid, "%s", last.Refused)
	case last.Published != "" && apt.Newer(last.Published, of[0].Version):
		err = errkind.New(errkind.Conflict, "cannot follow %s to version %s of repository %q: version %s is offered, which is newer", name, of[0].Version, repository, last.Published)
	default:
		err = m.make(ctx, c, repository, name, of, source)
	}
	switch errkind.KindOf(err) {
	case "":
		last = made{Of: of, Published: of[0].Version}
	case errkind.Invalid, errkind.Conflict, errkind.NotPermitted:
		last = last.not(of, err)
	default:
		return err
	}
	st.Packages[name] = last
	return errors.Join(err, m.write(repository, st))
}

// make fetches, converts and publishes packages.
func (m *Replicas) make(ctx context.Context, c *apt.Client, repository, name string, of []apt.Package, source *repo.Apt) error {
	var inputs []Input
	for _, p := range of {
		dir := filepath.Join(m.dir(repository), "partial", p.SHA256.String())
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := ValidName(p.File()); err != nil {
			return err
		}
		to := filepath.Join(dir, p.File())
		if err := c.Fetch(ctx, p, to, m.Local.MayWrite); err != nil {
			return err
		}
		inputs = append(inputs, fetched{to, p.SHA256})
	}
	src, err := m.Convert(ctx, inputs, Options{Name: name, Version: of[0].Version, Unattended: true})
	if err != nil {
		return err
	}
	defer func() {
		if err := src.Remove(); err != nil {
			m.Log.Warn("cannot delete what was made of packages", "repository", repository, "package", name, "error", err)
		}
	}()
	m.Log.Info("a new version is converted", "repository", repository, "package", name, "version", of[0].Version, "remarks", src.Found.Remarks,
		"scripts that do not run", src.Found.Scripts, "needs", src.Found.Needs)
	if len(src.Rights) > 0 { // no user can confirm them here
		return errkind.New(errkind.NotPermitted, "cannot follow %s to version %s: it asks for rights that are not confirmed: %s", name, of[0].Version, strings.Join(src.Rights, "; "))
	}
	_, err = m.Store(repository).Publish(ctx, src, "stable", urgency(source), nil)
	return err
}

// urgency returns the urgency of the versions of a source. Those of a security archive are
// urgent.
func urgency(source *repo.Apt) repo.Urgency {
	if strings.HasSuffix(source.Suite, "-security") || strings.HasSuffix(source.Suite, "/updates") {
		return repo.UrgencySecurity
	}
	return ""
}

// fetched is a package with a verified hash. Only root can change it.
type fetched struct {
	path string
	hash digest.Digest
}

// Open implements Input.
func (f fetched) Open(context.Context) (*os.File, digest.Digest, error) {
	file, err := os.Open(f.path)
	return file, f.hash, err
}

// maxState bounds the state of a replica, in bytes.
const maxState = 4 << 20

// read returns the state of a replica for a source. Its date protects from a rollback, so a
// damaged file is an error.
func (m *Replicas) read(name string, source *repo.Apt) (*replica, error) {
	path := filepath.Join(m.dir(name), "state.json")
	empty := &replica{Line: source.Line(), Packages: map[string]made{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("it has more than %d bytes", maxState)
	}
	st := new(replica)
	if err == nil {
		err = json.Unmarshal(b, st)
	}
	if err != nil {
		return nil, errkind.New(errkind.Failed, "cannot follow repository %q: cannot read %s: %w", name, path, err).
			WithHint("`lull repo remove %s`, and `lull repo add`, start over", name)
	}
	if st.Line != source.Line() {
		return empty, nil
	}
	if st.Packages == nil {
		st.Packages = map[string]made{}
	}
	return st, nil
}

func (m *Replicas) write(name string, st *replica) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(m.dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.dir(name), "state.json"), append(b, '\n'), 0o600)
}

// tidy deletes the fetched files, except those of packages that failed: the next read
// continues with them.
func (m *Replicas) tidy(name string, keep map[string]bool) error {
	partial := filepath.Join(m.dir(name), "partial")
	list, err := os.ReadDir(partial)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range list {
		if !keep[d.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(partial, d.Name())))
		}
	}
	return err
}
