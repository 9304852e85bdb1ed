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

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/lull/lull/agent/durable"
)

// The state folder of a repository holds root.json, timestamp.json,
// snapshot.json and targets.json as they were accepted last, and marks.json.
// What is damaged is renamed to *.damaged.

// marks are the highest versions accepted, and the keys under which they were.
// A role whose keys the root has replaced starts anew, so that a repository can
// recover from a thief who has signed an enormous version (TUF specification,
// 5.3.11).
type marks struct {
	Versions map[string]int64    `json:"versions"`
	Keys     map[string][]string `json:"keys"`
}

type cache struct {
	c     *Client
	root  []byte            // where trust begins: the newest root accepted, or the configured one
	files map[string][]byte // as they are on disk
	marks marks
}

func (c *Client) path(role string) string { return filepath.Join(c.state, role+".json") }

// loadCache reads the state folder and sets aside what it cannot use. The
// configured root is never touched.
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
		k.marks = marks{map[string]int64{}, map[string][]string{}}
	}
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

// load reads one file and sets it aside when use refuses it.
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

// versions lists what set has verified.
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

// inOrder are the roles in the order in which they vouch for each other.
var inOrder = []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS}

// check returns the role that has gone back below its mark, or "". It holds
// where the cached file, by which go-tuf would have noticed, is gone. Without
// whole, snapshot and targets may be those of the cache, on the way to newer
// ones, and are not looked at.
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

// keep writes down what set has verified, the marks before the files that they
// speak for, and the root before what it vouches for.
func (k *cache) keep(set *trustedmetadata.TrustedMetadata, got map[string][]byte) error {
	changed, v := false, versions(set)
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
		if err := durable.WriteFile(k.c.path("marks"), data, 0o600); err != nil {
			return err
		}
	}
	for _, role := range inOrder {
		accepted := accepted(set, role)
		if accepted == nil {
			continue
		}
		// The last download need not be what was accepted: it may have been
		// refused. Other metadata signs for targets and snapshot byte by byte,
		// so those are kept as they came.
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
		if err := durable.WriteFile(k.c.path(role), data, 0o600); err != nil {
			return err
		}
	}
	return nil
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
