package publish

import (
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// Common are the options that all operations share. The zero value is valid.
type Common struct {
	Keys    string // directory of the keys; default: the repository's path and ".keys"
	Expires Expiry
	Now     time.Time // default: the time
	Storage Storage   // default: the directory that the repository's address names

	// Passphrase returns the passphrase of the keys; its argument is true for a new one.
	// Nil means that there is none.
	Passphrase cryptoutils.PassFunc
	// Encrypt makes new keys encrypted with the passphrase.
	Encrypt bool
	// Credentials is a directory with private keys that Keys lacks, such as that of the
	// credentials of a systemd unit. "" means none.
	Credentials string
}

func (c Common) open(dir string) (Storage, keyFolder, time.Time, error) {
	now := c.Now
	if now.IsZero() {
		now = time.Now()
	}
	now = now.UTC().Truncate(time.Second)
	keys := c.keyFolder()
	if c.Storage == nil {
		var err error
		keys.dir, err = keysOf(dir, c.Keys)
		return newDirectory(dir), keys, now, err
	}
	if c.Keys == "" {
		return nil, keys, now, errkind.New(errkind.Usage, "cannot use the repository %s: no directory of its keys is named", dir)
	}
	return c.Storage, keys, now, nil
}

func (c Common) keyFolder() keyFolder {
	return keyFolder{
		dir: c.Keys, credentials: c.Credentials, passphrase: c.Passphrase, encrypt: c.Encrypt,
		decrypted: map[digest.Digest]crypto.PrivateKey{},
	}
}

// maxLost bounds how often an operation starts again because other publishers were faster.
const maxLost = 100

// transact runs do on the verified state of a repository, while its lock is held. In shared
// storage another publisher may be faster. Then do runs again, on the other one's state.
func (c Common) transact(ctx context.Context, dir string, rebuild bool, do func(*state) error) error {
	store, keys, now, err := c.open(dir)
	if err != nil {
		return err
	}
	release, err := store.Lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	for range maxLost {
		s, err := load(ctx, store, dir, keys, c.Expires, now, rebuild)
		if err == nil {
			if err = do(s); err != nil {
				store.Discard()
			}
		}
		if !errors.Is(err, errLost) {
			return err
		}
	}
	return errkind.New(errkind.Busy, "cannot change the repository %s: other publishers were faster %d times", dir, maxLost)
}
