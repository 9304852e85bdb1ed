package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// InitOptions are the options of Init.
type InitOptions struct {
	Common
	UseKeys bool // existing keys sign the new repository
	// Counts has the number of keys of the roles that have several. The default is one.
	Counts map[string]Count
}

// Count is how many keys a role has, and how many of them a signature needs.
type Count struct{ Needed, Of int }

// validCounts returns an error if no role can have such keys.
func validCounts(counts map[string]Count) error {
	for role, c := range counts {
		if !slices.Contains(Roles, role) {
			return errkind.New(errkind.Usage, "cannot make keys of %.40q: there is no such role", role)
		}
		if c.Needed < 1 || c.Needed > c.Of || c.Of > maxKeys {
			return errkind.New(errkind.Usage, "cannot make keys of %s: %d of %d make no sense, at most %d are possible", role, c.Needed, c.Of, maxKeys)
		}
	}
	return nil
}

// Init makes an empty repository and its keys. Administrators configure the root.json in it
// as their root of trust. Error Exists: there are metadata, channels or, without UseKeys,
// keys. The next Init finishes one that was killed.
func Init(ctx context.Context, dir string, o InitOptions) error {
	store, keys, now, err := o.open(dir)
	if err == nil {
		err = validCounts(o.Counts)
	}
	if err != nil {
		return err
	}
	s := &state{ctx: ctx, store: store, dir: dir, keys: keys, expiry: o.Expires, now: now}
	if err := s.mayInit(o.UseKeys); err != nil {
		return err
	}
	if d, ok := store.(*directory); ok {
		for _, sub := range []string{"metadata", "channels", "blobs"} {
			if err := durable.MkdirAll(d.path(sub), 0o755); err != nil {
				return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", dir, err)
			}
		}
	}
	release, err := store.Lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := s.mayInit(o.UseKeys); err != nil { // with the lock held
		return err
	}
	err = s.clearUnfinished()
	if err == nil {
		err = durable.MkdirAll(keys.dir, 0o700)
	}
	if err == nil {
		err = durable.WriteFile(keys.unfinished(), nil, 0o600)
	}
	if err == nil {
		err = s.init(o.Counts)
	}
	if err == nil {
		err = durable.Remove(keys.unfinished())
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", dir, err)
	}
	return nil
}

// unfinished is a file that exists while Init runs.
func (k keyFolder) unfinished() string { return filepath.Join(k.dir, ".init") }

// mayInit returns an error of kind Exists if Init would replace existing files.
func (s *state) mayInit(useKeys bool) error {
	if _, err := os.Lstat(s.keys.unfinished()); err == nil {
		return nil // it was never published to
	}
	refuse := func(what, hint string) error {
		return errkind.New(errkind.Exists, "cannot make the repository %s: it is there already: %s", s.dir, what).WithHint("%s", hint)
	}
	for _, sub := range []string{"metadata", "channels"} {
		empty, err := s.empty(sub)
		if err == nil && !empty {
			return refuse(errkind.Text("%s is not empty", sub), errkind.Text("lull repo resign mends a repository whose timestamp is damaged or lost"))
		}
		if err != nil {
			return errkind.New(errkind.KindOf(err), "cannot make the repository %s: %w", s.dir, err)
		}
	}
	for _, role := range Roles {
		if s.keys.exists(role) && !useKeys {
			return refuse(errkind.Text("there are keys in %s", s.keys), errkind.Text("--use-keys signs the new repository with them"))
		}
	}
	return nil
}

// empty reports whether a top directory of the repository has no content.
func (s *state) empty(sub string) (bool, error) {
	if d, ok := s.store.(*directory); ok {
		entries, err := os.ReadDir(d.path(sub))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return len(entries) == 0, err
	}
	return s.none(sub + "/")
}

// errStop ends a listing.
var errStop = errors.New("stop")

// none reports whether no file's path begins with prefix.
func (s *state) none(prefix string) (bool, error) {
	err := s.store.List(s.ctx, prefix, func(string, Info) error { return errStop })
	if errors.Is(err, errStop) {
		return false, nil
	}
	return err == nil, err
}

// clearUnfinished deletes the metadata of an Init that was killed, which would be in the way
// where files are created only once.
func (s *state) clearUnfinished() error {
	if _, err := os.Lstat(s.keys.unfinished()); err != nil || !s.store.Shared() {
		return nil
	}
	var left []string
	err := s.store.List(s.ctx, "metadata/", func(path string, _ Info) error {
		left = append(left, path)
		return nil
	})
	if err == nil {
		err = s.store.Remove(s.ctx, left)
	}
	return err
}

func (s *state) init(counts map[string]Count) error {
	s.root = metadata.Root(s.expiry.until(metadata.ROOT, s.now))
	for _, role := range Roles {
		count := counts[role]
		for n := 1; n <= max(1, count.Of); n++ {
			k, err := s.keys.open(s.ctx, stem(role, n))
			if errors.Is(err, fs.ErrNotExist) {
				k, err = s.keys.create(s.keys.path(stem(role, n)))
			}
			if err != nil {
				return err
			}
			if err := s.root.Signed.AddKey(k.public, role); err != nil {
				return err
			}
		}
		s.root.Signed.Roles[role].Threshold = max(1, count.Needed)
	}
	data, err := signed(s, metadata.ROOT, s.root)
	if err != nil {
		return err
	}
	if err := s.writeRoot(data, 1); err != nil {
		return err
	}
	// Each is published as its next version, 1.
	s.targets, s.snapshot, s.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	s.targets.Signed.UnrecognizedFields = map[string]any{repo.Layout: repo.LayoutFan}
	s.targets.Signed.Version, s.snapshot.Signed.Version, s.timestamp.Signed.Version = 0, 0, 0
	return s.writeAll()
}
