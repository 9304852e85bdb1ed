package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/problem"
)

// keepVersions is how many old versions of targets and snapshot stay, for
// readers that have just read an older timestamp.
const keepVersions = 64

// Expiry is how long signatures are good for, by role. Zero means the default:
// ten years for the root, a year for the rest. A negative span makes metadata
// that has expired already, for tests.
type Expiry struct {
	Root, Targets, Snapshot, Timestamp time.Duration
}

const year = 365 * 24 * time.Hour

// until returns the moment at which metadata of a role signed at now expires.
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

// state is the metadata of a repository, verified against the root in the
// folder of the keys. Its methods run under the repository's lock.
type state struct {
	dir    string
	keys   keyFolder
	expiry Expiry
	now    time.Time

	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]

	extra map[string]key // during a rotation: a second key that signs
}

func (s *state) path(name string) string { return filepath.Join(s.dir, "metadata", name) }

func numbered(version int64, role string) string {
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// anchor is our own copy of the newest root.
func (k keyFolder) anchor() string { return filepath.Join(string(k), "root.json") }

// load reads what readers of the repository see now. That it has expired does
// not matter: it is about to be signed again.
func load(dir string, keys keyFolder, expiry Expiry, now time.Time) (*state, error) {
	s := &state{dir: dir, keys: keys, expiry: expiry, now: now}
	fail := func(role string, err error) (*state, error) {
		if errors.As(err, new(*os.PathError)) {
			return nil, problem.New(problem.Invalid, "cannot open the repository %s: %w", dir, err).
				WithHint("lull repo init makes a repository and its keys")
		}
		return nil, problem.New(problem.Untrusted, "cannot sign anything in %s: somebody else has changed its %s metadata: %w", dir, role, err)
	}
	var err error
	if s.root, err = metadata.Root().FromFile(keys.anchor()); err != nil {
		return fail(metadata.ROOT, err)
	}
	if err := s.followRoots(); err != nil {
		return fail(metadata.ROOT, err)
	}
	if s.timestamp, err = metadata.Timestamp().FromFile(s.path("timestamp.json")); err == nil {
		err = s.root.VerifyDelegate(metadata.TIMESTAMP, s.timestamp)
	}
	if err != nil {
		return fail(metadata.TIMESTAMP, err)
	}
	if at := s.timestamp.Signed.Meta["snapshot.json"]; at == nil {
		err = errors.New("it names no snapshot")
	} else if s.snapshot, err = metadata.Snapshot().FromFile(s.path(numbered(at.Version, metadata.SNAPSHOT))); err == nil {
		err = s.root.VerifyDelegate(metadata.SNAPSHOT, s.snapshot)
	}
	if err != nil {
		return fail(metadata.SNAPSHOT, err)
	}
	if at := s.snapshot.Signed.Meta["targets.json"]; at == nil {
		err = errors.New("it names no targets")
	} else if s.targets, err = metadata.Targets().FromFile(s.path(numbered(at.Version, metadata.TARGETS))); err == nil {
		err = s.root.VerifyDelegate(metadata.TARGETS, s.targets)
	}
	if err != nil {
		return fail(metadata.TARGETS, err)
	}
	return s, nil
}

// followRoots goes on from our copy of the root to a newer one that a rotation
// has published before it was killed.
func (s *state) followRoots() error {
	for {
		version := s.root.Signed.Version + 1
		data, err := os.ReadFile(s.path(numbered(version, metadata.ROOT)))
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
			return fmt.Errorf("version %d stands in the file of version %d", next.Signed.Version, version)
		}
		if err := s.writeRoot(data, version); err != nil {
			return err
		}
		s.root = next
	}
}

// signed signs m for a role and returns its bytes.
func signed[T metadata.Roles](s *state, role string, m *metadata.Metadata[T]) ([]byte, error) {
	m.ClearSignatures()
	k, err := s.keys.forRole(role, &s.root.Signed)
	if err != nil {
		return nil, err
	}
	if _, err := m.Sign(k.signer); err != nil {
		return nil, err
	}
	if k, ok := s.extra[role]; ok {
		if _, err := m.Sign(k.signer); err != nil {
			return nil, err
		}
	}
	return m.ToBytes(false)
}

// describe is how metadata names other metadata.
func describe(version int64, data []byte) *metadata.MetaFiles {
	f := metadata.MetaFile(version)
	sum := digest.Of(data)
	f.Length = int64(len(data))
	f.Hashes = metadata.Hashes{"sha256": metadata.HexBytes(sum[:])}
	return f
}

// writeTargets publishes s.targets as its next version.
func (s *state) writeTargets() error {
	s.targets.Signed.Version++
	s.targets.Signed.Expires = s.expiry.until(metadata.TARGETS, s.now)
	data, err := signed(s, metadata.TARGETS, s.targets)
	if err != nil {
		return err
	}
	s.snapshot.Signed.Meta["targets.json"] = describe(s.targets.Signed.Version, data)
	return durable.WriteFile(s.path(numbered(s.targets.Signed.Version, metadata.TARGETS)), data, 0o644)
}

// writeSnapshot publishes s.snapshot as its next version.
func (s *state) writeSnapshot() error {
	s.snapshot.Signed.Version++
	s.snapshot.Signed.Expires = s.expiry.until(metadata.SNAPSHOT, s.now)
	data, err := signed(s, metadata.SNAPSHOT, s.snapshot)
	if err != nil {
		return err
	}
	s.timestamp.Signed.Meta["snapshot.json"] = describe(s.snapshot.Signed.Version, data)
	return durable.WriteFile(s.path(numbered(s.snapshot.Signed.Version, metadata.SNAPSHOT)), data, 0o644)
}

// writeTimestamp is the rename that makes all the rest count.
func (s *state) writeTimestamp() error {
	s.timestamp.Signed.Version++
	s.timestamp.Signed.Expires = s.expiry.until(metadata.TIMESTAMP, s.now)
	data, err := signed(s, metadata.TIMESTAMP, s.timestamp)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path("timestamp.json"), data, 0o644)
}

// writeAll publishes new versions of all but the root, in the order in which no
// reader is left without what a name leads to.
func (s *state) writeAll() error {
	for _, write := range []func() error{s.writeTargets, s.writeSnapshot, s.writeTimestamp} {
		if err := write(); err != nil {
			return err
		}
	}
	s.prune()
	return nil
}

// prune deletes versions that no reader can be at any more. What it cannot
// delete does no harm.
func (s *state) prune() {
	entries, err := os.ReadDir(filepath.Join(s.dir, "metadata"))
	if err != nil {
		return
	}
	newest := map[string]int64{
		metadata.TARGETS: s.targets.Signed.Version, metadata.SNAPSHOT: s.snapshot.Signed.Version,
	}
	for _, e := range entries {
		number, rest, _ := strings.Cut(e.Name(), ".")
		version, err := strconv.ParseInt(number, 10, 64)
		top, known := newest[strings.TrimSuffix(rest, ".json")]
		if err == nil && known && version <= top-keepVersions {
			os.Remove(s.path(e.Name()))
		}
	}
}

// writeRoot publishes a root: under its number, as the copy for people, and as
// our own.
func (s *state) writeRoot(data []byte, version int64) error {
	for _, path := range []string{s.path(numbered(version, metadata.ROOT)), s.keys.anchor(), filepath.Join(s.dir, "root.json")} {
		if err := durable.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("cannot write the root: %w", err)
		}
	}
	return nil
}
