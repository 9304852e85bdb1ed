package publish

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
)

// maxSecret bounds the files that are searched for private keys, in bytes. A key in a text
// format is much smaller.
const maxSecret = 256 << 10

// secretForms are private keys as text: PEM (RFC 7468, section 10 and 11, and the form that
// OpenSSH and cosign write), OpenPGP armour (RFC 9580, section 6.2), age, minisign and
// signify, PuTTY.
var secretForms = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(?:` +
		`-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\s*$` +
		`|AGE-SECRET-KEY-1[0-9A-Z]{40,}` +
		`|untrusted comment: .*secret key` +
		`|PuTTY-User-Key-File-[0-9]+: )`)
})

// hasSecret reports whether content is, or contains, a private key.
func hasSecret(content []byte) bool {
	return bytes.Contains(content, []byte("PRIVATE KEY")) && secretForms().Match(content) ||
		bytes.Contains(content, []byte("AGE-SECRET-KEY-1")) && secretForms().Match(content) ||
		bytes.HasPrefix(content, []byte("untrusted comment: ")) && secretForms().Match(content) ||
		bytes.HasPrefix(content, []byte("PuTTY-User-Key-File-"))
}

// fileHasSecret reports whether a file of the source has a private key. It reads only files
// that are small enough.
func fileHasSecret(full string) (bool, error) {
	f, size, err := openFile(full)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if size > maxSecret {
		return false, nil
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return hasSecret(content), err
}

// refuseSecrets returns the error about private keys in the source.
func refuseSecrets(src string, secrets []string) error {
	const most = 8
	slices.Sort(secrets)
	shown := secrets
	if len(shown) > most {
		shown = append(slices.Clone(shown[:most]), "…")
	}
	return errkind.New(errkind.Invalid, "cannot publish %s: it has private keys, which everybody could read then: %s", src, strings.Join(shown, ", ")).
		WithHint("move them elsewhere, or list them in %s; --allow-key PATH publishes one that is no secret", IgnoreFile)
}

// holds reports whether a directory is the one with the keys of the repository.
func (k keyFolder) holds(dir string) bool {
	own, err := os.Stat(k.dir)
	if err != nil {
		return false
	}
	fi, err := os.Stat(dir)
	return err == nil && os.SameFile(own, fi)
}
