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
	dir    string
	keys   keyFolder
	expiry Expiry
	now    time.Time

	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]

	bins  map[string]*metadata.Metadata[metadata.TargetsType] // the bins that were read, by role
	dirty map[string]bool                                     // the roles of the changed bins

	renew bool // sign also unchanged metadata

	extra map[string]key // during a rotation: a second key that signs
}

func (s *state) path(name string) string { return filepath.Join(s.dir, "metadata", name) }

func numbered(version int64, role string) string {
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// anchor is the path of the trusted copy of the newest root.
func (k keyFolder) anchor() string { return filepath.Join(string(k), "root.json") }

// load reads the current state, as readers of the repository do. It accepts expired metadata,
// which is about to be re-signed. With rebuild it rebuilds a lost or damaged timestamp.
func load(dir string, keys keyFolder, expiry Expiry, now time.Time, rebuild bool) (*state, error) {
	s := &state{dir: dir, keys: keys, expiry: expiry, now: now}
	fail := func(role string, err error) (*state, error) {
		if errors.As(err, new(*os.PathError)) {
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
	if s.timestamp, err = metadata.Timestamp().FromFile(s.path("timestamp.json")); err != nil {
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

// followRoots continues from the trusted copy of the root to a newer one that an interrupted
// rotation has published.
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
			return fmt.Errorf("the file of version %[2]d has version %[1]d", next.Signed.Version, version)
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

// writeTimestamp publishes the timestamp. Its rename puts all other files in force.
func (s *state) writeTimestamp() error {
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
	s.timestamp.Signed.Expires = s.expiry.until(metadata.TIMESTAMP, at)
	data, err := signed(s, metadata.TIMESTAMP, s.timestamp)
	if err != nil {
		return err
	}
	if err := s.keys.noteSigned(s); err != nil {
		return err
	}
	return durable.WriteFile(s.path("timestamp.json"), data, 0o644)
}

// writeAll publishes new versions of all metadata but the root. Its order ensures that a
// reader finds every file that another one names.
func (s *state) writeAll() error {
	for _, write := range []func() error{s.writeTargets, s.writeSnapshot, s.writeTimestamp} {
		if err := write(); err != nil {
			return err
		}
	}
	s.prune()
	return nil
}

// prune deletes versions that are too old for any reader. A version that cannot be deleted
// does no harm.
func (s *state) prune() {
	if s.binned() {
		s.pruneBins()
		for role, version := range map[string]int64{metadata.TARGETS: s.targets.Signed.Version, metadata.SNAPSHOT: s.snapshot.Signed.Version} {
			if version > keepVersions {
				os.Remove(s.path(numbered(version-keepVersions, role)))
			}
		}
		return // reading such a large directory would take longer than all else
	}
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

// writeRoot publishes a root: under its number, as the copy for people, and as the trusted
// copy.
func (s *state) writeRoot(data []byte, version int64) error {
	for _, path := range []string{s.path(numbered(version, metadata.ROOT)), s.keys.anchor(), filepath.Join(s.dir, "root.json")} {
		if err := durable.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("cannot write the root: %w", err)
		}
	}
	return nil
}
