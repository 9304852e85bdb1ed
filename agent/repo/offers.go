package repo

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// The bounds of a channel's offers.
const (
	MaxOffers     = 8
	MaxOffersSize = 128 << 10
	MaxSteps      = 16
	MaxReason     = 1 << 10
	MaxSummary    = 200
	maxAfter      = 10 * 365 * 24 * time.Hour
	offersFormat  = 1
)

// Offers are the versions that a channel offers, the newest first. A machine takes the first
// one that reaches it, so that machines outside of a rollout keep the version before.
type Offers []Offer

// Offer is one of the versions of a channel, with the machines that get it, and when. Each
// machine computes that from signed times, so that nothing is re-signed while a rollout
// continues.
type Offer struct {
	Pointer
	// Start is the beginning of a rollout by time, in UTC and whole seconds. Zero means
	// that Rollout.Percent applies at any time.
	Start time.Time `json:"start,omitzero"`
	// Steps are the rollout, rising in both values. None applies before the first one.
	Steps []Step `json:"steps,omitempty"`
	// Halted is set while no further machine gets the version.
	Halted *Halt `json:"halted,omitempty"`
	// NeedsLull is the least version of lull that can use the package; "" means any.
	NeedsLull string `json:"needs-lull,omitempty"`
	// Summary describes the package in a line of at most MaxSummary bytes. It is in the
	// target's custom data, so that a search needs no file of the channel.
	Summary string `json:"-"`
	// Deltas are packs that make the package from older ones, at most delta.MaxOffers.
	Deltas []delta.Offer `json:"deltas,omitempty"`
}

// Step is a share of the machines, and the time from which it applies.
type Step struct {
	Percent int   `json:"percent"` // of the machines, 0 to 100
	After   int64 `json:"after"`   // seconds since Offer.Start
}

// Halt is the end of a rollout before all machines have the version.
type Halt struct {
	At     time.Time `json:"at"`               // UTC, whole seconds
	Reason string    `json:"reason,omitempty"` // at most MaxReason bytes
}

// Percent returns the share of the machines that the offer reaches at a time.
func (o *Offer) Percent(at time.Time) int {
	switch {
	case o.Halted != nil:
		return 0
	case len(o.Steps) == 0:
		return o.Rollout.Percent
	}
	percent := 0
	for _, s := range o.Steps {
		if !at.Before(o.Start.Add(time.Duration(s.After) * time.Second)) {
			percent = s.Percent
		}
	}
	return percent
}

// Reaches reports whether the offer is for a machine at a time. The machine is identified by
// any constant string, such as its machine-id. It remains included at every greater share.
// Each package selects different machines first.
func (o *Offer) Reaches(machine string, at time.Time) bool {
	return within(machine, o.Package, o.Percent(at))
}

func within(machine string, pkg digest.Digest, percent int) bool {
	switch {
	case percent >= 100:
		return true
	case percent <= 0:
		return false
	}
	d := digest.Of([]byte(machine + "\x00" + pkg.String()))
	// 64 evenly distributed bits against a hundredth of their range each.
	return binary.BigEndian.Uint64(d[:8])/(math.MaxUint64/100+1) < uint64(percent)
}

// offersFile is the file of a channel's offers.
type offersFile struct {
	Format int    `json:"format"`
	Offers Offers `json:"offers"`
	// All replaces Offers for readers that know Offer.NeedsLull. Earlier ones do not see the
	// versions that need a later lull.
	All Offers `json:"all,omitempty"`
}

// ForAnyLull returns the offers that need no certain lull, or all if each of them does.
func (list Offers) ForAnyLull() Offers {
	some := slices.DeleteFunc(slices.Clone(list), func(o Offer) bool { return o.NeedsLull != "" })
	if len(some) == 0 {
		return list
	}
	return some
}

// Encode returns the file of valid offers.
func (list Offers) Encode() ([]byte, error) {
	if err := list.validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	f := offersFile{Format: offersFormat, Offers: list.ForAnyLull()}
	if len(f.Offers) < len(list) {
		f.All = list
	}
	if err := enc.Encode(f); err != nil {
		return nil, err
	}
	if b.Len() > MaxOffersSize {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: %d bytes are too many", b.Len())
	}
	return b.Bytes(), nil
}

// ParseOffers reads the file of a channel's offers. Unlike a pointer it may have unknown
// keys, so that later versions can add some that older ones may ignore.
func ParseOffers(data []byte) (Offers, error) {
	if len(data) > MaxOffersSize {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: %d bytes are too many", len(data))
	}
	var f offersFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: %w", err)
	}
	if f.Format != offersFormat {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: format %d is not supported", f.Format).
			WithHint("a newer version of lull may support it")
	}
	if f.All != nil {
		f.Offers = f.All
	}
	return f.Offers, f.Offers.validate()
}

func (list Offers) validate() error {
	if len(list) == 0 || len(list) > MaxOffers {
		return errkind.New(errkind.Invalid, "cannot use the offers: %d versions are offered, want 1 to %d", len(list), MaxOffers)
	}
	for i := range list {
		o := &list[i]
		if err := o.Validate(); err != nil {
			return err
		}
		if o.Name != list[0].Name || o.Channel != list[0].Channel {
			return errkind.New(errkind.Invalid, "cannot use the offers: they are for channel %q of %s and channel %q of %s",
				list[0].Channel, list[0].Name, o.Channel, o.Name)
		}
		if err := validSteps(o.Start, o.Steps); err != nil {
			return err
		}
		if h := o.Halted; h != nil && (!wholeSeconds(h.At) || len(h.Reason) > MaxReason || !text(h.Reason)) {
			return errkind.New(errkind.Invalid, "cannot use the offers: the halt of version %q has no valid time or reason", o.Version)
		}
		if err := manifest.ValidNeeds(o.NeedsLull); err != nil {
			return errkind.New(errkind.Invalid, "cannot use the offers: version %q: %w", o.Version, err)
		}
		if len(o.Deltas) > delta.MaxOffers {
			return errkind.New(errkind.Invalid, "cannot use the offers: version %q has %d deltas", o.Version, len(o.Deltas))
		}
		for _, d := range o.Deltas {
			if err := d.Validate(); err != nil {
				return errkind.New(errkind.Invalid, "cannot use the offers: version %q: %w", o.Version, err)
			}
		}
	}
	return nil
}

func validSteps(start time.Time, steps []Step) error {
	bad := func(format string, args ...any) error {
		return errkind.New(errkind.Invalid, "cannot use the rollout: "+format, args...)
	}
	if len(steps) == 0 {
		return nil
	}
	if len(steps) > MaxSteps {
		return bad("%d steps are too many", len(steps))
	}
	if !wholeSeconds(start) {
		return bad("its start is not in UTC and whole seconds")
	}
	for i, s := range steps {
		switch {
		case s.Percent < 0 || s.Percent > 100:
			return bad("%d percent is not between 0 and 100", s.Percent)
		case s.After < 0 || s.After > int64(maxAfter/time.Second):
			return bad("%d s after its start is not between 0 and ten years", s.After)
		case i > 0 && (s.Percent <= steps[i-1].Percent || s.After <= steps[i-1].After):
			return bad("%d%% after %v follows %d%% after %v: both have to rise", s.Percent, time.Duration(s.After)*time.Second,
				steps[i-1].Percent, time.Duration(steps[i-1].After)*time.Second)
		}
	}
	return nil
}

func wholeSeconds(t time.Time) bool {
	return !t.IsZero() && t.Location() == time.UTC && t.Nanosecond() == 0 && t.Year() >= 1970 && t.Year() <= 9999
}

var stepPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(\d{1,3})%@(\d{1,6})([smhdw]?)$`) })

// ParseSteps reads a rollout by time: "1%@0h,10%@6h,100%@2d". A time of 0 needs no unit.
func ParseSteps(s string) ([]Step, error) {
	units := map[string]int64{"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
	var steps []Step
	for _, part := range strings.Split(s, ",") {
		m := stepPattern().FindStringSubmatch(strings.TrimSpace(part))
		if m == nil || m[3] == "" && strings.Trim(m[2], "0") != "" {
			return nil, errkind.New(errkind.Usage, "cannot understand the rollout %.200q", s).WithHint("use a percentage, or steps such as 1%%@0h,10%%@6h,100%%@2d")
		}
		percent, _ := strconv.Atoi(m[1])
		n, _ := strconv.ParseInt(m[2], 10, 64)
		steps = append(steps, Step{percent, n * max(1, units[m[3]])})
	}
	if err := validSteps(time.Unix(0, 0).UTC(), steps); err != nil {
		return nil, errkind.New(errkind.Usage, "%w", err)
	}
	return steps, nil
}

// FormatSteps is the inverse of ParseSteps.
func FormatSteps(steps []Step) string {
	var parts []string
	for _, s := range steps {
		n, unit := s.After, "s"
		for _, u := range []struct {
			name string
			size int64
		}{{"d", 86400}, {"h", 3600}, {"m", 60}} {
			if s.After%u.size == 0 && (s.After > 0 || u.name == "h") {
				n, unit = s.After/u.size, u.name
				break
			}
		}
		parts = append(parts, fmt.Sprintf("%d%%@%d%s", s.Percent, n, unit))
	}
	return strings.Join(parts, ",")
}

// OffersPath returns the path of a channel's offers in a repository.
func OffersPath(name, channel string, sum digest.Digest) string {
	return "channels/" + name + "/" + sum.String() + "." + channel + ".offers.json"
}

// customTarget is the part of the custom data of a pointer's TUF target that this package
// reads. Versions of lull that do not read it use the pointer.
type customTarget struct {
	Offers  *OffersFile `json:"lull-offers,omitempty"`
	Summary string      `json:"lull-summary,omitempty"` // of the newest offer, a single line of at most MaxSummary bytes
}

// OffersFile names the file of a channel's offers.
type OffersFile struct {
	SHA256 digest.Digest `json:"sha256"`
	Length int64         `json:"length"` // bytes
}

// CustomOf returns the custom data of a target with a summary whose offers are in a file. Nil
// means that the pointer is the only offer. Without both there is no custom data.
func CustomOf(f *OffersFile, summary string) (*json.RawMessage, error) {
	if f == nil && summary == "" {
		return nil, nil
	}
	data, err := json.Marshal(customTarget{f, summary})
	raw := json.RawMessage(data)
	return &raw, err
}

// SummaryOf returns the summary in the custom data of a target, or "" if it has none that can
// be shown.
func SummaryOf(custom *json.RawMessage) string {
	var c customTarget
	if custom == nil || json.Unmarshal(*custom, &c) != nil || !line(c.Summary, MaxSummary) {
		return ""
	}
	return c.Summary
}

// OffersOf returns the file that the custom data of a target names. Nil means that the
// pointer is the only offer.
func OffersOf(custom *json.RawMessage) (*OffersFile, error) {
	if custom == nil {
		return nil, nil
	}
	var c customTarget
	if err := json.Unmarshal(*custom, &c); err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: %w", err)
	}
	if f := c.Offers; f != nil && (f.SHA256.IsZero() || f.Length < 0 || f.Length > MaxOffersSize) {
		return nil, errkind.New(errkind.Invalid, "cannot use the offers: their file has no valid hash or length")
	}
	return c.Offers, nil
}
