// Package manifest is the manifest of a package: its one Go form, its one JSON form.
//
// Words: a meta describes a package; its SHA-256 is the package's hash. Launch
// is the part that is needed to run the package, without the entries. An entry
// is a file, directory or symlink of the package's tree. The canonical form of a
// manifest is JSON without insignificant space, keys in byte order, zero values
// left out, strings escaped by RFC 8785, entries in byte order of their
// paths. Only that form is accepted: one manifest has one hash.
//
// A manifest, and so a package, cannot have owners, devices,
// set-user-id bits, paths or symlinks that leave the package.
//
// Everything here is a pure value or function and safe for concurrent use; a
// *Meta is not changed by any method. The decoder is the package's own, because it
// refuses what is not canonical, and the launcher's start does not set up another one.
package manifest

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// MaxSize bounds the bytes of a meta, which is read into memory as a whole.
const MaxSize = 256 << 20

// Reserved is the directory in a package's tree that belongs to the store.
const Reserved = ".lull"

// The types of an entry.
const (
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
)

// The scopes and refresh modes of a service: empty means the first. And how a service
// reports that it is ready: empty means that it does not.
const (
	ScopeSystem = "system"
	ScopeUser   = "user"
	ModeRestart = "restart"
	ModeEndure  = "endure"

	ReadyNotify = "notify"
)

// The hooks that a package may have. In a package of the first format, refresh-pending has
// the meaning of quit.
const (
	HookRefreshPending = "refresh-pending"
	HookQuit           = "quit"
	HookPreRefresh     = "pre-refresh"
	HookPostRefresh    = "post-refresh"
	HookHealth         = "health"
)

// The further hooks of an update of the system.
const (
	HookActivate = "activate"
	HookBooted   = "booted"
	HookCommit   = "commit"
	HookRollback = "rollback"
)

// IsSystemHook reports whether only an update of the system can have a hook.
func IsSystemHook(hook string) bool {
	switch hook {
	case HookActivate, HookBooted, HookCommit, HookRollback:
		return true
	}
	return false
}

// Format2 is the format in which a refresh-pending hook runs when a refresh becomes pending.
// Packages of the first format have no format in their manifest.
const Format2 = 2

// Meta is the manifest of a package.
type Meta struct {
	Launch  `yaml:",inline"`
	Entries []Entry `json:"entries,omitempty" yaml:"entries,omitempty"`
}

// Launch is a meta without its entries.
type Launch struct {
	Name        string                   `json:"name" yaml:"name"`
	Version     string                   `json:"version" yaml:"version"`
	Title       string                   `json:"title,omitempty" yaml:"title,omitempty"` // the name shown to people
	Summary     string                   `json:"summary,omitempty" yaml:"summary,omitempty"`
	License     string                   `json:"license,omitempty" yaml:"license,omitempty"`       // an SPDX expression, or another short name
	Notes       string                   `json:"notes,omitempty" yaml:"notes,omitempty"`           // what is new
	NeedsLull   string                   `json:"needs-lull,omitempty" yaml:"needs-lull,omitempty"` // the least version of lull, as 1.2
	Icon        string                   `json:"icon,omitempty" yaml:"icon,omitempty"`             // a theme's name or a path in the package
	Format      int                      `json:"format,omitempty" yaml:"format,omitempty"`         // 0 or Format2
	Apps        []App                    `json:"apps,omitempty" yaml:"apps,omitempty"`
	Services    []Service                `json:"services,omitempty" yaml:"services,omitempty"`
	Hooks       map[string][]string      `json:"hooks,omitempty" yaml:"hooks,omitempty"`             // hook → command
	Environment map[string]Variable      `json:"environment,omitempty" yaml:"environment,omitempty"` // name → variable, of all programs
	Layout      map[string]string        `json:"layout,omitempty" yaml:"layout,omitempty"`           // path on the host → path in the package
	Root        string                   `json:"root,omitempty" yaml:"root,omitempty"`               // subpackage whose files programs find at /, or RootSelf; "" means the host's
	Data        Data                     `json:"data,omitzero" yaml:"data,omitempty"`
	Refresh     Wishes                   `json:"refresh,omitzero" yaml:"refresh,omitempty"`
	Subpackages map[string]digest.Digest `json:"subpackages,omitempty" yaml:"subpackages,omitempty"`
}

// App is a program that a user starts. Command[0] is a path in the package.
type App struct {
	Name        string   `json:"name" yaml:"name"`
	Command     []string `json:"command" yaml:"command"`
	Desktop     string   `json:"desktop,omitempty" yaml:"desktop,omitempty"`     // path of the desktop file in the package
	Autostart   string   `json:"autostart,omitempty" yaml:"autostart,omitempty"` // path of the desktop file that is started at log-in
	DBusName    string   `json:"dbus-name,omitempty" yaml:"dbus-name,omitempty"`
	DBusService string   `json:"dbus-service,omitempty" yaml:"dbus-service,omitempty"` // path of the D-Bus service file that starts DBusName
}

// Service is a program that runs in the background.
type Service struct {
	Name        string   `json:"name" yaml:"name"`
	Scope       string   `json:"scope,omitempty" yaml:"scope,omitempty"`
	Command     []string `json:"command" yaml:"command"`
	RefreshMode string   `json:"refresh-mode,omitempty" yaml:"refresh-mode,omitempty"`
	Ready       string   `json:"ready,omitempty" yaml:"ready,omitempty"`
	StopSignal  string   `json:"stop-signal,omitempty" yaml:"stop-signal,omitempty"`
	StopTimeout Duration `json:"stop-timeout,omitzero" yaml:"stop-timeout,omitempty"`
	User        string   `json:"user,omitempty" yaml:"user,omitempty"` // of a system service; empty: root
}

// The modes that a package may wish for, and what it may wish a launch to do while a
// refresh waits. They are spelled as in the policy.
const (
	WishWait       = "wait"
	WishSideBySide = "side-by-side"
	WishEndure     = "endure"
	WishAllow      = "allow"
	WishBlock      = "block"
)

// MaxWish bounds the postponement that a package may wish for.
const MaxWish = 90 * 24 * time.Hour

// Wishes are what a package asks of the policy for its own refreshes. They count where the
// administrator has decided nothing. Empty fields are no wish.
type Wishes struct {
	Mode            string   `json:"mode,omitempty" yaml:"mode,omitempty"`
	RefreshPending  string   `json:"refresh-pending,omitempty" yaml:"refresh-pending,omitempty"`
	MaxPostponement Duration `json:"max-postponement,omitzero" yaml:"max-postponement,omitempty"`
}

// Entry is a file, directory or symlink in the package's tree.
type Entry struct {
	Path    string        `json:"path" yaml:"path"`
	Type    string        `json:"type,omitempty" yaml:"type,omitempty"` // left out in JSON for files
	Blob    digest.Digest `json:"blob,omitzero" yaml:"blob,omitempty"`
	Size    int64         `json:"size,omitempty" yaml:"size,omitempty"`
	Exec    bool          `json:"exec,omitempty" yaml:"exec,omitempty"`
	Symlink string        `json:"symlink,omitempty" yaml:"symlink,omitempty"` // target
}

// IsFile reports whether the entry is a regular file.
func (e *Entry) IsFile() bool { return e.Type == "" || e.Type == TypeFile }

// Duration is a time.Duration that is written as text, as "10s".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return errkind.New(errkind.Invalid, "cannot use %.40q as a length of time: want something like \"10s\" or \"1m30s\"", b)
	}
	*d = Duration(v)
	return nil
}

// Shown is the name to show to people.
func (l *Launch) Shown() string {
	if l.Title != "" {
		return l.Title
	}
	return l.Name
}

// App returns the app of that name, or nil.
func (l *Launch) App(name string) *App {
	for i := range l.Apps {
		if l.Apps[i].Name == name {
			return &l.Apps[i]
		}
	}
	return nil
}

// DefaultApp is the name of the app that is started where none is named: the one that
// has the package's name, or the first. It is "" for a package without apps.
func (l *Launch) DefaultApp() string {
	if l.App(l.Name) != nil {
		return l.Name
	}
	if len(l.Apps) == 0 {
		return ""
	}
	return l.Apps[0].Name
}

// Service returns the service of that name, or nil.
func (l *Launch) Service(name string) *Service {
	for i := range l.Services {
		if l.Services[i].Name == name {
			return &l.Services[i]
		}
	}
	return nil
}

// Blob is content that a package needs.
type Blob struct {
	Digest digest.Digest
	Size   int64
	Exec   bool
}

// Blobs lists the content of the package itself, sorted by digest (the
// executable form second), each once. Neither the meta nor the subpackages are
// among it.
func (m *Meta) Blobs() []Blob {
	blobs := make([]Blob, 0, len(m.Entries))
	for i := range m.Entries {
		if e := &m.Entries[i]; e.IsFile() {
			blobs = append(blobs, Blob{e.Blob, e.Size, e.Exec})
		}
	}
	slices.SortFunc(blobs, func(a, b Blob) int {
		switch c := a.Digest.Compare(b.Digest); {
		case c != 0:
			return c
		case a.Exec == b.Exec:
			return 0
		case b.Exec:
			return -1
		}
		return 1
	})
	return slices.Compact(blobs)
}

// SessionHook returns the command of a hook that runs in a user's session, quit or
// refresh-pending, or nil if the package has none. In a package of the first format the
// refresh-pending hook asks the application to quit: it is returned for both, because
// helpers of earlier versions call it by its own name.
func (l *Launch) SessionHook(hook string) []string {
	command := l.Hooks[hook]
	if hook == HookQuit && command == nil && l.Format < Format2 {
		command = l.Hooks[HookRefreshPending]
	}
	return command
}

// HasPendingHook reports whether the package has a hook that runs when a refresh becomes
// pending.
func (l *Launch) HasPendingHook() bool {
	return l.Format >= Format2 && l.Hooks[HookRefreshPending] != nil
}

// BackgroundApps names the applications that no person starts: they start at log-in or by
// their name on the session bus, and have no menu entry.
func (l *Launch) BackgroundApps() (names []string) {
	for _, a := range l.Apps {
		if a.Desktop == "" && (a.Autostart != "" || a.DBusService != "") {
			names = append(names, a.Name)
		}
	}
	return names
}
