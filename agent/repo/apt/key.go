package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/lull/lull/agent/lib/errkind"
)

// The bounds of data that is read before it is verified.
const (
	MaxKeys       = 1 << 20 // bytes of a file with keys
	maxKeyCount   = 64
	maxRelease    = 4 << 20 // bytes of an InRelease file
	maxSignatures = 64
)

// keyBegins begins a key in the armoured form.
const keyBegins = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// guard calls f. A panic of a parser is an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	return f()
}

// ReadKeys reads a file with public keys, armoured or not. Kind Invalid: it has none.
func ReadKeys(data []byte) (keys openpgp.EntityList, err error) {
	if len(data) > MaxKeys {
		return nil, errkind.New(errkind.Invalid, "cannot use the signing key: it has more than %d bytes", MaxKeys)
	}
	err = guard(func() error {
		if !bytes.Contains(data, []byte(keyBegins)) {
			keys, err = openpgp.ReadKeyRing(bytes.NewReader(data))
			return err
		}
		for _, block := range strings.Split(string(data), keyBegins)[1:] {
			more, err := openpgp.ReadArmoredKeyRing(strings.NewReader(keyBegins + block))
			if err != nil {
				return err
			}
			keys = append(keys, more...)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, errkind.New(errkind.Invalid, "cannot use the signing key: it is no OpenPGP public key: %w", err)
	case len(keys) == 0:
		return nil, errkind.New(errkind.Invalid, "cannot use the signing key: the file has none")
	case len(keys) > maxKeyCount:
		return nil, errkind.New(errkind.Invalid, "cannot use the signing key: the file has more than %d", maxKeyCount)
	}
	for _, k := range keys {
		if k.PrivateKey != nil {
			return nil, errkind.New(errkind.Invalid, "cannot use the signing key: the file has a private key")
		}
	}
	return keys, nil
}

func fingerprints(keys openpgp.EntityList) string {
	var list []string
	for _, k := range keys {
		list = append(list, fmt.Sprintf("%X", k.PrimaryKey.Fingerprint))
	}
	return strings.Join(list, ", ")
}

// verify returns the signed text of an InRelease file. One good signature of a known key
// suffices, as during the rotation of a key. The error has no kind.
func verify(inRelease []byte, keys openpgp.EntityList, now time.Time) (signed []byte, err error) {
	err = guard(func() error {
		// Text around the signed message is not signed.
		if !bytes.HasPrefix(inRelease, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
			return errors.New("it is not signed")
		}
		block, rest := clearsign.Decode(inRelease)
		if block == nil || block.ArmoredSignature == nil || block.ArmoredSignature.Type != openpgp.SignatureType {
			return errors.New("its signature is damaged")
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			return errors.New("something follows its signature")
		}
		if err := verifyOne(block.Bytes, block.ArmoredSignature.Body, keys, now); err != nil {
			return err
		}
		signed = block.Plaintext
		return nil
	})
	return signed, err
}

// signatureBegins begins signatures in the armoured form.
const signatureBegins = "-----BEGIN PGP SIGNATURE-----"

// verifyDetached checks the signatures of a Release file, which are in a file of their own,
// armoured or not. As in verify, one good signature suffices. The error has no kind.
func verifyDetached(text, signatures []byte, keys openpgp.EntityList, now time.Time) error {
	return guard(func() error {
		if !bytes.Contains(signatures, []byte(signatureBegins)) {
			return verifyOne(text, bytes.NewReader(signatures), keys, now)
		}
		var failed error
		for n, part := range strings.Split(string(signatures), signatureBegins)[1:] {
			block, err := armor.Decode(strings.NewReader(signatureBegins + part))
			if err != nil || block.Type != openpgp.SignatureType || n == maxSignatures {
				return errors.New("its signature is damaged")
			}
			if failed = verifyOne(text, block.Body, keys, now); failed == nil {
				return nil
			}
		}
		return failed
	})
}

// verifyOne checks the signatures one by one.
func verifyOne(text []byte, signatures io.Reader, keys openpgp.EntityList, now time.Time) error {
	config := &packet.Config{Time: func() time.Time { return now }}
	packets := packet.NewReader(signatures)
	var failed error
	var unknown []string
	for n := 0; ; n++ {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("its signature is damaged: %w", err)
		}
		sig, ok := p.(*packet.Signature)
		if !ok || sig.IssuerKeyId == nil || n == maxSignatures {
			return errors.New("its signature is damaged")
		}
		var one bytes.Buffer
		if err := sig.Serialize(&one); err != nil {
			return fmt.Errorf("its signature is damaged: %w", err)
		}
		id := fmt.Sprintf("%016X", *sig.IssuerKeyId)
		_, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(text), &one, config)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, pgperrors.ErrUnknownIssuer):
			if !slices.Contains(unknown, id) {
				unknown = append(unknown, id)
			}
		case errors.Is(err, pgperrors.ErrKeyExpired):
			failed = fmt.Errorf("the key %s has expired", id)
		case errors.Is(err, pgperrors.ErrKeyRevoked):
			failed = fmt.Errorf("the key %s is revoked", id)
		case errors.Is(err, pgperrors.ErrSignatureExpired):
			failed = fmt.Errorf("its signature by the key %s has expired", id)
		default:
			failed = fmt.Errorf("its signature by the key %s is wrong: %w", id, err)
		}
	}
	switch {
	case failed != nil:
		return failed
	case len(unknown) > 0:
		return fmt.Errorf("it is signed by the key %s, and only %s is trusted", strings.Join(unknown, " and "), fingerprints(keys))
	}
	return errors.New("it is not signed")
}
