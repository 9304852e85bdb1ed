package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// ResignOptions are the options of Resign.
type ResignOptions struct {
	Common
	All  bool // targets, with their bins, and snapshot as well as the timestamp
	Bins bool // list the packages in bins, if they are not; see Split
}

// Resign re-signs the timestamp, so that it does not expire. It changes no other file. It
// needs the timestamp's key only, unless All is set. The timestamp keeps a lifetime that is
// set here. A lost or damaged timestamp is rebuilt
// from the newest signed state.
func Resign(ctx context.Context, dir string, o ResignOptions) error {
	return o.change(ctx, dir, "sign %s anew", true, func(s *state) error {
		if life := o.Expires.Timestamp; life > 0 {
			if s.timestamp.Signed.UnrecognizedFields == nil {
				s.timestamp.Signed.UnrecognizedFields = map[string]any{}
			}
			s.timestamp.Signed.UnrecognizedFields[lifetimeField] = life.Seconds()
		}
		if o.Bins && !s.binned() {
			return s.split()
		}
		if o.All {
			s.renew = true
			for _, role := range s.usedBins() {
				if s.delegated(role) != nil {
					if _, err := s.binKeys(role); err != nil {
						continue // its owner signs it
					}
				}
				if _, err := s.bin(role); err != nil {
					return err
				}
				s.touch(role)
			}
			return s.writeAll()
		}
		return s.writeTimestamp()
	})
}

// change runs do on a repository's verified state, while it holds the lock.
func (c Common) change(ctx context.Context, dir, what string, rebuild bool, do func(*state) error) error {
	return c.transact(ctx, dir, rebuild, func(s *state) error {
		if err := do(s); err != nil {
			return errkind.New(errkind.KindOf(err), "cannot "+what+": %w", dir, err).WithHint("%s", errkind.HintOf(err))
		}
		return nil
	})
}

// RotateOptions are the options of Rotate.
type RotateOptions struct {
	Common
	Roles []string // default: all
}

// Rotate replaces keys by new ones and publishes a root that names them. Readers see no
// error: for the change all metadata has both signatures. The previous keys remain in files
// ending in ".old".
func Rotate(ctx context.Context, dir string, o RotateOptions) error {
	if len(o.Roles) == 0 {
		o.Roles = Roles
	}
	for _, role := range o.Roles {
		if !slices.Contains(Roles, role) {
			return errkind.New(errkind.Usage, "cannot rotate the key of %.40q: there is no such role", role)
		}
	}
	return o.change(ctx, dir, "rotate the keys of %s", false, func(s *state) error { return s.rotate(o.Roles) })
}

func (s *state) rotate(roles []string) error {
	// A rotation that was killed after its root was published must only be finished.
	if err := s.adopt(); err != nil {
		return err
	}
	signers, err := s.keys.forRole(s.ctx, metadata.ROOT, s.root.Signed.Roles[metadata.ROOT])
	if err != nil {
		return err
	}
	s.extra = map[string][]key{}
	for _, role := range roles {
		for n := range s.root.Signed.Roles[role].KeyIDs {
			name := stem(role, n+1)
			if _, err := os.Lstat(s.keys.commandPath(name)); err == nil {
				return errkind.New(errkind.Conflict, "the key of %s belongs to the program in %s", name, s.keys.commandPath(name)).
					WithHint("move that file away, and a new key takes its place; --role leaves other roles alone")
			}
			k, err := s.keys.create(s.keys.next(name))
			if err != nil {
				return err
			}
			s.extra[role] = append(s.extra[role], k)
		}
	}
	if err := s.writeAll(); err != nil {
		return err
	}
	for role, keys := range s.extra {
		for _, id := range slices.Clone(s.root.Signed.Roles[role].KeyIDs) {
			if err := s.root.Signed.RevokeKey(id, role); err != nil {
				return err
			}
		}
		for _, k := range keys {
			if err := s.root.Signed.AddKey(k.public, role); err != nil {
				return err
			}
		}
	}
	s.root.Signed.Version++
	s.root.Signed.Expires = s.expiry.until(metadata.ROOT, s.now)
	s.root.ClearSignatures()
	if err := signWith(s.root, append(signers, s.extra[metadata.ROOT]...)); err != nil {
		return err
	}
	data, err := s.root.ToBytes(false)
	if err != nil {
		return err
	}
	if err := s.writeRoot(data, s.root.Signed.Version); err != nil {
		return err
	}
	return s.adopt()
}

// adopt moves new keys that the root already names to their final paths.
func (s *state) adopt() error {
	for _, role := range Roles {
		for n := 1; n <= maxKeys; n++ {
			if err := s.adoptKey(role, stem(role, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) adoptKey(role, name string) error {
	k, err := s.keys.read(s.keys.next(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !slices.Contains(s.root.Signed.Roles[role].KeyIDs, k.id):
		return nil
	}
	if err := durable.Rename(s.keys.path(name), s.keys.path(name)+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errkind.Errorf("cannot put the old key aside: %w", err)
	}
	return durable.Rename(s.keys.next(name), s.keys.path(name))
}
