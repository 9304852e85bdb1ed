package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// keepVersions is the number of old versions of targets and snapshot that are kept for
// readers of an older timestamp.
const keepVersions = 64

// Expiry is the lifetime of signatures, by role. Zero means the default: ten years for the
// root, a year for the rest. A negative duration makes expired metadata, for tests.
type Expiry struct {
	Root, Targets, Snapshot, Timestamp time.Duration
}

const year = 365 * 24 * time.Hour

// until returns the expiry of metadata of a role that is signed at now.
func (e Expiry) until(role string, now time.Time) time.Time {
	span := map[string]time.Duration{
		metadata.ROOT: e.Root, metadata.TARGETS: e.Targets, metadata.SNAPSHOT: e.Snapshot, metadata.TIMESTAMP: e.Timestamp,
	}[role]
	if span == 0 {
		span = year
		if role == metadata.ROOT {
			span = 10 * year
		}
	}
	return now.Add(span).UTC().Truncate(time.Second)
}

// state is the metadata of a repository, verified against the root in the directory of the
// keys. Its methods run while the repository's lock is held.
type state struct {
	ctx    context.Context // of the operation that the state was loaded for
	store  Storage
	dir    string // the repository's address, for messages
	keys   keyFolder
	expiry Expiry
	now    time.Time

	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]

	divided *metadata.Metadata[metadata.TargetsType] // the list that delegates to bins; nil means that there are none

	bins  map[string]*metadata.Metadata[metadata.TargetsType] // the bins that were read, by role
	dirty map[string]bool                                     // the roles of the changed bins

	renew bool // sign also unchanged metadata

	extra map[string][]key // during a rotation: the next keys, which sign, too

	tag     string   // of the timestamp that was read, or ""
	created []string // metadata that no other metadata names yet
}

// timestampPath is the path of the file that readers request first.
const timestampPath = "metadata/timestamp.json"

// numbered returns the path of a version of a role's metadata.
func numbered(version int64, role string) string {
	return "metadata/" + strconv.FormatInt(version, 10) + "." + role + ".json"
}

// read returns a file of the repository.
func (s *state) read(path string) ([]byte, error) {
	data, _, err := s.store.Read(s.ctx, path)
	return data, err
}

// metadataAt reads a file of metadata into m.
func metadataAt[T metadata.Roles](s *state, m *metadata.Metadata[T], path string) (*metadata.Metadata[T], error) {
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	return m.FromBytes(data)
}

// anchor is the path of the trusted copy of the newest root.
func (k keyFolder) anchor() string { return filepath.Join(k.dir, "root.json") }

// load reads the current state, as readers of the repository do. It accepts expired metadata,
// which is about to be re-signed. With rebuild it rebuilds a lost or damaged timestamp.
//
// In storage that publishers share, the newest snapshot counts, even if no timestamp names it
// yet: its publisher was killed, or is about to write the timestamp.
func load(ctx context.Context, store Storage, dir string, keys keyFolder, expiry Expiry, now time.Time, rebuild bool) (*state, error) {
	s := &state{ctx: ctx, store: store, dir: dir, keys: keys, expiry: expiry, now: now}
	fail := func(role string, err error) (*state, error) {
		if errors.As(err, new(*fs.PathError)) {
			hint := "lull repo init makes a repository and its keys"
			if role != metadata.ROOT {
				hint = "lull repo resign mends a timestamp that is damaged or lost; the rest has to come from a copy of the repository"
			}
			return nil, errkind.New(errkind.Invalid, "cannot open the repository %s: %w", dir, err).WithHint("%s", hint)
		}
		if errors.As(err, new(damaged)) {
			return nil, errkind.New(errkind.Invalid, "cannot open the repository %s: its %s metadata is damaged: %w", dir, role, err).
				WithHint("lull repo resign makes it again from the newest state that was signed")
		}
		if errors.As(err, new(*errkind.Error)) {
			return nil, err
		}
		return nil, errkind.New(errkind.Untrusted, "cannot sign anything in %s: somebody else has changed its %s metadata: %w", dir, role, err)
	}
	var err error
	if s.root, err = metadata.Root().FromFile(keys.anchor()); err != nil {
		return fail(metadata.ROOT, err)
	}
	if err := s.followRoots(); err != nil {
		return fail(metadata.ROOT, err)
	}
	data, tag, err := store.Read(ctx, timestampPath)
	if s.tag = tag; err == nil {
		s.timestamp, err = metadata.Timestamp().FromBytes(data)
	}
	if err != nil {
		if !rebuild {
			return fail(metadata.TIMESTAMP, damaged{err})
		}
		err = s.rebuildTimestamp()
	} else {
		err = s.root.VerifyDelegate(metadata.TIMESTAMP, s.timestamp)
	}
	if err != nil {
		return fail(metadata.TIMESTAMP, err)
	}
	if err := s.readSnapshot(); err != nil {
		return fail(metadata.SNAPSHOT, err)
	}
	if at := s.snapshot.Signed.Meta["targets.json"]; at == nil {
		err = errkind.Errorf("it names no targets")
	} else if s.targets, err = metadataAt(s, metadata.Targets(), numbered(at.Version, metadata.TARGETS)); err == nil {
		err = s.root.VerifyDelegate(metadata.TARGETS, s.targets)
	}
	if err == nil {
		err = s.findDivided()
	}
	if err != nil {
		return fail(metadata.TARGETS, err)
	}
	if !repo.Fans(&s.targets.Signed) {
		s.store = flat{store}
	}
	return s, nil
}

// readSnapshot reads the snapshot that the timestamp names or, in shared storage, a newer one.
func (s *state) readSnapshot() (err error) {
	at := s.timestamp.Signed.Meta["snapshot.json"]
	if at == nil {
		return errkind.Errorf("it names no snapshot")
	}
	data, err := s.read(numbered(at.Version, metadata.SNAPSHOT))
	if err == nil {
		s.snapshot, err = s.openSnapshot(data)
	}
	for err == nil && s.store.Shared() {
		version := s.snapshot.Signed.Version + 1
		data, err := s.read(numbered(version, metadata.SNAPSHOT))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := s.openSnapshot(data)
		if err == nil && next.Signed.Version != version {
			err = errkind.Errorf("the file of version %[2]d has version %[1]d", next.Signed.Version, version)
		}
		if err != nil {
			return err
		}
		s.snapshot = next
		s.timestamp.Signed.Meta["snapshot.json"] = describe(version, data)
	}
	return err
}

// followRoots continues from the trusted copy of the root to a newer one that an interrupted
// rotation has published.
func (s *state) followRoots() error {
	for {
		version := s.root.Signed.Version + 1
		data, err := s.read(numbered(version, metadata.ROOT))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := metadata.Root().FromBytes(data)
		if err != nil {
			return err
		}
		if err := errors.Join(s.root.VerifyDelegate(metadata.ROOT, next), next.VerifyDelegate(metadata.ROOT, next)); err != nil {
			return err
		}
		if next.Signed.Version != version {
			return errkind.Errorf("the file of version %[2]d has version %[1]d", next.Signed.Version, version)
		}
		if err := s.noteRoot(data); err != nil {
			return err
		}
		s.root = next
	}
}

// signed signs m for a role and returns its bytes.
func signed[T metadata.Roles](s *state, role string, m *metadata.Metadata[T]) ([]byte, error) {
	m.ClearSignatures()
	keys, err := s.keys.forRole(s.ctx, role, s.root.Signed.Roles[role])
	if err != nil {
		return nil, err
	}
	if err := signWith(m, append(keys, s.extra[role]...)); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

// describe returns the entry for a file in other metadata.
func describe(version int64, data []byte) *metadata.MetaFiles {
	f := metadata.MetaFile(version)
	sum := digest.Of(data)
	f.Length = int64(len(data))
	f.Hashes = metadata.Hashes{"sha256": metadata.HexBytes(sum[:])}
	return f
}

// writeTargets publishes the changed bins, and s.targets as its next version.
func (s *state) writeTargets() error {
	if changed, err := s.writeBins(); err != nil || !changed {
		return err
	}
	s.targets.Signed.Expires = s.expiry.until(metadata.TARGETS, s.now)
	data, err := s.create(metadata.TARGETS, &s.targets.Signed.Version, func() ([]byte, error) {
		return signed(s, metadata.TARGETS, s.targets)
	})
	if err != nil {
		return err
	}
	s.snapshot.Signed.Meta["targets.json"] = describe(s.targets.Signed.Version, data)
	return nil
}

// maxSkipped bounds the versions that publishers which did not finish have left in a row.
const maxSkipped = 1000

// create writes the next version of a role's metadata, which make returns. It skips versions
// that exist: no snapshot names them.
func (s *state) create(role string, version *int64, make func() ([]byte, error)) ([]byte, error) {
	for range maxSkipped {
		*version++
		data, err := make()
		if err != nil {
			return nil, err
		}
		path := numbered(*version, role)
		err = s.store.Create(s.ctx, Object{Path: path, Data: data})
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			s.created = append(s.created, path)
		}
		return data, err
	}
	return nil, errkind.Errorf("there are %d unused versions of the %s metadata", maxSkipped, role)
}

// errLost means that another publisher has created the next snapshot. The change has to be
// made again, on the other one's state.
const errLost = errkind.Fixed("another publisher was faster")

// writeSnapshot publishes s.snapshot as its next version. In shared storage this decides
// between publishers. Error errLost: another one has published that version.
func (s *state) writeSnapshot() error {
	s.snapshot.Signed.Version++
	s.snapshot.Signed.Expires = s.expiry.until(metadata.SNAPSHOT, s.now)
	data, err := s.signedSnapshot()
	if err != nil {
		return err
	}
	s.timestamp.Signed.Meta["snapshot.json"] = describe(s.snapshot.Signed.Version, data)
	err = s.store.Create(s.ctx, Object{Path: numbered(s.snapshot.Signed.Version, metadata.SNAPSHOT), Data: data})
	if errors.Is(err, fs.ErrExist) {
		_ = s.store.Remove(s.ctx, s.created) // what remains is skipped
		return errLost
	}
	if err == nil {
		err = s.store.Flush(s.ctx)
	}
	return err
}

// writeTimestamp publishes the timestamp, which puts all other files in force. If another
// publisher has replaced it since it was read, by one of the same state or a later one, its
// timestamp stays.
func (s *state) writeTimestamp() error {
	for {
		data, err := s.nextTimestamp()
		if err != nil {
			return err
		}
		if err := s.keys.noteSigned(s); err != nil {
			return err
		}
		err = s.store.Swap(s.ctx, Object{Path: timestampPath, Data: data}, s.tag)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if data, s.tag, err = s.store.Read(s.ctx, timestampPath); err != nil {
			return err
		}
		other, err := metadata.Timestamp().FromBytes(data)
		if err == nil {
			err = s.root.VerifyDelegate(metadata.TIMESTAMP, other)
		}
		if err != nil {
			return errkind.Errorf("cannot use the timestamp that another publisher has written: %w", err)
		}
		if at := other.Signed.Meta["snapshot.json"]; at != nil && at.Version >= s.snapshot.Signed.Version {
			return nil
		}
		other.Signed.Meta = s.timestamp.Signed.Meta
		s.timestamp = other
	}
}

// nextTimestamp returns the next version of the timestamp, signed.
func (s *state) nextTimestamp() ([]byte, error) {
	s.timestamp.Signed.Version++
	// Readers take this for a lower bound of the time. It never decreases. Otherwise,
	// after a clock was ahead once, all later metadata would be expired.
	at := s.now
	if before, err := time.Parse(time.RFC3339, fmt.Sprint(s.timestamp.Signed.UnrecognizedFields[repo.SignedAt])); err == nil && before.After(at) {
		at = before
	}
	if s.timestamp.Signed.UnrecognizedFields == nil {
		s.timestamp.Signed.UnrecognizedFields = map[string]any{}
	}
	s.timestamp.Signed.UnrecognizedFields[repo.SignedAt] = at.UTC().Format(time.RFC3339)
	s.timestamp.Signed.Expires = s.lifetime().until(metadata.TIMESTAMP, at)
	return signed(s, metadata.TIMESTAMP, s.timestamp)
}

// lifetimeField is the field of the timestamp with its lifetime in seconds, if Resign has set
// one: each later publication keeps it.
const lifetimeField = "x-lull-lifetime"

// lifetime returns the lifetimes of signatures, with that of the timestamp.
func (s *state) lifetime() Expiry {
	e := s.expiry
	if seconds, ok := s.timestamp.Signed.UnrecognizedFields[lifetimeField].(float64); ok && e.Timestamp == 0 && seconds >= 1 && seconds < 100*year.Seconds() {
		e.Timestamp = time.Duration(seconds) * time.Second
	}
	return e
}

// writeAll publishes new versions of all metadata but the root. Its order ensures that a
// reader finds every file that another one names. Without a key of the snapshot it ends with
// the lists of delegated roles, for Accept.
func (s *state) writeAll() error {
	if s.proposes() {
		foreign := slices.ContainsFunc(slices.Collect(maps.Keys(s.dirty)), s.own)
		if !foreign {
			changed, err := s.writeBins()
			if err != nil {
				return err
			}
			foreign = changed
		}
		if foreign {
			return errkind.New(errkind.NotPermitted, "the keys in %s sign only names that are delegated to them", s.keys)
		}
		s.dirty, s.created = nil, nil
		return s.store.Flush(s.ctx)
	}
	for _, write := range []func() error{s.writeTargets, s.writeSnapshot, s.writeTimestamp} {
		if err := write(); err != nil {
			return err
		}
	}
	s.prune()
	return nil
}

// prune deletes versions that are too old for any reader. One publication makes about one
// version of a role. A version that is not deleted does no harm.
func (s *state) prune() {
	versions := map[string]int64{metadata.TARGETS: s.targets.Signed.Version, metadata.SNAPSHOT: s.snapshot.Signed.Version}
	for role := range s.dirty {
		versions[role] = s.bins[role].Signed.Version
	}
	var old []string
	for role, version := range versions {
		if version > keepVersions {
			old = append(old, numbered(version-keepVersions, role))
		}
	}
	s.dirty, s.created = nil, nil
	_ = s.store.Remove(s.ctx, old)
}

// writeRoot publishes a root: under its number, as the copy for people, and as the trusted
// copy. Error Conflict: another publisher has published another one.
func (s *state) writeRoot(data []byte, version int64) error {
	err := s.store.Create(s.ctx, Object{Path: numbered(version, metadata.ROOT), Data: data})
	if errors.Is(err, fs.ErrExist) {
		return errkind.New(errkind.Conflict, "another publisher has published version %d of the root", version)
	}
	if err == nil {
		err = s.store.Flush(s.ctx)
	}
	if err == nil {
		err = s.noteRoot(data)
	}
	if err != nil {
		return errkind.Errorf("cannot write the root: %w", err)
	}
	return nil
}

// noteRoot writes the copies of a published root. Keys on a read-only file system keep their
// older copy, from which each publisher continues.
func (s *state) noteRoot(data []byte) error {
	err := s.store.Put(s.ctx, Object{Path: "root.json", Data: data})
	if err == nil {
		err = s.store.Flush(s.ctx)
	}
	if err != nil {
		return err
	}
	err = durable.WriteFile(s.keys.anchor(), data, 0o644)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
