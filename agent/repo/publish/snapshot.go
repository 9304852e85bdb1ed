package publish

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The snapshot names each bin, so its size determines the cost of a publication. go-tuf encodes
// and decodes it several times by reflection. This file does it once, for snapshots in the
// form that lull writes. All others are left to go-tuf.

// plain reports whether a string has the same form in canonical JSON and in that of Go.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) })
}

// canonicalSnapshot returns the bytes that are signed (canonical JSON). Ok is false for a
// snapshot that lull would not write.
func canonicalSnapshot(s *metadata.SnapshotType) (data []byte, ok bool) {
	if len(s.UnrecognizedFields) > 0 || s.Type != metadata.SNAPSHOT || !plain(s.SpecVersion) || s.Expires.Nanosecond() != 0 || s.Expires.Location() != time.UTC {
		return nil, false
	}
	b := bytes.NewBuffer(make([]byte, 0, 512+40*len(s.Meta)))
	b.WriteString(`{"_type":"snapshot","expires":"` + s.Expires.Format(time.RFC3339) + `","meta":{`)
	for i, name := range slices.Sorted(maps.Keys(s.Meta)) {
		f := s.Meta[name]
		if f == nil || len(f.UnrecognizedFields) > 0 || !plain(name) {
			return nil, false
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + name + `":{`)
		if len(f.Hashes) > 0 {
			sum := f.Hashes["sha256"]
			if len(f.Hashes) > 1 || sum == nil {
				return nil, false
			}
			b.WriteString(`"hashes":{"sha256":"` + hex.EncodeToString(sum) + `"},`)
		}
		if f.Length != 0 {
			b.WriteString(`"length":` + strconv.FormatInt(f.Length, 10) + `,`)
		}
		b.WriteString(`"version":` + strconv.FormatInt(f.Version, 10) + `}`)
	}
	b.WriteString(`},"spec_version":"` + s.SpecVersion + `","version":` + strconv.FormatInt(s.Version, 10) + `}`)
	return b.Bytes(), true
}

// plainSnapshot is the file of a snapshot in the form that lull writes.
type plainSnapshot struct {
	Signatures []struct {
		KeyID string            `json:"keyid"`
		Sig   metadata.HexBytes `json:"sig"`
	} `json:"signatures"`
	Signed json.RawMessage `json:"signed"`
}

// openSnapshot parses a snapshot and verifies its signatures.
func (s *state) openSnapshot(data []byte) (*metadata.Metadata[metadata.SnapshotType], error) {
	if m := s.openPlain(data); m != nil {
		return m, nil
	}
	m, err := metadata.Snapshot().FromBytes(data)
	if err == nil {
		err = s.root.VerifyDelegate(metadata.SNAPSHOT, m)
	}
	return m, err
}

// openPlain is openSnapshot for a valid snapshot in the form that lull writes. It returns nil
// for any other.
func (s *state) openPlain(data []byte) *metadata.Metadata[metadata.SnapshotType] {
	var file plainSnapshot
	var signed struct {
		Type        string    `json:"_type"`
		SpecVersion string    `json:"spec_version"`
		Version     int64     `json:"version"`
		Expires     time.Time `json:"expires"`
		Meta        map[string]struct {
			Length  int64           `json:"length"`
			Hashes  metadata.Hashes `json:"hashes"`
			Version int64           `json:"version"`
		} `json:"meta"`
	}
	if json.Unmarshal(data, &file) != nil || json.Unmarshal(file.Signed, &signed) != nil {
		return nil
	}
	m := metadata.Snapshot()
	m.Signed = metadata.SnapshotType{Type: signed.Type, SpecVersion: signed.SpecVersion, Version: signed.Version, Expires: signed.Expires,
		Meta: make(map[string]*metadata.MetaFiles, len(signed.Meta))}
	for name, f := range signed.Meta {
		m.Signed.Meta[name] = &metadata.MetaFiles{Length: f.Length, Hashes: f.Hashes, Version: f.Version}
	}
	// The same bytes mean that nothing was lost.
	payload, ok := canonicalSnapshot(&m.Signed)
	role := s.root.Signed.Roles[metadata.SNAPSHOT]
	if !ok || !bytes.Equal(payload, file.Signed) || role == nil || role.Threshold < 1 {
		return nil
	}
	signers := map[string]bool{} // public keys: one may have several identifiers
	for _, sig := range file.Signatures {
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: sig.KeyID, Signature: sig.Sig})
		key := s.root.Signed.Keys[sig.KeyID]
		if key == nil || !slices.Contains(role.KeyIDs, sig.KeyID) {
			continue
		}
		public, err := key.ToPublicKey()
		if err != nil {
			return nil
		}
		verifier, err := signature.LoadVerifier(public, crypto.SHA256)
		if err == nil && verifier.VerifySignature(bytes.NewReader(sig.Sig), bytes.NewReader(payload)) == nil {
			id, err := x509.MarshalPKIXPublicKey(public)
			if err != nil {
				return nil
			}
			signers[string(id)] = true
		}
	}
	if len(signers) < role.Threshold {
		return nil
	}
	return m
}

// signedSnapshot signs the snapshot and returns its file.
func (s *state) signedSnapshot() ([]byte, error) {
	payload, ok := canonicalSnapshot(&s.snapshot.Signed)
	if !ok {
		return signed(s, metadata.SNAPSHOT, s.snapshot)
	}
	keys, err := s.keys.forRole(s.ctx, metadata.SNAPSHOT, s.root.Signed.Roles[metadata.SNAPSHOT])
	if err != nil {
		return nil, err
	}
	s.snapshot.ClearSignatures()
	var b bytes.Buffer
	b.WriteString(`{"signatures":[`)
	for i, k := range append(keys, s.extra[metadata.SNAPSHOT]...) {
		sig, err := k.signer.SignMessage(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		s.snapshot.Signatures = append(s.snapshot.Signatures, metadata.Signature{KeyID: k.id, Signature: sig})
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"keyid":"` + k.id + `","sig":"` + hex.EncodeToString(sig) + `"}`)
	}
	b.WriteString(`],"signed":`)
	b.Write(payload)
	b.WriteByte('}')
	return b.Bytes(), nil
}
