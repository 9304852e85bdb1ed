package policy

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/bits"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/policy/strictyaml"
)

// The bounds of what can be set.
const (
	MaxPostponement  = 366 * 24 * time.Hour
	MaxKeepRevisions = 20
	MinCheck         = 5 * time.Minute
	MaxCheck         = 31 * 24 * time.Hour
	MinFailureNotice = time.Hour
	MaxFailureNotice = 366 * 24 * time.Hour
	MaxReminders     = 10
	MaxWindows       = 20
	MaxHookTimeLimit = time.Hour
	MaxUserHold      = MaxPostponement
	MaxReserve       = 1 << 40
	MaxKeepRecent    = 31 * 24 * time.Hour
	// With less than MinBandwidth, servers would end transfers that make too little progress.
	MinBandwidth = 10_000        // bytes per second
	MaxBandwidth = 1_000_000_000 // bytes per second
	// Smaller downloads are over before a notice is read.
	MinDownloadNotice = 1_000_000         // bytes
	MaxDownloadNotice = 1_000_000_000_000 // bytes
	MaxNoProxy        = 100
)

// file is one policy file. A nil pointer is a key that the file does not set.
type file struct {
	Defaults settings            `yaml:"defaults"`
	Packages map[string]settings `yaml:"packages"`
	Schedule schedule            `yaml:"schedule"`
	Network  network             `yaml:"network"`
	GC       gc                  `yaml:"gc"`
	Inhibit  inhibit             `yaml:"inhibit"`
	Metrics  metrics             `yaml:"metrics"`
}

type settings struct {
	Mode             *Mode                `yaml:"mode"`
	RefreshPending   *Pending             `yaml:"refresh-pending-behavior"`
	RefreshAwareness *bool                `yaml:"refresh-awareness"`
	MaxPostponement  *strictyaml.Duration `yaml:"max-postponement"`
	AtDeadline       *Deadline            `yaml:"at-deadline"`
	KeepRevisions    *int                 `yaml:"keep-revisions"`
	AllowUntracked   *bool                `yaml:"allow-untracked"`
	AutoRefresh      *bool                `yaml:"auto-refresh"`
	HookTimeLimit    *strictyaml.Duration `yaml:"hook-time-limit"`
	UserHold         *strictyaml.Duration `yaml:"user-hold"`
	UserHoldSecurity *bool                `yaml:"user-hold-security"`
	FetchRequires    Conditions           `yaml:"fetch-requires"`
	RefreshRequires  Conditions           `yaml:"refresh-requires"`
	SecurityRequires *bool                `yaml:"security-requires"`
	PackageWishes    *bool                `yaml:"package-wishes"`

	RestartBackground *bool `yaml:"restart-background"`

	// OldRefreshPending is RefreshPending under its former name. Unalias clears it.
	OldRefreshPending *Pending `yaml:"refresh-pending"`
}

type schedule struct {
	Check     *strictyaml.Duration  `yaml:"check"`
	Failures  *strictyaml.Duration  `yaml:"failure-notice"`
	Reminders []strictyaml.Duration `yaml:"reminders"`
	Windows   Windows               `yaml:"windows"`
}

type network struct {
	Bandwidth *strictyaml.Size `yaml:"bandwidth"`
	Windows   Windows          `yaml:"bandwidth-windows"`
	Requests  *bool            `yaml:"bandwidth-requests"`
	Notice    *strictyaml.Size `yaml:"download-notice"`
	Proxy     *string          `yaml:"proxy"`
	NoProxy   []string         `yaml:"no-proxy"`
}

// proxySchemes are the schemes of proxies.
var proxySchemes = []string{"http", "https", "socks5"}

type gc struct {
	Watermark    *Watermark           `yaml:"watermark"`
	Reserve      *strictyaml.Size     `yaml:"reserve"`
	AfterRefresh *bool                `yaml:"after-refresh"`
	KeepRecent   *strictyaml.Duration `yaml:"keep-recent"`
}

type inhibit struct {
	Block *bool `yaml:"block"`
}

type metrics struct {
	Textfile *string `yaml:"textfile"`
}

// all yields the keys and values of s as they are written in a file.
func (s settings) all() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		v := reflect.ValueOf(s)
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsNil() && !yield(v.Type().Field(i).Tag.Get("yaml"), fmt.Sprint(reflect.Indirect(f))) {
				return
			}
		}
	}
}

// unset clears a key.
func (s *settings) unset(key string) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			v.Field(i).SetZero()
		}
	}
}

// overlay copies what over sets, a pointer or a list in each field, into base
// and calls set with the key of each.
func overlay[T any](base *T, over T, set func(key string)) {
	b, o := reflect.ValueOf(base).Elem(), reflect.ValueOf(over)
	for i := range o.NumField() {
		if o.Field(i).IsNil() {
			continue
		}
		b.Field(i).Set(o.Field(i))
		if set != nil {
			set(o.Type().Field(i).Tag.Get("yaml"))
		}
	}
}

// The name of a key, and the one that it had before.
const (
	pendingKey    = "refresh-pending-behavior"
	oldPendingKey = "refresh-pending"
)

// unalias gives what is set under a former name its present one. It calls old for each,
// with the section.
func (f *file) unalias(d *strictyaml.Document, old func(section string)) (bad strictyaml.Errors) {
	one := func(section string, s *settings) {
		if s.OldRefreshPending == nil {
			return
		}
		if s.RefreshPending != nil {
			bad = append(bad, d.Errorf(section+"."+oldPendingKey, "cannot use %s.%s: it is the former name of %s, which is set, too", section, oldPendingKey, pendingKey))
			return
		}
		s.RefreshPending, s.OldRefreshPending = s.OldRefreshPending, nil
		old(section)
	}
	one("defaults", &f.Defaults)
	for _, name := range slices.Sorted(maps.Keys(f.Packages)) {
		s := f.Packages[name]
		one("packages."+name, &s)
		f.Packages[name] = s
	}
	return bad
}

// sections names the entries under "packages" that apply to an instance, the
// strongest last.
func sections(instance string) []string {
	if name, _, ok := strings.Cut(instance, "_"); ok {
		return []string{name, instance}
	}
	return []string{instance}
}

// validate finds what has the right shape and makes no sense.
func (f *file) validate(d *strictyaml.Document) (bad strictyaml.Errors) {
	fail := func(path, format string, args ...any) {
		bad = append(bad, d.Errorf(path, format, args...))
	}
	span := func(path string, v *strictyaml.Duration, least, most time.Duration) {
		if v != nil && (time.Duration(*v) < least || time.Duration(*v) > most) {
			fail(path, "cannot use %s as %s: want %s to %s", v, path, strictyaml.Duration(least), strictyaml.Duration(most))
		}
	}
	check := func(path string, s settings) {
		span(path+".max-postponement", s.MaxPostponement, 0, MaxPostponement)
		span(path+".user-hold", s.UserHold, 0, MaxUserHold)
		span(path+".hook-time-limit", s.HookTimeLimit, time.Second, MaxHookTimeLimit)
		if n := s.KeepRevisions; n != nil && (*n < 1 || *n > MaxKeepRevisions) {
			fail(path+".keep-revisions", "cannot use %d as %s.keep-revisions: want 1 to %d", *n, path, MaxKeepRevisions)
		}
		s.FetchRequires.validate(path+".fetch-requires", fail)
		s.RefreshRequires.validate(path+".refresh-requires", fail)
	}
	check("defaults", f.Defaults)
	if a := f.Defaults.AtDeadline; a != nil && *a == DeadlineTerminate {
		fail("defaults.at-deadline", "cannot use terminate as defaults.at-deadline: processes are ended only for a package that is named under packages")
	}
	for key, s := range f.Packages {
		path := "packages." + key
		if err := manifest.ValidInstance(key); err != nil {
			fail(path, "cannot use %.80q under packages: it is no package and no instance", key)
		}
		check(path, s)
	}
	if c := f.Schedule.Check; c != nil && *c != 0 {
		span("schedule.check", c, MinCheck, MaxCheck)
	}
	if n := f.Schedule.Failures; n != nil && *n != 0 {
		span("schedule.failure-notice", n, MinFailureNotice, MaxFailureNotice)
	}
	f.Schedule.validate(fail)
	f.Network.validate(fail)
	if k := f.GC.KeepRecent; k != nil && *k != 0 {
		span("gc.keep-recent", k, time.Minute, MaxKeepRecent)
	}
	if r := f.GC.Reserve; r != nil && *r > MaxReserve {
		fail("gc.reserve", "cannot use %s as gc.reserve: want at most %s", r, strictyaml.Size(MaxReserve))
	}
	if path := f.Metrics.Textfile; path != nil && *path != "" {
		if base := filepath.Base(*path); !filepath.IsAbs(*path) || filepath.Clean(*path) != *path || !strings.HasSuffix(base, textfileSuffix) || strings.HasPrefix(base, ".") {
			fail("metrics.textfile", "cannot use %.200q as metrics.textfile: want an absolute path without .. and //, to a file whose name ends in %s", *path, textfileSuffix)
		}
	}
	return bad
}

// textfileSuffix is the suffix that the textfile collector of the node exporter reads.
const textfileSuffix = ".prom"

func (n *network) validate(fail func(path, format string, args ...any)) {
	if b := n.Bandwidth; b != nil && *b != 0 && (*b < MinBandwidth || *b > MaxBandwidth) {
		fail("network.bandwidth", "cannot use %s as network.bandwidth: want 0, or %s to %s", b, strictyaml.Size(MinBandwidth), strictyaml.Size(MaxBandwidth))
	}
	if b := n.Notice; b != nil && *b != 0 && (*b < MinDownloadNotice || *b > MaxDownloadNotice) {
		fail("network.download-notice", "cannot use %s as network.download-notice: want 0, or %s to %s", b, strictyaml.Size(MinDownloadNotice), strictyaml.Size(MaxDownloadNotice))
	}
	if len(n.Windows) > MaxWindows {
		fail("network.bandwidth-windows", "cannot use %d network.bandwidth-windows: want at most %d", len(n.Windows), MaxWindows)
	}
	if n.Proxy != nil && *n.Proxy != "" {
		u, err := url.Parse(*n.Proxy)
		switch {
		case err == nil && u.User != nil:
			fail("network.proxy", "cannot use network.proxy with a user name: every user can read the policy; use HTTPS_PROXY in /etc/lull/environment")
		case err != nil || !slices.Contains(proxySchemes, u.Scheme) || u.Hostname() == "" || strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			fail("network.proxy", "cannot use this network.proxy: want an address like http://proxy.example.org:3128, with %s", printable.List(proxySchemes, "or"))
		}
	}
	if len(n.NoProxy) > MaxNoProxy {
		fail("network.no-proxy", "cannot use %d entries of network.no-proxy: want at most %d", len(n.NoProxy), MaxNoProxy)
	}
	for i, host := range n.NoProxy {
		if host == "" || len(host) > 255 || strings.ContainsAny(host, ", \t\n") || strings.Contains(host, "://") {
			path := fmt.Sprintf("network.no-proxy[%d]", i)
			fail(path, "cannot use %.80q as %s: want a host, a domain, an address or a network such as 10.0.0.0/8", host, path)
		}
	}
}

func (s *schedule) validate(fail func(path, format string, args ...any)) {
	if len(s.Windows) > MaxWindows {
		fail("schedule.windows", "cannot use %d schedule.windows: want at most %d", len(s.Windows), MaxWindows)
	}
	if len(s.Reminders) > MaxReminders {
		fail("schedule.reminders", "cannot use %d schedule.reminders: want at most %d", len(s.Reminders), MaxReminders)
	}
	for i, r := range s.Reminders {
		path := fmt.Sprintf("schedule.reminders[%d]", i)
		switch {
		case r == 0 || time.Duration(r) > MaxPostponement:
			fail(path, "cannot use %s as %s: want 1s to %s", r, path, strictyaml.Duration(MaxPostponement))
		case i > 0 && r >= s.Reminders[i-1]:
			fail(path, "cannot use %s as %s: reminders are written from the longest to the shortest", r, path)
		}
	}
}

// word reads one of a few words.
func word[T ~string](into *T, b []byte, words ...T) error {
	for _, w := range words {
		if T(b) == w {
			*into = w
			return nil
		}
	}
	return errors.New("want " + printable.List(words, "or"))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Mode) UnmarshalText(b []byte) error {
	if string(b) == "ignore-running" {
		b = []byte(ModeEndure)
	}
	return word(m, b, ModeWait, ModeSideBySide, ModeEndure)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Pending) UnmarshalText(b []byte) error { return word(p, b, PendingAllow, PendingBlock) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Deadline) UnmarshalText(b []byte) error {
	return word(d, b, DeadlineKeepWaiting, DeadlineSideBySide, DeadlineTerminate)
}

// Watermark is an amount of free space: a share of the file system, or bytes.
// The zero value is nothing at all.
type Watermark struct {
	Percent int   // of the file system's size; 0 where Bytes counts
	Bytes   int64 // 0 where Percent counts
}

// Of returns the watermark of a file system of total bytes, in bytes. It never
// overflows and is never below 0.
func (w Watermark) Of(total int64) int64 {
	if w.Percent == 0 {
		return max(w.Bytes, 0)
	}
	hi, lo := bits.Mul64(uint64(max(total, 0)), uint64(max(w.Percent, 0)))
	if hi >= 100 {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, 100)
	return int64(min(q, math.MaxInt64))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Watermark) UnmarshalText(b []byte) error {
	if p, ok := strings.CutSuffix(string(b), "%"); ok {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || n > 90 {
			return errors.New("want 0% to 90%")
		}
		*w = Watermark{Percent: int(n)}
		return nil
	}
	n, err := strictyaml.ParseSize(string(b))
	if err != nil {
		return errors.New("want a share such as 5%, or a size such as 2GiB")
	}
	*w = Watermark{Bytes: n}
	return nil
}

// Want describes the spelling.
func (Watermark) Want() string { return "a share such as 5%, or a size such as 2GiB" }

func (w Watermark) String() string {
	if w.Percent > 0 {
		return strconv.Itoa(w.Percent) + "%"
	}
	return strictyaml.Size(w.Bytes).String()
}
