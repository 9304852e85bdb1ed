package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// A repository with many packages lists its pointers in hash bins (TUF specification, 4.5:
// succinct_roles). The snapshot names the version of each bin. A bin is fetched when one of
// its pointers is needed and the local version differs. So the data that a machine reads
// depends on its installed packages. A bin that the snapshot does not name is empty.

// The targets may also delegate names to keys of other publishers. The path patterns of such a
// role are pointers of names and of prefixes of names. Pointers that the targets list
// themselves take precedence, as in TUF.
//
// TUF's targets have either kind of delegation. A repository with both has one more role after
// those of the other publishers, BinsRole. It covers all other names and delegates to the bins.

// The bounds of delegation.
const (
	MaxDelegated      = 256     // roles
	MaxDelegatedNames = 256     // path patterns of a role
	MaxList           = 4 << 20 // bytes of the list of a role or a bin
	maxBinBits        = 14
)

// BinsRole is the role that delegates to the hash bins in a repository that delegates names,
// too. Its name is no ValidRole.
const BinsRole = "hash_bins"

// BinsPattern is the path pattern of BinsRole: every pointer.
const BinsPattern = "channels/*/*"

var validRole = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) })

// ValidRole reports whether names can be delegated to a role with this name.
func ValidRole(name string) bool {
	switch name {
	case metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP:
		return false
	}
	return validRole().MatchString(name)
}

// Role returns the delegated role that lists a pointer. "" means that the targets list it.
// Targets may also be the list of BinsRole, whose bin it returns then. Error Untrusted: the
// delegation is not in a form that this package uses.
func Role(targets *metadata.TargetsType, path string) (role string, err error) {
	d := targets.Delegations
	if d == nil {
		return "", nil
	}
	unknown := errkind.New(errkind.Untrusted, "the targets delegate in an unknown way")
	s := d.SuccinctRoles
	if s == nil {
		if len(d.Roles) == 0 || len(d.Roles) > MaxDelegated+1 {
			return "", unknown
		}
		for i, r := range d.Roles {
			bins := r.Name == BinsRole && i == len(d.Roles)-1 && slices.Equal(r.Paths, []string{BinsPattern})
			if !r.Terminating || !bins && !ValidRole(r.Name) || len(r.PathHashPrefixes) > 0 || len(r.Paths) > MaxDelegatedNames {
				return "", unknown
			}
			if covers, err := r.IsDelegatedPath(path); err != nil {
				return "", unknown
			} else if covers && role == "" {
				role = r.Name
			}
		}
		if targets.Targets[path] != nil {
			return "", nil
		}
		return role, nil
	}
	if len(d.Roles) > 0 || s.BitLength < 1 || s.BitLength > maxBinBits || strings.ContainsAny(s.NamePrefix, "/.\x00") || s.NamePrefix == "" {
		return "", unknown
	}
	return s.GetRolesForTarget(path)[0].Name, nil
}

// delegator is a list that delegates to others: the targets, or that of BinsRole.
type delegator = metadata.Metadata[metadata.TargetsType]

// find returns the targets that list a path, or nil. Read returns the list of a role, which
// its delegator describes, or nil.
func (c *Client) find(set *trustedmetadata.TrustedMetadata, path string, read func(by *delegator, role string) (*metadata.TargetsType, error)) (*metadata.TargetsType, error) {
	top := set.Targets[metadata.TARGETS]
	role, err := Role(&top.Signed, path)
	if err != nil {
		return nil, c.untrusted(metadata.TARGETS, err.Error(), err)
	}
	if role == "" {
		return &top.Signed, nil
	}
	list, err := read(top, role)
	if err != nil || list == nil || role != BinsRole {
		return list, err
	}
	if role, err = Role(list, path); err == nil && delegatesTo(&top.Signed, role) {
		err = errkind.New(errkind.Untrusted, "another publisher has the name of a bin")
	}
	if err != nil {
		return nil, c.untrusted(BinsRole, err.Error(), err)
	}
	return read(&delegator{Signed: *list}, role)
}

// delegatesTo reports whether targets delegate to a role by its name.
func delegatesTo(targets *metadata.TargetsType, role string) bool {
	return slices.ContainsFunc(targets.Delegations.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role })
}

// target returns the entry of a path in set; nil means that it is not listed.
func (c *Client) target(ctx context.Context, set *trustedmetadata.TrustedMetadata, path string) (*metadata.TargetFiles, error) {
	list, err := c.find(set, path, func(by *delegator, role string) (*metadata.TargetsType, error) { return c.bin(ctx, set, by, role) })
	if err != nil || list == nil {
		return nil, err
	}
	return list.Targets[path], nil
}

// bin returns a bin of the version that the snapshot names; nil means that it is empty.
func (c *Client) bin(ctx context.Context, set *trustedmetadata.TrustedMetadata, by *delegator, role string) (*metadata.TargetsType, error) {
	at := set.Snapshot.Signed.Meta[role+".json"]
	if at == nil {
		return nil, nil
	}
	bin := c.heldBin(by, role)
	if bin == nil || bin.Version != at.Version {
		var err error
		if bin, err = c.fetchBin(ctx, by, role, at); err != nil {
			return nil, err
		}
	}
	if now := c.time(); bin.IsExpired(now) {
		return nil, c.expired(role, bin.Expires)
	}
	return bin, nil
}

// heldBin returns a bin that was fetched before, of any version, or nil.
func (c *Client) heldBin(by *delegator, role string) *metadata.TargetsType {
	c.mu.Lock()
	bin := c.bins[role]
	c.mu.Unlock()
	if bin != nil {
		return bin
	}
	data, err := os.ReadFile(c.binPath(role))
	if err != nil {
		return nil
	}
	if bin, err = parseBin(by, role, data); err != nil {
		c.log.Info("cached metadata cannot be used, and is fetched again", "file", c.binPath(role), "error", err)
		return nil
	}
	c.holdBin(role, bin)
	return bin
}

func (c *Client) binPath(role string) string {
	return filepath.Join(c.state, "bins", filepath.Base(role)+".json")
}

// maxHeldBins bounds the bins in memory: the others are on disk.
const maxHeldBins = 64

func (c *Client) holdBin(role string, bin *metadata.TargetsType) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.bins) >= maxHeldBins || c.bins == nil || role == BinsRole { // which may name other keys
		c.bins = map[string]*metadata.TargetsType{}
	}
	c.bins[role] = bin
}

// parseBin reads a bin that is signed as its delegator wants it.
func parseBin(by *delegator, role string, data []byte) (bin *metadata.TargetsType, err error) {
	err = guard(func() error {
		m, err := metadata.Targets().FromBytes(data)
		if err == nil {
			err = by.VerifyDelegate(role, m)
		}
		switch d := m.Signed.Delegations; {
		case err != nil:
		case role != BinsRole && d != nil:
			err = errors.New("a bin delegates further")
		case role == BinsRole && (d == nil || d.SuccinctRoles == nil):
			err = errors.New("it does not delegate to bins")
		}
		if err == nil {
			bin = &m.Signed
			trimTargets(bin)
		}
		return err
	})
	return bin, err
}

// fetchBin fetches a bin from the first place that has it.
func (c *Client) fetchBin(ctx context.Context, by *delegator, role string, at *metadata.MetaFiles) (bin *metadata.TargetsType, err error) {
	path := fmt.Sprintf("metadata/%d.%s.json", at.Version, role)
	for _, p := range c.order(false) {
		var data []byte
		data, err = p.get(ctx, path, MaxList)
		switch {
		case errors.As(err, new(tooLarge)):
			err = c.untrusted(role, "it is too large", err)
		case err != nil:
			err = c.unavailable(errkind.Text("read the %s metadata of", role), err)
		default:
			bin, err = c.acceptBin(by, role, at, data)
		}
		if err == nil || ctx.Err() != nil {
			return bin, err
		}
		c.passOver(p, err)
	}
	return nil, err
}

// acceptBin checks a bin that was fetched, and keeps it.
func (c *Client) acceptBin(by *delegator, role string, at *metadata.MetaFiles, data []byte) (*metadata.TargetsType, error) {
	if err := at.VerifyLengthHashes(data); err != nil {
		return nil, c.untrusted(role, "it is not what the repository has signed for", err)
	}
	bin, err := parseBin(by, role, data)
	if err != nil {
		return nil, c.untrusted(role, "its signature is wrong, or it is garbage: "+err.Error(), err)
	}
	if bin.Version != at.Version {
		return nil, c.untrusted(role, fmt.Sprintf("it was rolled back or mixed up: version %d, want %d", bin.Version, at.Version), errBehind)
	}
	if err := durable.MkdirAll(filepath.Join(c.state, "bins"), 0o700); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot remember the metadata of repository %q: %w", c.cfg.Name, err)
	}
	if err := durable.WriteFile(c.binPath(role), data, 0o600); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot remember the metadata of repository %q: %w", c.cfg.Name, err)
	}
	c.holdBin(role, bin)
	return bin, nil
}

// requestsAtOnce bounds the concurrent requests for files.
const requestsAtOnce = 8

// side runs do with the numbers below n, concurrently, and returns the first error.
func side(n int, do func(int) error) error {
	var wg sync.WaitGroup
	errs, turns := make([]error, n), make(chan struct{}, requestsAtOnce)
	for i := range n {
		turns <- struct{}{}
		wg.Go(func() {
			errs[i] = do(i)
			<-turns
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Prepare fetches the files that Offers needs for some channels, concurrently. Offers reports
// failures.
func (c *Client) Prepare(ctx context.Context, list []Listing) {
	_ = side(len(list), func(i int) error {
		_, _ = c.Offers(ctx, list[i].Name, list[i].Channel)
		return nil
	})
}

// allTargets returns the complete list of the repository, with each bin.
func (c *Client) allTargets(ctx context.Context, set *trustedmetadata.TrustedMetadata) ([]map[string]*metadata.TargetFiles, error) {
	top := set.Targets[metadata.TARGETS]
	if _, err := Role(&top.Signed, ""); err != nil {
		return nil, c.untrusted(metadata.TARGETS, err.Error(), err)
	}
	all := []map[string]*metadata.TargetFiles{top.Signed.Targets}
	by, d := top, top.Signed.Delegations
	if d == nil {
		return all, nil
	}
	type source struct {
		by   *delegator
		role string
	}
	var sources []source
	for _, r := range d.Roles {
		if r.Name != BinsRole {
			sources = append(sources, source{top, r.Name})
			continue
		}
		list, err := c.bin(ctx, set, top, BinsRole)
		if err != nil {
			return nil, err
		}
		if list != nil {
			by = &delegator{Signed: *list}
		}
	}
	if s := by.Signed.Delegations.SuccinctRoles; s != nil {
		if _, err := Role(&by.Signed, ""); err != nil {
			return nil, c.untrusted(BinsRole, err.Error(), err)
		}
		for _, role := range s.GetRoles() {
			sources = append(sources, source{by, role})
		}
	}
	sources = slices.DeleteFunc(sources, func(s source) bool { return set.Snapshot.Signed.Meta[s.role+".json"] == nil })
	lists := make([]map[string]*metadata.TargetFiles, len(sources))
	err := side(len(sources), func(i int) error {
		at := sources[i]
		bin, err := c.bin(ctx, set, at.by, at.role)
		if err != nil && errkind.Is(err, errkind.Untrusted) && delegatesTo(&top.Signed, at.role) {
			// Another publisher's key must not hide the packages of the others.
			c.log.Warn("the names of a delegated role cannot be listed", "role", at.role, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		lists[i] = map[string]*metadata.TargetFiles{}
		for path, t := range bin.Targets {
			list, err := c.find(set, path, func(_ *delegator, role string) (*metadata.TargetsType, error) {
				switch role {
				case BinsRole:
					return &by.Signed, nil
				case at.role:
					return bin, nil
				}
				return nil, nil
			})
			if err != nil {
				return err
			}
			if list == bin {
				lists[i][path] = t
			}
		}
		return nil
	})
	return append(all, lists...), err
}
