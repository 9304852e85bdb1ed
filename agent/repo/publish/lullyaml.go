package publish

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/policy/strictyaml"
)

// SourceFile is the file that makes a directory a package source.
const SourceFile = "lull.yaml"

// source is a lull.yaml: the manifest in the form that people write.
type source struct {
	Format      int                 `yaml:"format"`
	Name        string              `yaml:"name"`
	Version     string              `yaml:"version"`
	Title       string              `yaml:"title"`
	Summary     string              `yaml:"summary"`
	Icon        string              `yaml:"icon"`
	License     string              `yaml:"license"`
	Notes       string              `yaml:"notes"`
	NeedsLull   string              `yaml:"needs-lull"`
	Apps        []app               `yaml:"apps"`
	Services    []service           `yaml:"services"`
	Hooks       map[string]command  `yaml:"hooks"`
	Environment map[string]variable `yaml:"environment"`
	Layout      map[string]string   `yaml:"layout"`
	Root        string              `yaml:"root"`
	Data        data                `yaml:"data"`
	Refresh     wishes              `yaml:"refresh"`
	Subpackages map[string]string   `yaml:"subpackages"` // references, see reference.go
}

type app struct {
	Name        string  `yaml:"name"`
	Command     command `yaml:"command"`
	Desktop     string  `yaml:"desktop"`
	Autostart   string  `yaml:"autostart"`
	DBusName    string  `yaml:"dbus-name"`
	DBusService string  `yaml:"dbus-service"`
}

type service struct {
	Name        string              `yaml:"name"`
	Scope       string              `yaml:"scope"`
	Command     command             `yaml:"command"`
	RefreshMode string              `yaml:"refresh-mode"`
	Ready       string              `yaml:"ready"`
	StopSignal  string              `yaml:"stop-signal"`
	StopTimeout strictyaml.Duration `yaml:"stop-timeout"`
	User        string              `yaml:"user"`
}

type wishes struct {
	Mode            string              `yaml:"mode"`
	RefreshPending  string              `yaml:"refresh-pending-behavior"`
	OldPending      string              `yaml:"refresh-pending"` // its former name
	MaxPostponement strictyaml.Duration `yaml:"max-postponement"`
}

// variable is a value, or has elements that are added to a list.
type variable manifest.Variable

// UnmarshalYAML implements strictyaml.Unmarshaler.
func (v *variable) UnmarshalYAML(decode func(any) error) error {
	if decode(&v.Value) == nil {
		return nil
	}
	var lists struct {
		Prepend elements `yaml:"prepend"`
		Append  elements `yaml:"append"`
	}
	err := decode(&lists)
	v.Prepend, v.Append = lists.Prepend, lists.Append
	return err
}

// elements are a list, or one element.
type elements []string

// UnmarshalYAML implements strictyaml.Unmarshaler.
func (e *elements) UnmarshalYAML(decode func(any) error) error {
	var one string
	if decode(&one) == nil {
		*e = elements{one}
		return nil
	}
	return decode((*[]string)(e))
}

// data is versioned by default. The word xdg stands for {xdg: true}.
type data struct {
	Versioned *bool    `yaml:"versioned"`
	XDG       bool     `yaml:"xdg"`
	Import    []string `yaml:"import"` // nil means the default
}

// UnmarshalYAML implements strictyaml.Unmarshaler.
func (d *data) UnmarshalYAML(decode func(any) error) error {
	var word string
	if decode(&word) == nil {
		if word != "xdg" {
			return errkind.Errorf("%.40q is unknown: want xdg, or keys", word)
		}
		*d = data{XDG: true}
		return nil
	}
	type keys data
	var k keys
	err := decode(&k)
	*d = data(k)
	return err
}

// command is a list of words, or a string that is split into words at spaces, with a shell's
// quotes and none of its other syntax.
type command []string

// UnmarshalYAML implements strictyaml.Unmarshaler.
func (c *command) UnmarshalYAML(decode func(any) error) error {
	var line string
	if decode(&line) == nil {
		words, err := split(line)
		*c = words
		return err
	}
	var words []string
	err := decode(&words)
	*c = words
	return err
}

const errShell = errkind.Fixed("a shell would be needed for it; write a list of words, or a script")

func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == '"' && strings.ContainsRune("$`\\", r), quote == 0 && strings.ContainsRune("$`\\|&;<>()*?~#", r):
			return nil, errShell
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case unicode.IsSpace(r):
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errkind.Errorf("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errkind.Errorf("it is empty")
	}
	return words, nil
}

// Describe reads the lull.yaml of the package source srcDir and an overlay, as Publish
// does. Error Invalid: they cannot be used.
func Describe(srcDir, overlay string) (*manifest.Launch, error) {
	path := filepath.Join(srcDir, SourceFile)
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := parseSource(path, content, overlay)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "%w", err)
	}
	return &d.Launch, nil
}

// description is what a lull.yaml describes. The manifest gets its subpackages later, when
// the references are resolved.
type description struct {
	*manifest.Meta
	references map[string]reference // by the name of the subpackage
}

// parseSource reads a lull.yaml; name is for messages. Keys of the overlay, a file of the
// same form or "", replace those of the lull.yaml.
func parseSource(name string, content []byte, overlay string) (*description, error) {
	var s source
	doc, err := strictyaml.Parse(name, content)
	if err == nil {
		err = doc.Decode(&s)
	}
	if err != nil {
		return nil, err
	}
	if overlay != "" {
		if content, err = os.ReadFile(overlay); err != nil {
			return nil, err
		}
		if doc, err = strictyaml.Parse(overlay, content); err == nil {
			err = doc.Decode(&s)
		}
		if err != nil {
			return nil, err
		}
	}
	if s.Name == "" || s.Version == "" {
		return nil, doc.Errorf("name", "cannot publish without name and version")
	}
	if err := manifest.ValidName(s.Name); err != nil {
		return nil, doc.Errorf("name", "%s", err)
	}
	if s.Refresh.OldPending != "" {
		if s.Refresh.RefreshPending != "" {
			return nil, doc.Errorf("refresh.refresh-pending", "cannot use refresh.refresh-pending: it is the former name of refresh-pending-behavior, which is set, too")
		}
		s.Refresh.RefreshPending = s.Refresh.OldPending
	}
	switch {
	case s.Format < 0 || s.Format > manifest.Format2:
		return nil, doc.Errorf("format", "cannot use the format %d: want 1 or 2", s.Format)
	case s.Format < manifest.Format2 && s.Hooks[manifest.HookRefreshPending] != nil:
		return nil, doc.Errorf("hooks.refresh-pending", "cannot use the hook refresh-pending in the format 1: "+
			"name it quit if it asks the application to quit; with format: 2 it runs when a refresh becomes pending")
	case s.Format < manifest.Format2:
		s.Format = 0
	}
	if err := manifest.ValidNeeds(s.NeedsLull); err != nil {
		return nil, doc.Errorf("needs-lull", "cannot use %s", err)
	}
	m := &manifest.Meta{Launch: manifest.Launch{
		Format: s.Format, Name: s.Name, Version: s.Version, Title: s.Title, Summary: s.Summary, Icon: s.Icon, License: s.License,
		Notes: strings.TrimSpace(s.Notes), NeedsLull: s.NeedsLull, Root: s.Root,
		Data:    manifest.Data{Versioned: s.Data.Versioned == nil || *s.Data.Versioned, XDG: s.Data.XDG, Import: s.Data.Import},
		Refresh: manifest.Wishes{Mode: s.Refresh.Mode, RefreshPending: s.Refresh.RefreshPending, MaxPostponement: manifest.Duration(s.Refresh.MaxPostponement)},
	}}
	clean := func(c command) []string {
		if len(c) > 0 && !strings.HasPrefix(c[0], "/") {
			c[0] = filepath.Clean(c[0]) // people write ./bin/app
		}
		return c
	}
	for i, a := range s.Apps {
		if len(a.Command) == 0 {
			return nil, doc.Errorf(fmt.Sprintf("apps[%d]", i), "cannot use the app %q without a command", a.Name)
		}
		m.Apps = append(m.Apps, manifest.App{Name: a.Name, Command: clean(a.Command), Desktop: a.Desktop,
			Autostart: a.Autostart, DBusName: a.DBusName, DBusService: a.DBusService})
	}
	for i, v := range s.Services {
		if len(v.Command) == 0 {
			return nil, doc.Errorf(fmt.Sprintf("services[%d]", i), "cannot use the service %q without a command", v.Name)
		}
		m.Services = append(m.Services, manifest.Service{
			Name: v.Name, Scope: v.Scope, Command: clean(v.Command), RefreshMode: v.RefreshMode, Ready: v.Ready,
			StopSignal: v.StopSignal, StopTimeout: manifest.Duration(v.StopTimeout), User: v.User,
		})
	}
	for name, v := range s.Environment {
		if part, err := manifest.CheckVariable(name, manifest.Variable(v)); err != nil {
			return nil, doc.Errorf(strings.TrimSuffix("environment."+name+"."+part, "."), "cannot use the environment variable %s", err)
		}
		if m.Environment == nil {
			m.Environment = map[string]manifest.Variable{}
		}
		m.Environment[name] = manifest.Variable(v)
	}
	for at, part := range s.Layout {
		part = filepath.Clean(part)
		if err := manifest.CheckLayout(at, part); err != nil {
			return nil, doc.Errorf("layout."+at, "cannot use the layout %s", err)
		}
		if m.Layout == nil {
			m.Layout = map[string]string{}
		}
		m.Layout[at] = part
	}
	if !s.Data.XDG && len(s.Data.Import) > 0 {
		return nil, doc.Errorf("data.import", "cannot use data.import without xdg: true")
	}
	for i, p := range s.Data.Import {
		if err := manifest.CheckImport(p); err != nil {
			return nil, doc.Errorf(fmt.Sprintf("data.import[%d]", i), "cannot import %s", err)
		}
	}
	if s.Data.XDG && s.Data.Import == nil {
		m.Data.Import = manifest.DefaultImport(&m.Launch)
	}
	if _, known := s.Subpackages[s.Root]; s.Root != "" && s.Root != manifest.RootSelf && !known {
		return nil, doc.Errorf("root", "cannot use the root %.80q: want the name of a subpackage, or '.' for the package itself", s.Root)
	}
	for hook, c := range s.Hooks {
		if m.Hooks == nil {
			m.Hooks = map[string][]string{}
		}
		m.Hooks[hook] = clean(c)
	}
	d := &description{Meta: m, references: map[string]reference{}}
	variables := map[string]string{} // of subpackages
	for _, sub := range slices.Sorted(maps.Keys(s.Subpackages)) {
		err := manifest.ValidName(sub)
		variable := manifest.SubpackageVariable(sub)
		if other := variables[variable]; other != "" && err == nil {
			err = errkind.Errorf("its variable would be that of %s, %s", other, variable)
		}
		variables[variable] = sub
		var r reference
		if err == nil {
			r, err = parseReference(s.Subpackages[sub])
		}
		if err != nil {
			return nil, doc.Errorf("subpackages."+sub, "cannot use the subpackage %.80q: %s", sub, err)
		}
		d.references[sub] = r
	}
	return d, nil
}
