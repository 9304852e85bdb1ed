package repo

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Urgency is the priority of a package's delivery to users.
type Urgency string

// The urgencies, rising.
const (
	UrgencyLow      Urgency = "low"
	UrgencyMedium   Urgency = "medium"
	UrgencyHigh     Urgency = "high"
	UrgencySecurity Urgency = "security"
)

// Urgencies are all of them, rising.
var Urgencies = []Urgency{UrgencyLow, UrgencyMedium, UrgencyHigh, UrgencySecurity}

// The bounds of a pointer.
const (
	MaxPointerSize = 64 << 10
	MaxNotes       = 16 << 10
	maxVersion     = 128
)

// Pointer is the offer of a channel.
type Pointer struct {
	Name      string        `json:"name"`
	Channel   string        `json:"channel"`
	Package   digest.Digest `json:"package"`
	Version   string        `json:"version"`
	Urgency   Urgency       `json:"urgency"`
	Published time.Time     `json:"published"` // UTC, whole seconds
	Size      int64         `json:"size"`      // bytes of all package blobs, each counted once, uncompressed
	Notes     string        `json:"notes,omitempty"`
	Rollout   Rollout       `json:"rollout"`
}

// Rollout limits the machines that are offered a package.
type Rollout struct {
	Percent int `json:"percent"` // of the machines, 0 to 100
}

// Offers reports whether the pointer alone, as earlier versions of lull read it, is for a
// machine; see Offer.Reaches.
func (p *Pointer) Offers(machine string) bool { return within(machine, p.Package, p.Rollout.Percent) }

// ValidChannel returns an error if s cannot be a channel. Channels are spelt like names.
func ValidChannel(s string) error {
	if manifest.ValidLabel(s) != nil {
		return errkind.New(errkind.Invalid, "cannot use %.80q as a channel: want a-z, 0-9, '.' and '-'", s)
	}
	return nil
}

// PointerPath returns the TUF target of a channel.
func PointerPath(name, channel string) string {
	return "channels/" + name + "/" + channel + ".json"
}

// SplitPointerPath splits the TUF target of a channel; ok is false for others.
func SplitPointerPath(path string) (name, channel string, ok bool) {
	parts := strings.Split(path, "/")
	if len(parts) != 3 || parts[0] != "channels" {
		return "", "", false
	}
	channel, ok = strings.CutSuffix(parts[2], ".json")
	return parts[1], channel, ok && manifest.ValidName(parts[1]) == nil && ValidChannel(channel) == nil
}

// Validate returns an error if a pointer is invalid.
func (p *Pointer) Validate() error {
	bad := func(format string, args ...any) error {
		return errkind.New(errkind.Invalid, "cannot use the pointer: "+format, args...)
	}
	if err := manifest.ValidName(p.Name); err != nil {
		return err
	}
	if err := ValidChannel(p.Channel); err != nil {
		return err
	}
	switch {
	case p.Package.IsZero():
		return bad("it names no package")
	case !line(p.Version, maxVersion):
		return bad("%.80q is no version", p.Version)
	case !known(p.Urgency):
		return bad("the urgency %.40q is unknown", p.Urgency)
	case p.Published.IsZero() || p.Published.Location() != time.UTC || p.Published.Nanosecond() != 0 || p.Published.Year() < 1970 || p.Published.Year() > 9999:
		return bad("the time of publication is not in UTC and whole seconds")
	case p.Size < 0:
		return bad("the size %d is negative", p.Size)
	case len(p.Notes) > MaxNotes || !text(p.Notes):
		return bad("the notes are too long or not plain text")
	case p.Rollout.Percent < 0 || p.Rollout.Percent > 100:
		return bad("a rollout of %d percent makes no sense", p.Rollout.Percent)
	}
	return nil
}

func known(u Urgency) bool {
	for _, k := range Urgencies {
		if u == k {
			return true
		}
	}
	return false
}

// line reports whether s is a short single line.
func line(s string, most int) bool {
	if s == "" || len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// text reports whether s can be shown to users.
func text(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || r != '\n' && r != '\t' && unicode.IsControl(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// Encode returns the one accepted form of a valid pointer.
func (p *Pointer) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ParsePointer reads the output of Encode only: no unknown or repeated key, and no data after
// the end.
func ParsePointer(data []byte) (*Pointer, error) {
	if len(data) > MaxPointerSize {
		return nil, errkind.New(errkind.Invalid, "cannot use the pointer: %d bytes are too many", len(data))
	}
	p := new(Pointer)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(p); err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use the pointer: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errkind.New(errkind.Invalid, "cannot use the pointer: something follows it")
	}
	again, err := p.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, errkind.New(errkind.Invalid, "cannot use the pointer: it is not in canonical form")
	}
	return p, nil
}
