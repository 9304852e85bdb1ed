package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/lull/lull/agent/lib/durable"
)

// The state directory of a repository holds root.json, timestamp.json, snapshot.json and
// targets.json as they were accepted last, and marks.json. Damaged files are renamed to
// *.damaged.

// marks are the highest versions accepted, and the keys of their signatures. A role whose
// keys the root has replaced begins with new marks, so that a repository can recover from a
// thief who has signed an enormous version (TUF specification, 5.3.11).
type marks struct {
	Versions map[string]int64    `json:"versions"`
	Keys     map[string][]string `json:"keys"`
	// Seen is the time of the newest signature of a timestamp that was ever accepted. It
	// is reset with the keys of the timestamp.
	Seen time.Time `json:"seen,omitzero"`
}

type cache struct {
	c     *Client
	root  []byte            // where trust begins: the newest accepted root, or the configured one
	files map[string][]byte // as they are on disk
	marks marks
}

func (c *Client) path(role string) string { return filepath.Join(c.state, role+".json") }

// loadCache reads the state directory and sets aside the files that it cannot use. The
// configured root is never changed.
func (c *Client) loadCache() *cache {
	k := &cache{c: c, root: c.cfg.Root, files: map[string][]byte{}}
	k.load("marks", func(data []byte) error {
		if err := json.Unmarshal(data, &k.marks); err != nil {
			return err
		}
		if k.marks.Versions == nil || k.marks.Keys == nil {
			return errors.New("it is not complete")
		}
		return nil
	})
	if k.marks.Versions == nil {
		k.marks = marks{Versions: map[string]int64{}, Keys: map[string][]string{}}
	}
	c.saw(k.marks.Seen)
	k.load(metadata.ROOT, func(data []byte) error {
		_, err := trustedmetadata.New(data)
		if err == nil {
			k.root = data
		}
		return err
	})
	k.load(metadata.TIMESTAMP, func(data []byte) error {
		m, err := metadata.Timestamp().FromBytes(data)
		if err == nil && m.Signed.Meta["snapshot.json"] == nil {
			err = errors.New("it is not complete")
		}
		return err
	})
	k.load(metadata.SNAPSHOT, func(data []byte) error {
		m, err := metadata.Snapshot().FromBytes(data)
		if err == nil && m.Signed.Meta["targets.json"] == nil {
			err = errors.New("it is not complete")
		}
		return err
	})
	k.load(metadata.TARGETS, func(data []byte) error {
		_, err := metadata.Targets().FromBytes(data)
		return err
	})
	return k
}

// load reads one file and sets it aside if use refuses it.
func (k *cache) load(role string, use func([]byte) error) {
	path := k.c.path(role)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = guard(func() error { return use(data) })
	}
	if err == nil {
		k.files[role] = data
		return
	}
	k.c.log.Warn("cached metadata is damaged and set aside", "file", path, "error", err)
	if err := durable.Rename(path, path+".damaged"); err != nil {
		k.c.log.Warn("cannot set damaged metadata aside", "file", path, "error", err)
	}
}

// guard turns a panic of a parser into an error.
func guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be parsed: %v", p)
		}
	}()
	return do()
}

// versions lists the versions that set has verified.
func versions(set *trustedmetadata.TrustedMetadata) map[string]int64 {
	v := map[string]int64{metadata.ROOT: set.Root.Signed.Version}
	if set.Timestamp != nil {
		v[metadata.TIMESTAMP] = set.Timestamp.Signed.Version
	}
	if set.Snapshot != nil {
		v[metadata.SNAPSHOT] = set.Snapshot.Signed.Version
	}
	if t := set.Targets[metadata.TARGETS]; t != nil {
		v[metadata.TARGETS] = t.Signed.Version
	}
	return v
}

func keysOf(set *trustedmetadata.TrustedMetadata, role string) []string {
	r := set.Root.Signed.Roles[role]
	if r == nil {
		return nil
	}
	ids := slices.Clone(r.KeyIDs)
	slices.Sort(ids)
	return ids
}

// SignedAt is the key of a timestamp with the time of its signature by the publisher (RFC
// 3339). TUF lets metadata have further keys and has none for this.
const SignedAt = "x-lull-signed-at"

// signedAt returns the time of the signature of set's timestamp, or zero if it has none.
func signedAt(set *trustedmetadata.TrustedMetadata) time.Time {
	if set.Timestamp == nil {
		return time.Time{}
	}
	text, _ := set.Timestamp.Signed.UnrecognizedFields[SignedAt].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.After(set.Timestamp.Signed.Expires) {
		return time.Time{}
	}
	return at
}

// inOrder are the roles in the order in which they vouch for each other.
var inOrder = []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS}

// check returns the role that has gone back below its mark, or "". It protects where the
// cached file is missing; go-tuf checks against that file. Without whole, snapshot and
// targets may be those of the cache, on the way to newer ones, and are not checked.
func (k *cache) check(set *trustedmetadata.TrustedMetadata, whole bool) string {
	v := versions(set)
	roles := inOrder
	if !whole {
		roles = inOrder[:2]
	}
	for _, role := range roles {
		got, ok := v[role]
		if ok && got < k.marks.Versions[role] && (role == metadata.ROOT || slices.Equal(keysOf(set, role), k.marks.Keys[role])) {
			return role
		}
	}
	return ""
}

// keep writes the verified metadata of set, the marks before the files that they protect, and
// the root before the roles that it vouches for. All files are flushed together. A crash may
// leave old and new ones beside each other: then go-tuf drops those that do not fit the newest
// root, and fetches them again.
func (k *cache) keep(set *trustedmetadata.TrustedMetadata, got map[string][]byte) (err error) {
	var b durable.Batch
	defer func() { err = errors.Join(err, b.Discard()) }()
	changed, v := false, versions(set)
	if at := signedAt(set); !at.IsZero() && (at.After(k.marks.Seen) || !slices.Equal(keysOf(set, metadata.TIMESTAMP), k.marks.Keys[metadata.TIMESTAMP])) {
		k.marks.Seen, changed = at, true
		k.c.saw(at)
	}
	for role, version := range v {
		keys := keysOf(set, role)
		if slices.Equal(keys, k.marks.Keys[role]) && version <= k.marks.Versions[role] {
			continue
		}
		k.marks.Versions[role], k.marks.Keys[role] = version, keys
		changed = true
	}
	if changed {
		data, err := json.Marshal(k.marks)
		if err != nil {
			return err
		}
		if err := b.Add(k.c.path("marks"), data, 0o600); err != nil {
			return err
		}
	}
	for _, role := range inOrder {
		accepted := accepted(set, role)
		if accepted == nil {
			continue
		}
		// The last download may not be the accepted one: it may have been refused.
		// Other metadata signs for targets and snapshot byte by byte, so those are
		// kept as they were received.
		data := got[role]
		if !bytes.Equal(canonical(role, data), accepted) {
			if bytes.Equal(canonical(role, k.files[role]), accepted) {
				continue
			}
			data = accepted
		}
		if bytes.Equal(data, k.files[role]) {
			continue
		}
		if err := b.Add(k.c.path(role), data, 0o600); err != nil {
			return err
		}
	}
	return b.Commit()
}

// accepted returns the metadata of a role in set, as go-tuf writes it, or nil.
func accepted(set *trustedmetadata.TrustedMetadata, role string) (data []byte) {
	switch {
	case role == metadata.ROOT:
		data, _ = set.Root.ToBytes(false)
	case role == metadata.TIMESTAMP && set.Timestamp != nil:
		data, _ = set.Timestamp.ToBytes(false)
	case role == metadata.SNAPSHOT && set.Snapshot != nil:
		data, _ = set.Snapshot.ToBytes(false)
	case role == metadata.TARGETS && set.Targets[role] != nil:
		data, _ = set.Targets[role].ToBytes(false)
	}
	return data
}

// canonical returns metadata as go-tuf writes it, or nil.
func canonical(role string, data []byte) (out []byte) {
	err := guard(func() error {
		set := trustedmetadata.TrustedMetadata{Targets: map[string]*metadata.Metadata[metadata.TargetsType]{}}
		var err error
		switch role {
		case metadata.ROOT:
			set.Root, err = metadata.Root().FromBytes(data)
		case metadata.TIMESTAMP:
			set.Timestamp, err = metadata.Timestamp().FromBytes(data)
		case metadata.SNAPSHOT:
			set.Snapshot, err = metadata.Snapshot().FromBytes(data)
		default:
			set.Targets[role], err = metadata.Targets().FromBytes(data)
		}
		if err == nil {
			out = accepted(&set, role)
		}
		return err
	})
	if err != nil {
		return nil
	}
	return out
}
