// Package policy is what the administrator has decided about refreshes: how
// long they wait, what happens when they have waited enough, what is kept, when
// the disk is cleaned.
//
// A Policy is merged from layers: the defaults that are compiled in
// (defaults.yaml, which documents every key), the policy file, and the drop-ins
// in the order of their names. A later layer overrides single keys. An entry
// under "packages" beats "defaults" regardless of their files, and one for
// an instance beats one for the package's name.
//
// A Policy never changes once loaded; any goroutine may read it. To reload is to
// load another one: when that fails the old one stays.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/policy/strictyaml"
)

// Mode is how a package's refresh treats running applications.
type Mode string

// The modes. "ignore-running" is another spelling of ModeEndure.
const (
	ModeWait       Mode = "wait"
	ModeSideBySide Mode = "side-by-side"
	ModeEndure     Mode = "endure"
)

// Pending is what a launch does while a refresh waits.
type Pending string

// The behaviors of a launch.
const (
	PendingAllow Pending = "allow"
	PendingBlock Pending = "block"
)

// Deadline is what happens when a refresh has been put off long enough.
type Deadline string

// The actions at the deadline. Terminate never is a default.
const (
	DeadlineKeepWaiting Deadline = "keep-waiting"
	DeadlineSideBySide  Deadline = "side-by-side"
	DeadlineTerminate   Deadline = "terminate"
)

// Settings are what holds for one instance.
type Settings struct {
	Mode             Mode
	RefreshPending   Pending
	RefreshAwareness bool          // false means refresh regardless of running applications
	MaxPostponement  time.Duration // per revision, in wall-clock time
	AtDeadline       Deadline
	KeepRevisions    int // 1 or more, the current one included
	AllowUntracked   bool
	AutoRefresh      bool
	HookTimeLimit    time.Duration
	UserHold         time.Duration // how long users may hold a revision; 0 means not at all
	UserHoldSecurity bool          // whether that goes for security updates too
	FetchRequires    Conditions    // before a revision is fetched by itself
	RefreshRequires  Conditions    // before it replaces the current one by itself
	SecurityRequires bool          // whether these go for security updates too
	PackageWishes    bool          // whether the package's wishes count
	// RestartBackground: background programs are restarted while the session is not used.
	RestartBackground bool
}

// Schedule has the times of automatic actions.
type Schedule struct {
	Check     time.Duration   // between two checks of the repositories; 0 means never
	Failures  time.Duration   // after which a user is notified of what fails; 0 means never
	Reminders []time.Duration // before the deadline, longest first
	Windows   Windows         // of maintenance
}

// Network bounds the transfers of the agent.
type Network struct {
	Bandwidth int64   // bytes per second, of all transfers together; 0 means no limit
	Windows   Windows // when Bandwidth holds; none means always
	Requests  bool    // whether it also holds for transfers that a user has requested
	Notice    int64   // bytes from which on a user is notified before they are fetched; 0 means never
	Proxy     Proxy
}

// Proxy is the proxy for repositories.
type Proxy struct {
	URL    string   // http, https or socks5; empty means those of the environment
	Except []string // hosts, domains, addresses and networks without it
	Origin string   // of URL: "FILE:LINE"
}

// Limit returns the bandwidth that holds at a time, in bytes per second, for transfers that a
// user has requested, or for others. 0 means no limit.
func (n Network) Limit(now time.Time, requested bool) int64 {
	if requested && !n.Requests {
		return 0
	}
	if len(n.Windows) > 0 {
		if open, _ := n.Windows.At(now); !open {
			return 0
		}
	}
	return n.Bandwidth
}

// GC is when the collector runs by itself, and the space that is kept free for it.
type GC struct {
	Watermark    Watermark
	Reserve      int64 // bytes
	AfterRefresh bool
	KeepRecent   time.Duration // 0 means that a package may be removed as soon as it is not open
}

// Inhibit limits the inhibitor locks.
type Inhibit struct {
	Block bool
}

// Metrics is the output of figures for Prometheus.
type Metrics struct {
	Textfile string // absolute path; empty means nowhere
}

// Policy is one merged policy.
type Policy struct {
	Schedule Schedule
	Network  Network
	GC       GC
	Inhibit  Inhibit
	Metrics  Metrics

	defaults settings
	packages map[string]settings
	origins  map[string]string // key path → "FILE:LINE", or builtIn
}

// For returns what holds for an instance whose package wishes for nothing.
func (p *Policy) For(instance string) Settings { return p.With(instance, manifest.Wishes{}) }

// With returns what holds for an instance whose package has wishes. A wish counts where
// the administrator's files do not set its key, in "defaults" or under "packages", unless
// package-wishes is false.
func (p *Policy) With(instance string, wishes manifest.Wishes) Settings {
	s := p.merged(instance)
	p.grant(&s, instance, wishes)
	return Settings{
		Mode: *s.Mode, RefreshPending: *s.RefreshPending, RefreshAwareness: *s.RefreshAwareness,
		MaxPostponement: time.Duration(*s.MaxPostponement), AtDeadline: *s.AtDeadline,
		KeepRevisions: *s.KeepRevisions, AllowUntracked: *s.AllowUntracked,
		AutoRefresh: *s.AutoRefresh, HookTimeLimit: time.Duration(*s.HookTimeLimit),
		UserHold: time.Duration(*s.UserHold), UserHoldSecurity: *s.UserHoldSecurity,
		FetchRequires: s.FetchRequires, RefreshRequires: s.RefreshRequires, SecurityRequires: *s.SecurityRequires,
		PackageWishes: *s.PackageWishes, RestartBackground: *s.RestartBackground,
	}
}

func (p *Policy) merged(instance string) settings {
	s := p.defaults
	for _, key := range sections(instance) {
		overlay(&s, p.packages[key], nil)
	}
	return s
}

// grant lays the wishes that count over s, and returns their keys.
func (p *Policy) grant(s *settings, instance string, w manifest.Wishes) (granted []string) {
	if !*s.PackageWishes || w == (manifest.Wishes{}) {
		return nil
	}
	asked := wished(w)
	for key := range asked.all() {
		if p.origin(instance, key) != builtIn {
			asked.unset(key)
			continue
		}
		granted = append(granted, key)
	}
	overlay(s, asked, nil)
	return granted
}

// wished returns wishes as settings.
func wished(w manifest.Wishes) (s settings) {
	if w.Mode != "" {
		s.Mode = new(Mode(w.Mode))
	}
	if w.RefreshPending != "" {
		s.RefreshPending = new(Pending(w.RefreshPending))
	}
	if w.MaxPostponement != 0 {
		s.MaxPostponement = new(strictyaml.Duration(w.MaxPostponement))
	}
	return s
}

// origin returns where the value of a key for an instance comes from.
func (p *Policy) origin(instance, key string) string {
	origin := p.origins["defaults."+key]
	for _, section := range sections(instance) {
		if o, ok := p.origins["packages."+section+"."+key]; ok {
			origin = o
		}
	}
	return origin
}

// Instances returns the names and instances that have an entry of their own,
// with what holds for each.
func (p *Policy) Instances() map[string]Settings {
	m := make(map[string]Settings, len(p.packages))
	for key := range p.packages {
		m[key] = p.For(key)
	}
	return m
}

// Value is one key of the merged policy and where it comes from.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "FILE:LINE", "built in" or OfPackage
	// Wish is the value that the package wishes for, if another one holds.
	Wish string `json:"wish,omitempty"`
}

// OfPackage is the origin of a value that the package has wished for.
const OfPackage = "wish of the package"

// Explain lists what holds for an instance whose package has these wishes, or in general
// when instance is "", with the file and line that decided each value.
func (p *Policy) Explain(instance string, wishes manifest.Wishes) []Value {
	s := p.merged(instance)
	granted := p.grant(&s, instance, wishes)
	asked := wished(wishes)
	wish := maps.Collect(asked.all())
	var out []Value
	for key, v := range s.all() {
		origin := p.origin(instance, key)
		if slices.Contains(granted, key) {
			origin = OfPackage
		}
		value := Value{Key: key, Value: v, Origin: origin}
		if w, ok := wish[key]; ok && w != v {
			value.Wish = w
		}
		out = append(out, value)
	}
	if instance != "" {
		return out
	}
	add := func(key string, v any) {
		out = append(out, Value{Key: key, Value: fmt.Sprint(v), Origin: p.origins[key]})
	}
	add("schedule.check", strictyaml.Duration(p.Schedule.Check))
	add("schedule.failure-notice", strictyaml.Duration(p.Schedule.Failures))
	reminders := make([]strictyaml.Duration, len(p.Schedule.Reminders))
	for i, r := range p.Schedule.Reminders {
		reminders[i] = strictyaml.Duration(r)
	}
	add("schedule.reminders", reminders)
	add("schedule.windows", p.Schedule.Windows)
	add("network.bandwidth", strictyaml.Size(p.Network.Bandwidth))
	add("network.bandwidth-windows", p.Network.Windows)
	add("network.bandwidth-requests", p.Network.Requests)
	add("network.download-notice", strictyaml.Size(p.Network.Notice))
	add("network.proxy", p.Network.Proxy.URL)
	add("network.no-proxy", p.Network.Proxy.Except)
	add("gc.watermark", p.GC.Watermark)
	add("gc.reserve", strictyaml.Size(p.GC.Reserve))
	add("gc.after-refresh", p.GC.AfterRefresh)
	add("gc.keep-recent", strictyaml.Duration(p.GC.KeepRecent))
	add("inhibit.block", p.Inhibit.Block)
	add("metrics.textfile", p.Metrics.Textfile)
	return out
}
