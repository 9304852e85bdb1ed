// Package digest names content: a Digest is the SHA-256 of some bytes, written
// as 64 lower-case hexadecimal digits, the only spelling that is accepted.
package digest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// ShortLen is the number of hexadecimal digits that name a package where space
// is short: in cgroup names and in tables. 64 bits.
const ShortLen = 16

// Digest is a SHA-256 sum. The zero value names nothing.
type Digest [Size]byte

// Parse reads the 64 lower-case hexadecimal digits of a digest.
func Parse(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(Size) || !IsHex(s) {
		return d, fmt.Errorf("cannot use %.80q as a hash: want %d lower-case hexadecimal digits", s, hex.EncodedLen(Size))
	}
	for i := range d {
		d[i] = values[s[2*i]]<<4 | values[s[2*i+1]]
	}
	return d, nil
}

// noDigit is the value of what is no digit.
const noDigit = 0x80

// values are those of hexadecimal digits: a meta has one hash per file.
var values = func() (table [256]byte) {
	for c := range table {
		table[c] = noDigit
		if i := strings.IndexByte("0123456789abcdef", byte(c)); i >= 0 {
			table[c] = byte(i)
		}
	}
	return table
}()

// IsHex reports whether s consists of lower-case hexadecimal digits only.
func IsHex(s string) bool {
	for i := range len(s) {
		if values[s[i]] == noDigit {
			return false
		}
	}
	return s != ""
}

// Of names the bytes b.
func Of(b []byte) Digest { return sha256.Sum256(b) }

// New returns a hash whose sum From turns into a Digest.
func New() hash.Hash { return sha256.New() }

// From returns what h has summed up.
func From(h hash.Hash) (d Digest) {
	h.Sum(d[:0])
	return d
}

// Read hashes the content of r and counts its bytes.
func Read(r io.Reader) (Digest, int64, error) {
	h := New()
	n, err := io.Copy(h, r)
	return From(h), n, err
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first ShortLen digits.
func (d Digest) Short() string { return d.String()[:ShortLen] }

// IsZero reports whether d is the zero value.
func (d Digest) IsZero() bool { return d == Digest{} }

// Compare orders digests as their spellings are ordered.
func (d Digest) Compare(e Digest) int { return bytes.Compare(d[:], e[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err == nil {
		*d = v
	}
	return err
}
