package strictyaml

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time, written as one or more whole numbers with a unit,
// largest first: 2w, 14d, 8h, 90m, 30s, 250ms, 1d12h. A day has 24 hours. A
// bare 0 needs no unit; there are no negative spans.
type Duration time.Duration

var units = []struct {
	name string
	span time.Duration
}{
	{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour},
	{"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

var errDuration = errors.New("want a duration such as 14d, 8h or 90m")

// ParseDuration reads the spelling that Duration describes.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	var total time.Duration
	next := 0 // the largest unit that may still follow
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		letters := len(rest[digits:]) - len(strings.TrimLeft(rest[digits:], "abcdefghijklmnopqrstuvwxyz"))
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if errors.Is(err, strconv.ErrRange) {
			return 0, errors.New("the duration is too long")
		}
		if err != nil {
			return 0, errDuration
		}
		i := next
		for i < len(units) && units[i].name != rest[digits:digits+letters] {
			i++
		}
		if i == len(units) {
			return 0, errDuration
		}
		if n > int64((math.MaxInt64-total)/units[i].span) {
			return 0, errors.New("the duration is too long")
		}
		total += time.Duration(n) * units[i].span
		next, rest = i+1, rest[digits+letters:]
	}
	if s == "" {
		return 0, errDuration
	}
	return total, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	if err == nil {
		*d = Duration(v)
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Want describes the spelling.
func (Duration) Want() string { return "a duration such as 14d, 8h or 90m" }

// String writes d so that ParseDuration reads it back, to the millisecond.
func (d Duration) String() string {
	rest := time.Duration(d)
	if rest <= 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range units[1:] { // weeks are only for reading
		if n := rest / u.span; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			rest -= n * u.span
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// Size is an amount of bytes: a whole number, with one of the units KiB, MiB,
// GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000), or B or none.
type Size int64

var sizeUnits = []struct {
	name string
	size int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// ParseSize reads the spelling that Size describes.
func ParseSize(s string) (int64, error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	unit := strings.TrimPrefix(s[digits:], " ")
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("the size is too large")
	}
	for _, u := range sizeUnits {
		if err != nil || u.name != unit {
			continue
		}
		if n > math.MaxInt64/u.size {
			return 0, errors.New("the size is too large")
		}
		return n * u.size, nil
	}
	return 0, errors.New("want " + Size(0).Want())
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	v, err := ParseSize(string(b))
	if err == nil {
		*s = Size(v)
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Want describes the spelling.
func (Size) Want() string { return "a size such as 64MiB or 2GB" }

// String writes s exactly, in the unit that needs the fewest digits: 64MB, 2GiB.
func (s Size) String() string {
	n, unit := strconv.FormatInt(int64(s), 10), "B"
	for _, u := range sizeUnits {
		if s == 0 || int64(s)%u.size != 0 {
			continue
		}
		if shorter := strconv.FormatInt(int64(s)/u.size, 10); len(shorter) < len(n) {
			n, unit = shorter, u.name
		}
	}
	return n + unit
}
