package hostile_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/repo"

	"github.com/klauspost/compress/zstd"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
)

// forger is a publisher who holds good keys and signs bad things.
type forger struct {
	t   *testing.T
	dir string // of the repository; its keys lie in dir.keys
}

func (f forger) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// blob puts content into the repository and returns its hash.
func (f forger) blob(content []byte) digest.Digest {
	f.t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	d := digest.Of(content)
	f.write(filepath.Join(f.path(), repo.BlobPath(d)), enc.EncodeAll(content, nil))
	return d
}

// offer lets the stable channel of a package point to a manifest with any content.
func (f forger) offer(name string, meta []byte) digest.Digest {
	f.t.Helper()
	d := f.blob(meta)
	f.channel(name, fmt.Sprintf(`{"name":%q,"channel":"stable","package":%q,"version":"666","urgency":"medium","published":"2026-01-02T03:04:05Z","size":%d,"rollout":{"percent":100}}`+"\n",
		name, d, len(meta)))
	return d
}

// channel signs any text as the stable channel of a package.
func (f forger) channel(name, pointer string) {
	f.t.Helper()
	target := "channels/" + name + "/stable.json"
	sum := digest.Of([]byte(pointer))
	f.write(f.path("channels", name, sum.String()+".stable.json"), []byte(pointer)) // consistent snapshots, TUF section 6.2
	file := metadata.TargetFile()
	file.Length = int64(len(pointer))
	file.Hashes = metadata.Hashes{"sha256": metadata.HexBytes(sum[:])}
	file.Path = target

	timestamp := load(f, metadata.Timestamp(), "timestamp.json")
	snapshot := load(f, metadata.Snapshot(), fmt.Sprintf("%d.snapshot.json", timestamp.Signed.Meta["snapshot.json"].Version))
	targets := load(f, metadata.Targets(), fmt.Sprintf("%d.targets.json", snapshot.Signed.Meta["targets.json"].Version))
	targets.Signed.Targets[target] = file
	targets.Signed.Version++
	snapshot.Signed.Meta["targets.json"] = save(f, targets, "targets", targets.Signed.Version, true)
	snapshot.Signed.Version++
	timestamp.Signed.Meta["snapshot.json"] = save(f, snapshot, "snapshot", snapshot.Signed.Version, true)
	timestamp.Signed.Version++
	save(f, timestamp, "timestamp", timestamp.Signed.Version, false)
}

func load[T metadata.Roles](f forger, m *metadata.Metadata[T], name string) *metadata.Metadata[T] {
	f.t.Helper()
	m, err := m.FromFile(f.path("metadata", name))
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// save signs metadata of a role, writes it, and returns how others name it.
func save[T metadata.Roles](f forger, m *metadata.Metadata[T], role string, version int64, numbered bool) *metadata.MetaFiles {
	f.t.Helper()
	data, err := os.ReadFile(f.dir + ".keys/" + role + ".pem")
	if err != nil {
		f.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	signer, err := signature.LoadSigner(key.(ed25519.PrivateKey), crypto.Hash(0))
	if err != nil {
		f.t.Fatal(err)
	}
	m.ClearSignatures()
	if _, err := m.Sign(signer); err != nil {
		f.t.Fatal(err)
	}
	out, err := m.ToBytes(false)
	if err != nil {
		f.t.Fatal(err)
	}
	name := role + ".json"
	if numbered {
		name = fmt.Sprintf("%d.%s", version, name)
	}
	f.write(f.path("metadata", name), out)
	sum := digest.Of(out)
	described := metadata.MetaFile(version)
	described.Length = int64(len(out))
	described.Hashes = metadata.Hashes{"sha256": metadata.HexBytes(sum[:])}
	return described
}

func (f forger) write(path string, data []byte) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// metaWith is the canonical meta of a package with one file, after an entry or
// a key has been replaced by raw JSON.
func metaWith(t *testing.T, name string, file digest.Digest, size int, change func(map[string]any)) []byte {
	t.Helper()
	m := map[string]any{
		"name": name, "version": "666",
		"entries": []any{map[string]any{"path": "bin/app", "blob": file.String(), "size": size, "exec": true}},
	}
	if change != nil {
		change(m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entries replaces the entries of a meta by raw JSON.
func entries(raw string) func(map[string]any) {
	return func(m map[string]any) { m["entries"] = json.RawMessage(raw) }
}
