package publish

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
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

// keyFolder is the directory of a repository's keys. A key of a role is one of the files
//
//	ROLE.pem                  a private key, which may be encrypted with a passphrase
//	ROLE.command, ROLE.pub    a program that signs, and its public key
//
// Further keys of a role have a number: ROLE.2.pem.
type keyFolder struct {
	dir         string
	credentials string               // a directory that may have further private keys, or ""
	passphrase  cryptoutils.PassFunc // nil means that there is none
	encrypt     bool                 // new keys
	decrypted   map[digest.Digest]crypto.PrivateKey
}

func (k keyFolder) String() string { return k.dir }

// maxKeys bounds the keys of a role.
const maxKeys = 16

// stem returns the name of the files of a role's key without their ends. The first is 1.
func stem(role string, number int) string {
	if number == 1 {
		return role
	}
	return role + "." + strconv.Itoa(number)
}

// keysOf returns the directory of the keys: the requested one, or the one beside the
// repository. Inside the repository they would be public.
func keysOf(dir, asked string) (string, error) {
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
	return asked, nil
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

func (k keyFolder) path(name string) string { return filepath.Join(k.dir, name+".pem") }

// next is the path of the new key of a rotation until its root is published.
func (k keyFolder) next(name string) string { return k.path(name) + ".new" }

// create writes a new key to a file of its own.
func (k keyFolder) create(path string) (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	kind, der := cryptoutils.PrivateKeyPEMType, []byte(nil)
	if k.encrypt {
		kind = cryptoutils.EncryptedSigstorePrivateKeyPEMType
		der, err = cryptoutils.MarshalPrivateKeyToEncryptedDER(private, k.passphrase)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(private)
	}
	if err != nil {
		return key{}, err
	}
	if err := durable.MkdirAll(k.dir, 0o700); err != nil {
		return key{}, err
	}
	if err := durable.WriteFile(path, cryptoutils.PEMEncode(kind, der), 0o600); err != nil {
		return key{}, err
	}
	return keyOf(private)
}

// read returns the private key in a file.
func (k keyFolder) read(path string) (key, error) {
	out, err := k.readPEM(path, true)
	if errors.Is(err, fs.ErrNotExist) && k.credentials != "" {
		// systemd protects the directory. For a unit with User=, its files have an ACL.
		credential := filepath.Join(k.credentials, filepath.Base(path))
		if out, cerr := k.readPEM(credential, false); !errors.Is(cerr, fs.ErrNotExist) {
			return out, cerr
		}
	}
	return out, err
}

// maxKeyFile bounds a file with a key, in bytes.
const maxKeyFile = 16 << 10

func (k keyFolder) readPEM(path string, private bool) (key, error) {
	fail := func(err error) (key, error) {
		return key{}, errkind.New(errkind.KindOf(err), "cannot use the key %s: %w", path, err).WithHint("%s", errkind.HintOf(err))
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if private && info.Mode().Perm()&0o077 != 0 {
		return fail(errkind.Errorf("others can read it: its mode must be 0600"))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return fail(err)
	}
	parsed, err := k.parse(data)
	if err != nil {
		return fail(err)
	}
	ed, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return fail(errkind.Errorf("it is no ed25519 key"))
	}
	out, err := keyOf(ed)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// parse returns the private key in PEM data. An encrypted one is decrypted once, because that
// is slow on purpose.
func (k keyFolder) parse(data []byte) (crypto.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errkind.Errorf("it is no private key in PEM")
	}
	if !strings.HasPrefix(block.Type, "ENCRYPTED ") {
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if k.passphrase == nil {
		return nil, errkind.New(errkind.NotPermitted, "it is encrypted, and there is no passphrase").WithHint("--passphrase-file names the file that has it")
	}
	sum := digest.Of(data)
	if private := k.decrypted[sum]; private != nil {
		return private, nil
	}
	var failed error // of the passphrase, not of the decryption
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(data, func(confirm bool) (pass []byte, err error) {
		pass, failed = k.passphrase(confirm)
		return pass, failed
	})
	switch {
	case failed != nil:
		return nil, failed
	case err != nil:
		return nil, errkind.New(errkind.NotPermitted, "the passphrase is wrong, or the file is damaged")
	}
	k.decrypted[sum] = private
	return private, nil
}

// open returns a key of a role by the name of its files.
func (k keyFolder) open(ctx context.Context, name string) (key, error) {
	found, err := k.read(k.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		if signer, cerr := k.command(ctx, name); !errors.Is(cerr, fs.ErrNotExist) {
			return signer, cerr
		}
	}
	return found, err
}

// exists reports whether there is a key with this name, which may be damaged.
func (k keyFolder) exists(name string) bool {
	for _, path := range []string{k.path(name), k.commandPath(name)} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// forRole returns as many keys of a role as its signature needs, of those that r names. After
// an interrupted rotation they may still be in files that end in ".new".
func (k keyFolder) forRole(ctx context.Context, role string, r *metadata.Role) ([]key, error) {
	if r == nil {
		r = &metadata.Role{Threshold: 1}
	}
	var found []key
	var first error
	for n := 1; n <= maxKeys; n++ {
		name := stem(role, n)
		for i, open := range []func() (key, error){
			func() (key, error) { return k.open(ctx, name) },
			func() (key, error) { return k.read(k.next(name)) },
		} {
			got, err := open()
			switch {
			case err == nil && slices.Contains(r.KeyIDs, got.id):
				if !slices.ContainsFunc(found, func(f key) bool { return f.id == got.id }) {
					found = append(found, got)
				}
				if len(found) >= r.Threshold {
					return found, nil
				}
			case err == nil:
				err = errkind.New(errkind.Untrusted, "cannot sign %s metadata: the key %s is not the one that the repository's metadata names", role, k.path(name))
			case errors.Is(err, fs.ErrNotExist) && (first != nil || n > 1 || i > 0):
				continue
			}
			if first == nil {
				first = err
			}
		}
	}
	if r.Threshold > 1 {
		return nil, errkind.New(errkind.KindOf(first), "cannot sign %s metadata: it needs %d keys, and %s has %d", role, r.Threshold, k, len(found))
	}
	return nil, first
}
