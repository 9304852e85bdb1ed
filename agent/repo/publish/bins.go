package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/repo"
)

// A repository of many packages lists them in hash bins. A publication signs one of them, and
// a machine reads those of its packages. The key of the targets signs them.

// binBits is the number of bins as a power of two. 1,024 bins of 100,000 packages have a
// hundred entries each.
const binBits = 10

// binPrefix is the prefix of the roles of the bins.
const binPrefix = "bin"

// binned reports whether the packages are listed in bins.
func (s *state) binned() bool { return s.targets.Signed.Delegations != nil }

// bin returns the bin of a role. It reads each bin once.
func (s *state) bin(role string) (*metadata.Metadata[metadata.TargetsType], error) {
	if b := s.bins[role]; b != nil {
		return b, nil
	}
	b := metadata.Targets()
	b.Signed.Version = 0 // it is published as its next version
	if at := s.snapshot.Signed.Meta[role+".json"]; at != nil {
		var err error
		if b, err = metadataAt(s, metadata.Targets(), numbered(at.Version, role)); err == nil {
			err = s.targets.VerifyDelegate(role, b)
		}
		if err == nil && b.Signed.Version != at.Version {
			err = fmt.Errorf("it has version %d, and the snapshot names %d", b.Signed.Version, at.Version)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot use the %s metadata: %w", role, err)
		}
	}
	if s.bins == nil {
		s.bins = map[string]*metadata.Metadata[metadata.TargetsType]{}
	}
	s.bins[role] = b
	return b, nil
}

// list returns the targets that contain a path, or that it belongs to.
func (s *state) list(path string) (targets map[string]*metadata.TargetFiles, role string, err error) {
	role, err = repo.Bins(&s.targets.Signed, path)
	if err != nil || role == "" {
		return s.targets.Signed.Targets, role, err
	}
	b, err := s.bin(role)
	if err != nil {
		return nil, role, err
	}
	return b.Signed.Targets, role, nil
}

// target returns a target, or nil if there is none.
func (s *state) target(path string) (*metadata.TargetFiles, error) {
	targets, _, err := s.list(path)
	return targets[path], err
}

// setTarget changes a target, or removes it if t is nil.
func (s *state) setTarget(path string, t *metadata.TargetFiles) error {
	targets, role, err := s.list(path)
	if err != nil {
		return err
	}
	if t == nil {
		delete(targets, path)
	} else {
		targets[path] = t
	}
	if role != "" {
		s.touch(role)
	}
	return nil
}

func (s *state) touch(role string) {
	if s.dirty == nil {
		s.dirty = map[string]bool{}
	}
	s.dirty[role] = true
}

// usedBins are the roles of the bins that the snapshot names.
func (s *state) usedBins() (roles []string) {
	if !s.binned() {
		return nil
	}
	for name := range s.snapshot.Signed.Meta {
		role := strings.TrimSuffix(name, ".json")
		if s.targets.Signed.Delegations.SuccinctRoles.IsDelegatedRole(role) {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return roles
}

// targetPaths returns the paths of all targets, sorted.
func (s *state) targetPaths() ([]string, error) {
	paths := slices.Collect(maps.Keys(s.targets.Signed.Targets))
	for _, role := range s.usedBins() {
		b, err := s.bin(role)
		if err != nil {
			return nil, err
		}
		paths = append(paths, slices.Collect(maps.Keys(b.Signed.Targets))...)
	}
	slices.Sort(paths)
	return paths, nil
}

// binKey is the key that signs bins: that of the targets, during its rotation the next one.
func (s *state) binKey() (key, error) {
	if k, ok := s.extra[metadata.TARGETS]; ok {
		return k, nil
	}
	return s.keys.forRole(metadata.TARGETS, &s.root.Signed)
}

// delegate makes the targets delegate to bins that the key signs. All bins are re-signed if
// another key has signed them, as after a rotation, including an interrupted one.
func (s *state) delegate(k key) error {
	d := s.targets.Signed.Delegations
	if d != nil && d.SuccinctRoles != nil && slices.Equal(d.SuccinctRoles.KeyIDs, []string{k.id}) {
		return nil
	}
	for _, role := range s.usedBins() {
		if _, err := s.bin(role); err != nil {
			return err
		}
		s.touch(role)
	}
	s.renew = true
	s.targets.Signed.Delegations = &metadata.Delegations{
		Keys:          map[string]*metadata.Key{k.id: k.public},
		SuccinctRoles: &metadata.SuccinctRoles{KeyIDs: []string{k.id}, Threshold: 1, BitLength: binBits, NamePrefix: binPrefix},
	}
	return nil
}

// writeBins publishes the changed bins as their next versions. It reports whether the targets
// must be re-signed.
func (s *state) writeBins() (changed bool, err error) {
	if !s.binned() {
		return true, nil
	}
	k, err := s.binKey()
	if err != nil {
		return false, err
	}
	if err := s.delegate(k); err != nil {
		return false, err
	}
	for _, role := range slices.Sorted(maps.Keys(s.dirty)) {
		b := s.bins[role]
		b.Signed.Expires = s.expiry.until(metadata.TARGETS, s.now)
		if _, err := s.create(role, &b.Signed.Version, func() ([]byte, error) {
			b.ClearSignatures()
			if _, err := b.Sign(k.signer); err != nil {
				return nil, err
			}
			return b.ToBytes(false)
		}); err != nil {
			return false, err
		}
		// Its length and hash would make the snapshot ten times as large.
		s.snapshot.Signed.Meta[role+".json"] = metadata.MetaFile(b.Signed.Version)
	}
	// The targets contain only the delegation, and are re-signed after half of their
	// lifetime.
	life := s.expiry.until(metadata.TARGETS, s.now).Sub(s.now)
	return s.renew || s.targets.Signed.Version == 0 || s.targets.Signed.Expires.Sub(s.now) < life/2, nil
}

// split lists the packages of a repository in hash bins. Versions of lull that do not read
// bins cannot read it afterwards.
func (s *state) split() error {
	k, err := s.binKey()
	if err != nil {
		return err
	}
	listed := s.targets.Signed.Targets
	s.targets.Signed.Targets = map[string]*metadata.TargetFiles{}
	if err := s.delegate(k); err != nil {
		return err
	}
	for path, t := range listed {
		if err := s.setTarget(path, t); err != nil {
			return err
		}
		if name, _, ok := repo.SplitPointerPath(path); ok {
			if err := s.noteName(name); err != nil {
				return err
			}
		}
	}
	return s.writeAll()
}

// namesDir has a file for each name of a repository with bins, by its lower-case form, so
// that a twin is found without reading all bins.
const namesDir = "names"

func (s *state) noteName(name string) error {
	path := namePath(name)
	if data, err := s.read(path); err == nil && string(data) == name {
		return nil
	}
	return s.store.Put(s.ctx, Object{Path: path, Data: []byte(name)})
}

func namePath(name string) string { return namesDir + "/" + strings.ToLower(name) }

// notedTwin is caseTwin for a repository with bins.
func (s *state) notedTwin(name string) (string, error) {
	data, err := s.read(namePath(name))
	if errors.Is(err, fs.ErrNotExist) || string(data) == name {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// It may have been removed since.
	twin := string(data)
	if none, err := s.none("channels/" + twin + "/"); err != nil || none {
		return "", err
	}
	return twin, nil
}
