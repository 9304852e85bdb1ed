package publish

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
)

// A repository can delegate names to keys of other publishers (TUF specification, 4.5). A
// publisher who has no key of the snapshot proposes: his publications end with the list of his
// role. Accept puts it into the snapshot, which makes it visible to machines.

// DelegateOptions are the options of Delegate.
type DelegateOptions struct {
	Common
	Role string // of lower-case letters, digits and '-'
	// Names are the names of packages, and prefixes of names that end in '*'.
	Names []string
	// Keys are files with public keys in PEM. Without one, Delegate makes a key in the
	// directory of the keys, to be handed to its owner.
	Keys      []string
	Threshold int // of the keys; default: 1
}

var delegatedPrefix = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}\*$`) })

// Delegate lets keys publish the named packages, in addition to those of the targets. The
// names that the repository offers already stay with the key of the targets until a list of
// the role is accepted that has them. For an existing role it replaces the names. Error
// Exists: the role has, or had, other keys.
func Delegate(ctx context.Context, dir string, o DelegateOptions) error {
	if !repo.ValidRole(o.Role) {
		return errkind.New(errkind.Usage, "cannot use %.40q as the name of a role: want a-z, 0-9 and '-'", o.Role)
	}
	if strings.HasPrefix(o.Role, binPrefix+"-") {
		return errkind.New(errkind.Usage, "cannot use %.40q as the name of a role: it may be that of a part of the list", o.Role)
	}
	var paths []string
	for _, name := range o.Names {
		if manifest.ValidName(name) != nil && !delegatedPrefix().MatchString(name) {
			return errkind.New(errkind.Usage, "cannot delegate %.80q: it is neither a name nor a prefix that ends in '*'", name)
		}
		paths = append(paths, repo.PointerPath(name, "*"))
	}
	if len(paths) == 0 || len(paths) > repo.MaxDelegatedNames {
		return errkind.New(errkind.Usage, "cannot delegate %d names, want 1 to %d", len(paths), repo.MaxDelegatedNames)
	}
	return o.change(ctx, dir, "delegate names in %s", false, func(s *state) error {
		keys, err := o.keys(s)
		if err != nil {
			return err
		}
		role := metadata.DelegatedRole{Name: o.Role, Threshold: max(1, o.Threshold), Terminating: true, Paths: paths}
		for _, k := range keys {
			role.KeyIDs = append(role.KeyIDs, k.id)
		}
		if role.Threshold > len(keys) {
			return errkind.New(errkind.Usage, "%d of %d keys make no sense", role.Threshold, len(keys))
		}
		return s.delegateTo(role, keys)
	})
}

// keys reads or makes the keys of a role.
func (o *DelegateOptions) keys(s *state) (keys []key, err error) {
	if len(o.Keys) > maxKeys {
		return nil, errkind.New(errkind.Usage, "%d keys are too many", len(o.Keys))
	}
	for _, path := range o.Keys {
		data, _, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		public, err := cryptoutils.UnmarshalPEMToPublicKey(data)
		if err != nil {
			return nil, errkind.New(errkind.Invalid, "%s is no public key in PEM", path)
		}
		k, err := publicKeyOf(public)
		if err != nil {
			return nil, errkind.New(errkind.Invalid, "cannot use the key %s: %w", path, err)
		}
		keys = append(keys, k)
	}
	if len(o.Keys) == 0 {
		k, err := s.keys.open(s.ctx, o.Role)
		if errors.Is(err, fs.ErrNotExist) {
			k, err = s.keys.create(s.keys.path(o.Role))
		}
		return []key{k}, err
	}
	return keys, nil
}

func (s *state) delegateTo(role metadata.DelegatedRole, keys []key) error {
	roles := slices.Clone(s.delegatedRoles())
	at := slices.IndexFunc(roles, func(r metadata.DelegatedRole) bool { return r.Name == role.Name })
	switch {
	case at >= 0 && slices.Equal(roles[at].KeyIDs, role.KeyIDs):
		roles[at] = role
	case at >= 0 || s.snapshot.Signed.Meta[role.Name+".json"] != nil:
		return errkind.New(errkind.Exists, "the role %s has or had other keys", role.Name).
			WithHint("end it by lull repo undelegate, and delegate the names to a role with another name")
	case len(roles) >= repo.MaxDelegated:
		return errkind.New(errkind.Usage, "it delegates to %d roles already", len(roles))
	default:
		roles = append(roles, role)
	}
	public := map[string]*metadata.Key{}
	for _, k := range keys {
		public[k.id] = k.public
	}
	return s.changeRoles(roles, public)
}

// changeRoles publishes the roles of other publishers, with further keys.
func (s *state) changeRoles(roles []metadata.DelegatedRole, keys map[string]*metadata.Key) error {
	if !s.binned() {
		s.setRoles(roles, keys)
		return s.writeAll()
	}
	if err := s.divide(0, roles, keys); err != nil {
		return err
	}
	if err := s.redistribute(); err != nil {
		return err
	}
	return s.writeAll()
}

// Undelegate ends a delegation. The offers that were accepted stay, and belong to the keys of
// the targets from then on. Error NotFound: there is no such role.
func Undelegate(ctx context.Context, dir, role string, c Common) error {
	return c.change(ctx, dir, "end a delegation in %s", false, func(s *state) error {
		if s.delegated(role) == nil {
			return errkind.New(errkind.NotFound, "there is no role %.40q", role)
		}
		if s.snapshot.Signed.Meta[role+".json"] != nil {
			b, err := s.bin(role)
			if err != nil {
				return err
			}
			for path, t := range b.Signed.Targets {
				if of, err := repo.Role(&s.targets.Signed, path); err == nil && of == role {
					s.targets.Signed.Targets[path] = t
				}
			}
		}
		roles := slices.DeleteFunc(slices.Clone(s.delegatedRoles()), func(r metadata.DelegatedRole) bool { return r.Name == role })
		return s.changeRoles(roles, nil)
	})
}

// Accept makes the newest list of a delegated role visible to machines: it verifies the
// signatures, the names, and that all content is in the repository. It returns the offers that
// are new. Error NotFound: there is no newer list.
func Accept(ctx context.Context, dir, role string, c Common) (list []repo.Offers, err error) {
	err = c.change(ctx, dir, "accept the list of "+role+" in %s", false, func(s *state) error {
		if s.delegated(role) == nil {
			return errkind.New(errkind.NotFound, "there is no role %.40q", role)
		}
		before, err := s.bin(role)
		if err != nil {
			return err
		}
		b, err := s.proposed(role, before)
		if err != nil {
			return err
		}
		if b.Signed.Version == before.Signed.Version {
			return errkind.New(errkind.NotFound, "it has no newer list")
		}
		if b.Signed.IsExpired(s.now) {
			return errkind.New(errkind.Untrusted, "its list has expired")
		}
		list, err = s.acceptable(role, before, b)
		if err != nil {
			return err
		}
		s.bins[role] = b
		s.snapshot.Signed.Meta[role+".json"] = metadata.MetaFile(b.Signed.Version)
		return s.writeAll()
	})
	return list, err
}

// acceptable returns the offers in b that are not in before. They leave the list of the
// targets.
func (s *state) acceptable(role string, before, b *metadata.Metadata[metadata.TargetsType]) (list []repo.Offers, err error) {
	needed := map[digest.Digest]bool{}
	for _, path := range slices.Sorted(maps.Keys(b.Signed.Targets)) {
		name, channel, ok := repo.SplitPointerPath(path)
		if covers, err := s.delegated(role).IsDelegatedPath(path); !ok || err != nil || !covers || b.Signed.Targets[path] == nil {
			return nil, errkind.New(errkind.Untrusted, "it lists %.120q, which is not delegated to it", path)
		}
		offers, err := s.offersOf(name, channel, b.Signed.Targets[path])
		if err != nil {
			return nil, err
		}
		if offers[0].Name != name || offers[0].Channel != channel {
			return nil, errkind.New(errkind.Untrusted, "the offers of %s are those of %s", name, offers[0].Name)
		}
		for _, o := range offers {
			if err := closure(s.ctx, s.store, o.Package, needed, false); err != nil {
				return nil, err
			}
		}
		if old := before.Signed.Targets[path]; old == nil || old.Hashes["sha256"].String() != b.Signed.Targets[path].Hashes["sha256"].String() {
			list = append(list, offers)
			if s.binned() {
				if err := s.noteName(name); err != nil {
					return nil, err
				}
			}
		}
		if s.targets.Signed.Targets[path] != nil {
			delete(s.targets.Signed.Targets, path)
			s.renew = true
		}
	}
	for d := range needed {
		if _, err := s.store.Stat(s.ctx, repo.BlobPath(d)); err != nil {
			return nil, errkind.New(errkind.Invalid, "a blob is missing: %w", err)
		}
	}
	return list, nil
}

// delegated returns the delegation to a named role, or nil.
func (s *state) delegated(role string) *metadata.DelegatedRole {
	roles := s.delegatedRoles()
	at := slices.IndexFunc(roles, func(r metadata.DelegatedRole) bool { return r.Name == role })
	if at < 0 {
		return nil
	}
	return &roles[at]
}

// delegatedRoles returns the roles of other publishers.
func (s *state) delegatedRoles() []metadata.DelegatedRole {
	d := s.targets.Signed.Delegations
	if d == nil {
		return nil
	}
	if n := len(d.Roles) - 1; n >= 0 && isBinsRole(d.Roles[n]) {
		return d.Roles[:n:n]
	}
	return d.Roles
}

// other returns the role of another publisher that a path is delegated to, or "".
func (s *state) other(path string) string {
	for _, r := range s.delegatedRoles() {
		if covers, err := r.IsDelegatedPath(path); err == nil && covers {
			return r.Name
		}
	}
	return ""
}

// proposes reports whether the keys at hand cannot sign a snapshot, in a repository that
// delegates.
func (s *state) proposes() bool {
	return len(s.delegatedRoles()) > 0 && s.keys.dir != "" && !s.keys.exists(metadata.SNAPSHOT) && !s.keys.credential(metadata.SNAPSHOT)
}

// credential reports whether a key is in the directory of the credentials.
func (k keyFolder) credential(name string) bool {
	if k.credentials == "" {
		return false
	}
	_, err := os.Lstat(k.credentials + "/" + name + ".pem")
	return err == nil
}

// proposing returns the role that a path is delegated to, if it can only be proposed.
func (s *state) proposing(path string) string {
	if !s.proposes() {
		return ""
	}
	return s.other(path)
}

// proposed returns the newest list of a role that its keys have signed. It follows b, the one
// that was accepted.
func (s *state) proposed(role string, b *metadata.Metadata[metadata.TargetsType]) (*metadata.Metadata[metadata.TargetsType], error) {
	for range maxSkipped {
		version := b.Signed.Version + 1
		data, err := s.read(numbered(version, role))
		if errors.Is(err, fs.ErrNotExist) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		next, err := metadata.Targets().FromBytes(data)
		if err == nil {
			err = s.targets.VerifyDelegate(role, next)
		}
		if err == nil && (next.Signed.Version != version || next.Signed.Delegations != nil || len(data) > repo.MaxList) {
			err = errkind.Errorf("it has another version, is too large or delegates further")
		}
		if err != nil {
			return nil, errkind.New(errkind.Untrusted, "cannot use version %d of the %s metadata: %w", version, role, err)
		}
		b = next
	}
	return nil, errkind.Errorf("there are more than %d versions of the %s metadata", maxSkipped, role)
}

// ExportKey writes the public key of a role beside its private key, in PEM, and returns the
// path. It makes the key if there is none.
func ExportKey(ctx context.Context, role string, c Common) (path string, err error) {
	if !repo.ValidRole(role) && !slices.Contains(Roles, role) {
		return "", errkind.New(errkind.Usage, "cannot use %.40q as the name of a role: want a-z, 0-9 and '-'", role)
	}
	keys := c.keyFolder()
	k, err := keys.open(ctx, role)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = keys.create(keys.path(role))
	}
	if err != nil {
		return "", err
	}
	public, err := k.public.ToPublicKey()
	if err != nil {
		return "", err
	}
	data, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return "", err
	}
	path = strings.TrimSuffix(keys.path(role), ".pem") + ".pub"
	return path, durable.WriteFile(path, data, 0o644)
}
