package publish

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/policy/strictyaml"
)

// SourceFile is the file that makes a folder a package source.
const SourceFile = "lull.yaml"

// source is a lull.yaml: a meta as people write it.
type source struct {
	Name        string                   `yaml:"name"`
	Version     string                   `yaml:"version"`
	Title       string                   `yaml:"title"`
	Summary     string                   `yaml:"summary"`
	Icon        string                   `yaml:"icon"`
	Notes       string                   `yaml:"notes"`
	Apps        []app                    `yaml:"apps"`
	Services    []service                `yaml:"services"`
	Hooks       map[string]command       `yaml:"hooks"`
	Data        data                     `yaml:"data"`
	Subpackages map[string]digest.Digest `yaml:"subpackages"`
}

type app struct {
	Name     string  `yaml:"name"`
	Command  command `yaml:"command"`
	Desktop  string  `yaml:"desktop"`
	DBusName string  `yaml:"dbus-name"`
}

type service struct {
	Name        string              `yaml:"name"`
	Scope       string              `yaml:"scope"`
	Command     command             `yaml:"command"`
	RefreshMode string              `yaml:"refresh-mode"`
	StopSignal  string              `yaml:"stop-signal"`
	StopTimeout strictyaml.Duration `yaml:"stop-timeout"`
	User        string              `yaml:"user"`
}

// data is versioned unless the package says otherwise.
type data struct {
	Versioned *bool `yaml:"versioned"`
}

// command is a list of words, or a string that is split into words at spaces,
// with quotes as in a shell and nothing else of a shell's.
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

var errShell = errors.New("a shell would be needed for it; write a list of words, or a script")

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
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	return words, nil
}

// parseSource reads a lull.yaml; name is for messages.
func parseSource(name string, content []byte) (*meta.Meta, error) {
	var s source
	doc, err := strictyaml.Parse(name, content)
	if err == nil {
		err = doc.Decode(&s)
	}
	if err != nil {
		return nil, err
	}
	if s.Name == "" || s.Version == "" {
		return nil, doc.Errorf("name", "cannot publish without name and version")
	}
	if err := meta.ValidName(s.Name); err != nil {
		return nil, doc.Errorf("name", "%s", err)
	}
	m := &meta.Meta{Launch: meta.Launch{
		Name: s.Name, Version: s.Version, Title: s.Title, Summary: s.Summary, Icon: s.Icon,
		Notes: strings.TrimSpace(s.Notes), Subpackages: s.Subpackages,
		Data: meta.Data{Versioned: s.Data.Versioned == nil || *s.Data.Versioned},
	}}
	clean := func(c command) []string {
		if len(c) > 0 && !strings.HasPrefix(c[0], "/") {
			c[0] = filepath.Clean(c[0]) // ./bin/app is how people write it
		}
		return c
	}
	for i, a := range s.Apps {
		if len(a.Command) == 0 {
			return nil, doc.Errorf(fmt.Sprintf("apps[%d]", i), "cannot use the app %q without a command", a.Name)
		}
		m.Apps = append(m.Apps, meta.App{Name: a.Name, Command: clean(a.Command), Desktop: a.Desktop, DBusName: a.DBusName})
	}
	for i, v := range s.Services {
		if len(v.Command) == 0 {
			return nil, doc.Errorf(fmt.Sprintf("services[%d]", i), "cannot use the service %q without a command", v.Name)
		}
		m.Services = append(m.Services, meta.Service{
			Name: v.Name, Scope: v.Scope, Command: clean(v.Command), RefreshMode: v.RefreshMode,
			StopSignal: v.StopSignal, StopTimeout: meta.Duration(v.StopTimeout), User: v.User,
		})
	}
	for hook, c := range s.Hooks {
		if m.Hooks == nil {
			m.Hooks = map[string][]string{}
		}
		m.Hooks[hook] = clean(c)
	}
	return m, nil
}
