package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/errkind"
)

// A key that a file must not contain is used through a program: one of a hardware token or of
// a key management service. The program reads the metadata from its standard input and writes
// the signature to its standard output.

const (
	maxSignature = 4 << 10         // bytes
	signTime     = 5 * time.Minute // for a person who has to touch a token
)

func (k keyFolder) commandPath(name string) string { return filepath.Join(k.dir, name+".command") }

// command returns the key that a program signs with. The file with the command has one
// argument in each line. Error fs.ErrNotExist: there is no such file.
func (k keyFolder) command(ctx context.Context, name string) (key, error) {
	path := k.commandPath(name)
	fail := func(err error) (key, error) {
		return key{}, errkind.New(errkind.KindOf(err), "cannot use the key %s: %w", path, err)
	}
	text, mode, err := readSmall(path)
	if err != nil {
		return fail(err)
	}
	if mode.Perm()&0o022 != 0 {
		return fail(errkind.Errorf("others can write it: its mode must be 0600"))
	}
	argv := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if argv[0] == "" {
		return fail(errkind.New(errkind.Invalid, "it names no program"))
	}
	data, _, err := readSmall(filepath.Join(k.dir, name+".pub"))
	if err != nil {
		return fail(errkind.Errorf("its public key is missing: %v", err))
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return fail(errkind.New(errkind.Invalid, "%s.pub is no public key in PEM", name))
	}
	out, err := publicKeyOf(public)
	if err != nil {
		return fail(err)
	}
	out.signer = &commandSigner{ctx: ctx, argv: argv, public: public}
	return out, nil
}

// readSmall reads a file that is not larger than one of a key.
func readSmall(path string) ([]byte, os.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return data, info.Mode(), err
}

// publicKeyOf returns a key that cannot sign.
func publicKeyOf(public crypto.PublicKey) (key, error) {
	if ec, ok := public.(*ecdsa.PublicKey); ok && ec.Curve != elliptic.P256() {
		public = nil
	}
	switch public.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey:
	default:
		return key{}, errkind.New(errkind.Invalid, "the public key is neither of Ed25519 nor of ECDSA with P-256")
	}
	out, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return key{}, err
	}
	id, err := out.ID()
	return key{public: out, id: id}, err
}

// commandSigner signs by a program.
type commandSigner struct {
	ctx    context.Context // of the operation that opened the key
	argv   []string
	public crypto.PublicKey
}

// PublicKey implements signature.Signer.
func (s *commandSigner) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.public, nil
}

// SignMessage implements signature.Signer. It verifies the signature: a program that signs
// with another key must not publish metadata that every machine refuses.
func (s *commandSigner) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	payload, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, signTime)
	defer cancel()
	out, complaint := &bounded{most: maxSignature}, &bounded{most: maxSignature}
	cmd := exec.CommandContext(ctx, s.argv[0], s.argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), out, complaint
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(complaint.String())
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, errkind.New(errkind.KindOf(err), "cannot sign by %s: %w: %s", s.argv[0], err, text[strings.LastIndexByte(text, '\n')+1:])
	}
	hash := crypto.SHA256
	if _, ok := s.public.(ed25519.PublicKey); ok {
		hash = 0
	}
	verifier, err := signature.LoadVerifier(s.public, hash)
	if err == nil {
		err = verifier.VerifySignature(bytes.NewReader(out.Bytes()), bytes.NewReader(payload))
	}
	if err != nil {
		return nil, errkind.New(errkind.Untrusted, "cannot sign by %s: its output is no signature of its public key", s.argv[0])
	}
	return out.Bytes(), nil
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if free := b.most - b.Len(); free > 0 {
		b.Buffer.Write(p[:min(free, len(p))])
	}
	return len(p), nil
}

// signWith adds the signatures of keys to metadata. go-tuf does not return the error of a
// signer.
func signWith[T metadata.Roles](m *metadata.Metadata[T], keys []key) error {
	for _, k := range keys {
		last := &lastError{Signer: k.signer}
		if _, err := m.Sign(last); err != nil {
			return errors.Join(last.err, err)
		}
	}
	return nil
}

// lastError keeps the error of a signer.
type lastError struct {
	signature.Signer
	err error
}

func (l *lastError) SignMessage(message io.Reader, o ...signature.SignOption) (sig []byte, err error) {
	sig, l.err = l.Signer.SignMessage(message, o...)
	return sig, l.err
}
