package publish

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// Roles are the roles of TUF, in the order of trust.
var Roles = []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}

// key is one signing key.
type key struct {
	signer signature.Signer
	public *metadata.Key
	id     string
}

func keyOf(private ed25519.PrivateKey) (key, error) {
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		return key{}, err
	}
	public, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return key{}, err
	}
	id, err := public.ID()
	return key{signer, public, id}, err
}

// keyFolder is the directory of a repository's keys.
type keyFolder string

// keysOf returns the directory of the keys: the requested one, or the one beside the
// repository. Inside the repository they would be public.
func keysOf(dir, asked string) (keyFolder, error) {
	if asked == "" {
		asked = filepath.Clean(dir) + ".keys"
	}
	rel, err := filepath.Rel(resolved(dir), resolved(asked))
	if err != nil {
		return "", err
	}
	if rel == "." || rel != ".." && !strings.HasPrefix(rel, "../") {
		return "", errkind.New(errkind.Invalid, "cannot keep keys in %s: it lies inside the repository", asked)
	}
	return keyFolder(asked), nil
}

// resolved makes a path absolute and follows symlinks as far as it exists.
func resolved(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	if parent := filepath.Dir(abs); parent != abs {
		return filepath.Join(resolved(parent), filepath.Base(abs))
	}
	return abs
}

func (k keyFolder) path(role string) string { return filepath.Join(string(k), role+".pem") }

// create writes a new key to a file of its own.
func (k keyFolder) create(path string) (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return key{}, err
	}
	if err := durable.MkdirAll(string(k), 0o700); err != nil {
		return key{}, err
	}
	if err := durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return key{}, err
	}
	return keyOf(private)
}

// read returns the key in a file that only its owner can read.
func (k keyFolder) read(path string) (key, error) {
	fail := func(err error) (key, error) {
		return key{}, errkind.New(errkind.KindOf(err), "cannot use the key %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(errors.New("others can read it: its mode must be 0600"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return fail(errors.New("it is no private key in PEM"))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail(err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return fail(errors.New("it is no ed25519 key"))
	}
	out, err := keyOf(private)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// next is the path of the new key of a rotation until its root is published.
func (k keyFolder) next(role string) string { return k.path(role) + ".new" }

// forRole returns the key of a role that root names. After an interrupted rotation that may
// still be the one in the file ".new".
func (k keyFolder) forRole(role string, root *metadata.RootType) (key, error) {
	var known []string
	if r := root.Roles[role]; r != nil {
		known = r.KeyIDs
	}
	var first error
	for _, path := range []string{k.path(role), k.next(role)} {
		found, err := k.read(path)
		switch {
		case err == nil && slices.Contains(known, found.id):
			return found, nil
		case err == nil:
			err = errkind.New(errkind.Untrusted, "cannot sign %s metadata: the key %s is not the one that the repository's root names", role, path)
		case errors.Is(err, fs.ErrNotExist) && first != nil:
			continue
		}
		if first == nil {
			first = err
		}
	}
	return key{}, first
}
