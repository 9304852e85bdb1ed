package publish

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// damaged means metadata that cannot be parsed, as opposed to metadata with a wrong
// signature.
type damaged struct{ err error }

func (d damaged) Error() string { return d.err.Error() }
func (d damaged) Unwrap() error { return d.err }

// signedVersions are the newest versions that were ever signed. They are kept beside the
// keys, so that write access to the repository alone is not enough to get an older state
// signed as the newest.
type signedVersions struct {
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
}

func (k keyFolder) signed() string { return filepath.Join(k.dir, "signed.json") }

func (k keyFolder) readSigned() (v signedVersions, err error) {
	data, err := os.ReadFile(k.signed())
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil // a repository of an older lull
	}
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		return v, errkind.Errorf("cannot read which versions were signed: %w", err)
	}
	return v, nil
}

// noteSigned records the versions that s will publish. Keys on a read-only file system have
// no such record.
func (k keyFolder) noteSigned(s *state) error {
	data, err := json.Marshal(signedVersions{s.timestamp.Signed.Version, s.snapshot.Signed.Version, s.targets.Signed.Version})
	if err != nil {
		return err
	}
	err = durable.WriteFile(k.signed(), append(data, '\n'), 0o600)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// lostVersions is the increment of the version of a timestamp if no record of the last one
// remains: readers refuse one that is not newer.
const lostVersions = 1_000_000

// rebuildTimestamp makes s.timestamp for the newest snapshot that is whole and signed,
// together with its targets. Error Untrusted: that is older than the state that was signed
// last.
func (s *state) rebuildTimestamp() error {
	known, err := s.keys.readSigned()
	if err != nil {
		return err
	}
	var versions []int64
	err = s.store.List(s.ctx, "metadata/", func(path string, _ Info) error {
		number, found := strings.CutSuffix(strings.TrimPrefix(path, "metadata/"), "."+metadata.SNAPSHOT+".json")
		if v, err := strconv.ParseInt(number, 10, 64); found && err == nil {
			versions = append(versions, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(versions)
	var first error
	for _, v := range slices.Backward(versions) {
		targets, data, err := s.wholeSnapshot(v)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		if v < known.Snapshot || targets < known.Targets {
			return errkind.New(errkind.Untrusted, "cannot sign %s again: version %d of its snapshot was signed, and the newest that is whole is %d", s.dir, known.Snapshot, v).
				WithHint("bring the newest files in metadata back from a copy of the repository")
		}
		s.timestamp = metadata.Timestamp()
		s.timestamp.Signed.Version = max(known.Timestamp, s.versionInRuins(), v)
		if known.Timestamp == 0 && s.timestamp.Signed.Version == v {
			s.timestamp.Signed.Version += lostVersions
		}
		s.timestamp.Signed.Meta["snapshot.json"] = describe(v, data)
		// The caller signs it as its next version.
		return s.signAgain()
	}
	if first == nil {
		first = errkind.Errorf("there is no snapshot")
	}
	return errkind.New(errkind.Invalid, "cannot sign %s again: nothing is left that was signed: %w", s.dir, first).
		WithHint("bring the files in metadata back from a copy of the repository")
}

// signAgain signs the rebuilt timestamp, so that it can be verified like a parsed one.
func (s *state) signAgain() error {
	_, err := signed(s, metadata.TIMESTAMP, s.timestamp)
	return err
}

// wholeSnapshot checks a version of the snapshot and the targets that it names. It returns
// their version and the snapshot's bytes.
func (s *state) wholeSnapshot(version int64) (targets int64, data []byte, err error) {
	data, err = s.read(numbered(version, metadata.SNAPSHOT))
	if err != nil {
		return 0, nil, err
	}
	snapshot, err := s.openSnapshot(data)
	if err != nil {
		return 0, nil, err
	}
	at := snapshot.Signed.Meta["targets.json"]
	if at == nil || snapshot.Signed.Version != version {
		return 0, nil, errkind.Errorf("version %d of the snapshot is not complete", version)
	}
	list, err := metadataAt(s, metadata.Targets(), numbered(at.Version, metadata.TARGETS))
	if err == nil {
		err = s.root.VerifyDelegate(metadata.TARGETS, list)
	}
	if err == nil && list.Signed.Version != at.Version {
		err = errkind.Errorf("version %d of the targets is not complete", at.Version)
	}
	if err == nil {
		whole := &state{ctx: s.ctx, store: s.store, dir: s.dir, snapshot: snapshot, targets: list}
		if err = whole.findDivided(); err == nil {
			_, err = whole.targetPaths()
		}
	}
	return at.Version, data, err
}

// versionPattern finds the version in the remains of a timestamp. It may find that of the
// snapshot instead, which is not larger.
var versionPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`"version":\s*(\d{1,15})`) })

// versionInRuins returns the highest version in the remains of the timestamp, or 0.
func (s *state) versionInRuins() (version int64) {
	data, err := s.read(timestampPath)
	if err != nil {
		return 0
	}
	for _, m := range versionPattern().FindAllSubmatch(data, -1) {
		if v, err := strconv.ParseInt(string(m[1]), 10, 64); err == nil {
			version = max(version, v)
		}
	}
	return version
}
