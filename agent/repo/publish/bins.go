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
// a machine reads those of its packages. The key of the targets signs them. If names are
// delegated to other publishers, too, repo.BinsRole delegates to the bins instead of the
// targets. Then the targets list the offers of delegated names that the owner of the
// repository has signed, and the bins have none of these.

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
func (s *state) binned() bool { return s.divided != nil }

// findDivided sets s.divided.
func (s *state) findDivided() error {
	d := s.targets.Signed.Delegations
	switch {
	case d == nil:
	case d.SuccinctRoles != nil:
		s.divided = s.targets
	case slices.ContainsFunc(d.Roles, isBinsRole):
		list, err := s.bin(repo.BinsRole)
		if err == nil && (list.Signed.Delegations == nil || list.Signed.Delegations.SuccinctRoles == nil) {
			err = errkind.Errorf("the %s metadata delegates to no bins", repo.BinsRole)
		}
		if err != nil {
			return err
		}
		s.divided = list
	}
	return nil
}

func isBinsRole(r metadata.DelegatedRole) bool { return r.Name == repo.BinsRole }

// role returns the delegated role that lists a path, or "" for the targets.
func (s *state) role(path string) (string, error) {
	role, err := repo.Role(&s.targets.Signed, path)
	if role == repo.BinsRole && err == nil {
		return repo.Role(&s.divided.Signed, path)
	}
	return role, err
}

// by returns the list that delegates to a role.
func (s *state) by(role string) *metadata.Metadata[metadata.TargetsType] {
	if role == repo.BinsRole || s.divided == nil || s.delegated(role) != nil {
		return s.targets
	}
	return s.divided
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
			err = s.by(role).VerifyDelegate(role, b)
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
	s.hold(role, b)
	return b, nil
}

func (s *state) hold(role string, b *metadata.Metadata[metadata.TargetsType]) {
	if s.bins == nil {
		s.bins = map[string]*metadata.Metadata[metadata.TargetsType]{}
	}
	s.bins[role] = b
}

// list returns the targets that contain a path, or that it belongs to.
func (s *state) list(path string) (targets map[string]*metadata.TargetFiles, role string, err error) {
	if role = s.proposing(path); role == "" {
		role, err = s.role(path)
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
	for name := range s.snapshot.Signed.Meta {
		role := strings.TrimSuffix(name, ".json")
		if s.own(role) || s.delegated(role) != nil {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return roles
}

// own reports whether the keys of the targets sign the list of a delegated role.
func (s *state) own(role string) bool {
	if s.divided == nil {
		return false
	}
	return role == repo.BinsRole && s.divided != s.targets || s.divided.Signed.Delegations.SuccinctRoles.IsDelegatedRole(role)
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
			if of, err := s.role(path); err != nil {
				return nil, err
			} else if of == role { // readers pass over others
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// binSigners returns the role and the keys that sign the bins: those of the targets, and
// during a rotation the next ones.
func (s *state) binSigners() (*metadata.Role, map[string]*metadata.Key) {
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
	return role, keys
}

// signedBy reports whether a role signs the bins.
func (s *state) signedBy(role *metadata.Role) bool {
	d := s.divided.Signed.Delegations.SuccinctRoles
	return slices.Equal(d.KeyIDs, role.KeyIDs) && d.Threshold == role.Threshold
}

// divide makes the targets delegate to bins or, with the roles of other publishers, to these
// and to repo.BinsRole. All bins are re-signed if other keys have signed them, as after a
// rotation, including an interrupted one. New bins are as many as the pointers need.
func (s *state) divide(pointers int, others []metadata.DelegatedRole, othersKeys map[string]*metadata.Key) error {
	role, keys := s.binSigners()
	bits := binBits(pointers)
	if s.binned() {
		bits = s.divided.Signed.Delegations.SuccinctRoles.BitLength
		for _, bin := range s.usedBins() {
			if s.signedBy(role) || !s.own(bin) {
				continue
			}
			if _, err := s.bin(bin); err != nil {
				return err
			}
			s.touch(bin)
		}
	}
	d := &metadata.Delegations{
		Keys:          keys,
		SuccinctRoles: &metadata.SuccinctRoles{KeyIDs: role.KeyIDs, Threshold: role.Threshold, BitLength: bits, NamePrefix: binPrefix},
	}
	s.renew = true
	if len(others) == 0 {
		s.divided, s.targets.Signed.Delegations = s.targets, d
		return nil
	}
	if s.divided == nil || s.divided == s.targets {
		s.divided = metadata.Targets()
		s.divided.Signed.Version = 0 // it is published as its next version
		if at := s.snapshot.Signed.Meta[repo.BinsRole+".json"]; at != nil {
			s.divided.Signed.Version = at.Version // of an earlier delegation
		}
		s.hold(repo.BinsRole, s.divided)
	}
	s.divided.Signed.Delegations = d
	s.touch(repo.BinsRole)
	s.setRoles(append(slices.Clone(others), metadata.DelegatedRole{
		Name: repo.BinsRole, KeyIDs: role.KeyIDs, Threshold: role.Threshold, Terminating: true, Paths: []string{repo.BinsPattern},
	}), othersKeys, keys)
	return nil
}

// setRoles makes the targets delegate to roles, with further keys.
func (s *state) setRoles(roles []metadata.DelegatedRole, keys ...map[string]*metadata.Key) {
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: roles}
	if before := s.targets.Signed.Delegations; before != nil {
		maps.Copy(d.Keys, before.Keys)
	}
	for _, more := range keys {
		maps.Copy(d.Keys, more)
	}
	maps.DeleteFunc(d.Keys, func(id string, _ *metadata.Key) bool {
		return !slices.ContainsFunc(roles, func(r metadata.DelegatedRole) bool { return slices.Contains(r.KeyIDs, id) })
	})
	s.targets.Signed.Delegations = d
	if len(roles) == 0 {
		s.targets.Signed.Delegations = nil
	}
	s.renew = true
}

// redistribute moves offers between the targets and the bins, after the delegated names have
// changed: the targets list those of delegated names.
func (s *state) redistribute() error {
	for _, bin := range s.usedBins() {
		if !s.own(bin) || bin == repo.BinsRole {
			continue
		}
		b, err := s.bin(bin)
		if err != nil {
			return err
		}
		for path, t := range b.Signed.Targets {
			role := s.other(path)
			if role == "" {
				continue
			}
			delete(b.Signed.Targets, path)
			s.touch(bin)
			if list, err := s.bin(role); err != nil {
				return err
			} else if list.Signed.Targets[path] == nil {
				s.targets.Signed.Targets[path] = t
			}
		}
	}
	for path, t := range maps.Clone(s.targets.Signed.Targets) {
		if s.other(path) != "" {
			continue
		}
		delete(s.targets.Signed.Targets, path)
		if err := s.setTarget(path, t); err != nil {
			return err
		}
	}
	s.renew = true
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
	life := s.expiry.until(metadata.TARGETS, s.now).Sub(s.now)
	// Another publisher has no key of the targets, but perhaps those of snapshot and timestamp.
	signs := s.renew || s.extra[metadata.TARGETS] != nil || slices.ContainsFunc(slices.Collect(maps.Keys(s.dirty)), s.own)
	if s.binned() && signs {
		if role, _ := s.binSigners(); !s.signedBy(role) {
			if err := s.divide(0, s.delegatedRoles(), nil); err != nil {
				return false, err
			}
		}
		// Targets with bins, and the list of bins, contain only the delegation, and are
		// re-signed after half of their lifetime.
		if s.divided != s.targets && s.divided.Signed.Expires.Sub(s.now) < life/2 {
			s.touch(repo.BinsRole)
		}
		s.renew = s.renew || s.targets.Signed.Expires.Sub(s.now) < life/2
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
	return s.renew || s.targets.Signed.Version == 0, nil
}

// split lists the packages of a repository in hash bins. Versions of lull that do not read
// bins cannot read it afterwards.
func (s *state) split() error {
	for _, r := range s.delegatedRoles() {
		if strings.HasPrefix(r.Name, binPrefix+"-") {
			return errkind.New(errkind.Conflict, "the role %s has the name of a part", r.Name).
				WithHint("end it by lull repo undelegate, and delegate the names to a role with another name")
		}
	}
	listed, err := s.targetPaths()
	if err != nil {
		return err
	}
	if err := s.divide(len(listed), s.delegatedRoles(), nil); err != nil {
		return err
	}
	if err := s.redistribute(); err != nil {
		return err
	}
	for _, path := range listed {
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
