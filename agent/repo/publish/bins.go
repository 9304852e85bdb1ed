package publish

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// A repository of many packages lists them in hash bins. A publication signs one of them, and
// a machine reads those of its packages. The key of the targets signs them.

// binBits returns the number of bins for a number of listed pointers, as a power of two. After a
// change a machine reads the fewest bytes with about that number (BenchmarkBins).
func binBits(pointers int) int {
	switch {
	case pointers <= 5_000:
		return 10
	case pointers <= 40_000:
		return 11
	}
	return 12
}

// binPrefix is the prefix of the roles of the bins.
const binPrefix = "bin"

// binned reports whether the packages are listed in bins.
func (s *state) binned() bool {
	d := s.targets.Signed.Delegations
	return d != nil && d.SuccinctRoles != nil
}

// bin returns the list of a delegated role: a bin, or that of other publishers. It reads each
// one once.
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
			err = errkind.Errorf("it has version %d, and the snapshot names %d", b.Signed.Version, at.Version)
		}
		if err != nil {
			return nil, errkind.Errorf("cannot use the %s metadata: %w", role, err)
		}
	}
	if s.delegated(role) != nil && s.proposes() {
		var err error
		if b, err = s.proposed(role, b); err != nil {
			return nil, err
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
	if role = s.proposing(path); role == "" {
		role, err = repo.Role(&s.targets.Signed, path)
	}
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
	if t := targets[path]; t != nil || err != nil {
		return t, err
	}
	return s.targets.Signed.Targets[path], nil
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
	} else {
		s.renew = s.renew || s.targets.Signed.Delegations != nil
	}
	return nil
}

func (s *state) touch(role string) {
	if s.dirty == nil {
		s.dirty = map[string]bool{}
	}
	s.dirty[role] = true
}

// usedBins are the delegated roles that the snapshot names.
func (s *state) usedBins() (roles []string) {
	d := s.targets.Signed.Delegations
	if d == nil {
		return nil
	}
	for name := range s.snapshot.Signed.Meta {
		role := strings.TrimSuffix(name, ".json")
		if d.SuccinctRoles != nil && d.SuccinctRoles.IsDelegatedRole(role) || s.delegated(role) != nil {
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
		for path := range b.Signed.Targets {
			if of, err := repo.Role(&s.targets.Signed, path); err != nil {
				return nil, err
			} else if of == role { // readers pass over others
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// delegate makes the targets delegate to bins that the keys of the targets sign: during a
// rotation the next ones. All bins are re-signed if other keys have signed them, as after a
// rotation, including an interrupted one. New bins are as many as the
// pointers need.
func (s *state) delegate(pointers int) error {
	role := s.root.Signed.Roles[metadata.TARGETS]
	keys := map[string]*metadata.Key{}
	for _, id := range role.KeyIDs {
		keys[id] = s.root.Signed.Keys[id]
	}
	if next := s.extra[metadata.TARGETS]; next != nil {
		role, keys = &metadata.Role{Threshold: role.Threshold}, map[string]*metadata.Key{}
		for _, k := range next {
			role.KeyIDs = append(role.KeyIDs, k.id)
			keys[k.id] = k.public
		}
	}
	d := s.targets.Signed.Delegations
	if d != nil && d.SuccinctRoles != nil && slices.Equal(d.SuccinctRoles.KeyIDs, role.KeyIDs) && d.SuccinctRoles.Threshold == role.Threshold {
		return nil
	}
	bits := binBits(pointers)
	if d != nil && d.SuccinctRoles != nil {
		bits = d.SuccinctRoles.BitLength
	}
	for _, role := range s.usedBins() {
		if _, err := s.bin(role); err != nil {
			return err
		}
		s.touch(role)
	}
	s.renew = true
	s.targets.Signed.Delegations = &metadata.Delegations{
		Keys:          keys,
		SuccinctRoles: &metadata.SuccinctRoles{KeyIDs: role.KeyIDs, Threshold: role.Threshold, BitLength: bits, NamePrefix: binPrefix},
	}
	return nil
}

// binKeys returns the keys that sign the list of a delegated role.
func (s *state) binKeys(role string) ([]key, error) {
	if d := s.delegated(role); d != nil {
		return s.keys.forRole(s.ctx, role, &metadata.Role{KeyIDs: d.KeyIDs, Threshold: d.Threshold})
	}
	if next := s.extra[metadata.TARGETS]; next != nil {
		return next, nil
	}
	return s.keys.forRole(s.ctx, metadata.TARGETS, s.root.Signed.Roles[metadata.TARGETS])
}

// writeBins publishes the changed lists of delegated roles as their next versions. It reports
// whether the targets must be re-signed.
func (s *state) writeBins() (changed bool, err error) {
	if s.targets.Signed.Delegations == nil {
		return true, nil
	}
	if s.binned() {
		if err := s.delegate(0); err != nil {
			return false, err
		}
	}
	for _, role := range slices.Sorted(maps.Keys(s.dirty)) {
		keys, err := s.binKeys(role)
		if err != nil {
			return false, err
		}
		b := s.bins[role]
		b.Signed.Expires = s.expiry.until(metadata.TARGETS, s.now)
		if _, err := s.create(role, &b.Signed.Version, func() ([]byte, error) {
			b.ClearSignatures()
			if err := signWith(b, keys); err != nil {
				return nil, err
			}
			return b.ToBytes(false)
		}); err != nil {
			return false, err
		}
		// Its length and hash would make the snapshot ten times as large.
		s.snapshot.Signed.Meta[role+".json"] = metadata.MetaFile(b.Signed.Version)
	}
	// Targets with bins contain only the delegation, and are re-signed after half of their
	// lifetime.
	life := s.expiry.until(metadata.TARGETS, s.now).Sub(s.now)
	return s.renew || s.targets.Signed.Version == 0 || s.binned() && s.targets.Signed.Expires.Sub(s.now) < life/2, nil
}

// split lists the packages of a repository in hash bins. Versions of lull that do not read
// bins cannot read it afterwards.
func (s *state) split() error {
	if len(s.delegatedRoles()) > 0 {
		return errkind.New(errkind.Conflict, "a repository that delegates names cannot list its packages in parts")
	}
	listed := s.targets.Signed.Targets
	s.targets.Signed.Targets = map[string]*metadata.TargetFiles{}
	if err := s.delegate(len(listed)); err != nil {
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
