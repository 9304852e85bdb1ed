// Package meta is the manifest of a package: its one Go form, its one JSON form.
//
// Words: a meta describes a package; its SHA-256 is the package's hash. Launch
// is the part that is needed to run the package, without the entries. An entry
// is a file, folder or symlink of the package's tree. The canonical form of a
// meta is JSON without insignificant space, keys in byte order, zero values
// left out, strings escaped as RFC 8785 says, entries in byte order of their
// paths. Only that form is accepted: one meta has one hash.
//
// What cannot be written in a meta cannot be installed: owners, devices,
// set-user-id bits, paths or symlinks that leave the package.
//
// Everything here is a pure value or function and safe for concurrent use; a
// *Meta is not changed by any method. The package imports no JSON library,
// because the launcher links it and starts within a millisecond.
package meta

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
)

// MaxSize bounds the bytes of a meta, which is read into memory as a whole.
const MaxSize = 256 << 20

// Reserved is the folder in a package's tree that belongs to the store.
const Reserved = ".lull"

// The types of an entry.
const (
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
)

// The scopes and refresh modes of a service. Empty means the first.
const (
	ScopeSystem = "system"
	ScopeUser   = "user"
	ModeRestart = "restart"
	ModeEndure  = "endure"
)

// The hooks that a package may have.
const (
	HookRefreshPending = "refresh-pending"
	HookPreRefresh     = "pre-refresh"
	HookPostRefresh    = "post-refresh"
	HookHealth         = "health"
)

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
	Notes       string                   `json:"notes,omitempty" yaml:"notes,omitempty"` // what is new
	Icon        string                   `json:"icon,omitempty" yaml:"icon,omitempty"`   // a theme's name or a path in the package
	Apps        []App                    `json:"apps,omitempty" yaml:"apps,omitempty"`
	Services    []Service                `json:"services,omitempty" yaml:"services,omitempty"`
	Hooks       map[string][]string      `json:"hooks,omitempty" yaml:"hooks,omitempty"` // hook → command
	Data        Data                     `json:"data,omitzero" yaml:"data,omitempty"`
	Subpackages map[string]digest.Digest `json:"subpackages,omitempty" yaml:"subpackages,omitempty"`
}

// App is something that a user starts. Command[0] is a path in the package.
type App struct {
	Name     string   `json:"name" yaml:"name"`
	Command  []string `json:"command" yaml:"command"`
	Desktop  string   `json:"desktop,omitempty" yaml:"desktop,omitempty"` // path of the desktop file in the package
	DBusName string   `json:"dbus-name,omitempty" yaml:"dbus-name,omitempty"`
}

// Service is something that runs in the background.
type Service struct {
	Name        string   `json:"name" yaml:"name"`
	Scope       string   `json:"scope,omitempty" yaml:"scope,omitempty"`
	Command     []string `json:"command" yaml:"command"`
	RefreshMode string   `json:"refresh-mode,omitempty" yaml:"refresh-mode,omitempty"`
	StopSignal  string   `json:"stop-signal,omitempty" yaml:"stop-signal,omitempty"`
	StopTimeout Duration `json:"stop-timeout,omitzero" yaml:"stop-timeout,omitempty"`
	User        string   `json:"user,omitempty" yaml:"user,omitempty"` // of a system service; empty: root
}

// Data says how the package's data is kept.
type Data struct {
	Versioned bool `json:"versioned,omitempty" yaml:"versioned,omitempty"` // one folder per revision
}

// Entry is a file, folder or symlink in the package's tree.
type Entry struct {
	Path    string        `json:"path" yaml:"path"`
	Type    string        `json:"type,omitempty" yaml:"type,omitempty"` // left out in JSON for files
	Blob    digest.Digest `json:"blob,omitzero" yaml:"blob,omitempty"`
	Size    int64         `json:"size,omitempty" yaml:"size,omitempty"`
	Exec    bool          `json:"exec,omitempty" yaml:"exec,omitempty"`
	Symlink string        `json:"symlink,omitempty" yaml:"symlink,omitempty"` // target
}

// IsFile says whether the entry is a regular file.
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
		return problem.New(problem.Invalid, "cannot use %.40q as a length of time: want something like \"10s\" or \"1m30s\"", b)
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
